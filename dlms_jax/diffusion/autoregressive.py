"""The autoregressive baseline: the same network with a causal mask, one exact likelihood."""

import dataclasses

import jax.numpy as jnp

from dlms_jax.config import Traits
from dlms_jax.config.traits import AUTOREGRESSIVE
from dlms_jax.diffusion.objective import Objective
from dlms_jax.diffusion.prompts import Prompts
from dlms_jax.diffusion.protocol import Batch, Corrupted, Denoiser, Loss, Nll
from dlms_jax.diffusion.shift import shifted


@dataclasses.dataclass(frozen=True)
class Autoregressive(Objective):
    """Position i predicts token i + 1, with a softmax over every exported token, as stock Qwen3.

    Nothing is corrupted: the network reads the clean text, at t = 0.
    """

    prompts: Prompts = Prompts()

    @property
    def traits(self) -> Traits:
        return AUTOREGRESSIVE

    @property
    def protocol(self) -> str:
        return "exact likelihood, one pass"

    def draw_times(self, batch, key):
        return jnp.zeros(batch.tokens_BxL.shape, jnp.float32)

    def corrupt(self, batch, t_BxL, key, denoise=None):
        hidden_BxL = jnp.zeros(batch.tokens_BxL.shape, bool)
        return Corrupted(batch.tokens_BxL, jnp.zeros_like(t_BxL), hidden_BxL)

    def loss(self, denoise, batch, key, step=0):
        """Returns -log p of the scored tokens, summed; only the prompts are random."""
        count = batch.num_scored
        batch = self.prompts(batch, key, self.vocabulary.mask_id)
        found = self._nll(denoise, batch, key)
        return Loss(found.total, count, {}, found.routers)

    def bound(self, denoise, batch, key, sample, num_samples):
        """Returns nats_BxL, the exact -log p of each token, equal for all samples."""
        return self._nll(denoise, batch, key).nll_BxL

    def _nll(self, denoise: Denoiser, batch: Batch, key) -> Nll:
        inputs_BxL, t_BxL, _ = self.corrupt(batch, self.draw_times(batch, key), key)
        return shifted(denoise).nll(
            inputs_BxL,
            t_BxL,
            batch.layout,
            batch.tokens_BxL,
            batch.weights_BxL,
            self.vocabulary.exported_bias_V(),
        )
