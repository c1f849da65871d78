"""The autoregressive baseline: the same network with a causal mask, one exact likelihood."""

import dataclasses

import jax.numpy as jnp

from dlms_jax.diffusion.prompts import Prompts
from dlms_jax.diffusion.protocol import Loss, Vocabulary


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
        _, nll_BxL = self._nll(denoise, batch)
        return jnp.pad(nll_BxL[:, :-1], ((0, 0), (1, 0)))  # back onto the token that was predicted

    def _nll(self, denoise, batch):
        targets_BxL = _shift_left(batch.tokens_BxL)
        weights_BxL = _shift_left(batch.scored_BxL.astype(jnp.float32))
        t_BxL = jnp.zeros(targets_BxL.shape, jnp.float32)
        return denoise.nll(
            batch.tokens_BxL, t_BxL, batch.layout, targets_BxL, weights_BxL,
            self.vocabulary.exported_bias_V(),
        )  # fmt: skip


def _shift_left(x_BxL):
    """Returns x at the next position; 0 (never scored) at the last."""
    return jnp.pad(x_BxL[:, 1:], ((0, 0), (0, 1)))
