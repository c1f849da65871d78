"""The autoregressive baseline: the same network with a causal mask, one exact likelihood."""

import dataclasses

import jax.numpy as jnp

from dlms_jax.diffusion.prompts import Prompts
from dlms_jax.diffusion.protocol import Loss, Vocabulary
from dlms_jax.diffusion.shift import shifted


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """Position i predicts token i + 1; normalised over every exported symbol, as a stock Qwen3."""

    vocabulary: Vocabulary
    prompts: Prompts = Prompts()
    attention = "causal"
    exact = True
    protocol = "exact likelihood, one pass"

    def loss(self, denoise, batch, key, step=0):
        """Returns -log p of every scored token, summed; only what is given is random."""
        batch = self.prompts(batch, key, self.vocabulary.mask_id)
        total, _ = self._nll(denoise, batch)
        return Loss(total, {})

    def bound(self, denoise, batch, key, sample, num_samples):
        """Returns nats_BxL of the exact -log p, the same at every sample."""
        return self._nll(denoise, batch)[1]

    def _nll(self, denoise, batch):
        t_BxL = jnp.zeros(batch.tokens_BxL.shape, jnp.float32)
        return shifted(denoise).nll(
            batch.tokens_BxL, t_BxL, batch.layout, batch.tokens_BxL,
            batch.scored_BxL.astype(jnp.float32), self.vocabulary.exported_bias_V(),
        )  # fmt: skip
