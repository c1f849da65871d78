"""The first-hitting sampler of masked diffusion: exact, one token per step (arXiv 2409.02908)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.diffusion import Denoiser
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.processes.masked import MaskedSampler, reveal
from dlms_jax.sampling.sampler import SamplerState, begin


@dataclasses.dataclass(frozen=True)
class FirstHitting(MaskedSampler):
    """Each step moves to the time at which the next token of the row is revealed.

    The token is chosen at random. Unlike steps of fixed length, this has no discretization error.
    With n masked tokens and a share m of masks, each token is revealed at a share that is uniform
    in (0, m). The next one is revealed at the largest of these shares, m u^(1/n) with u uniform in
    (0, 1). A row takes one step per hole.
    """

    stop_at_eos: bool = True

    def num_steps(self, canvas: Canvas) -> int:
        return int(np.asarray(canvas.holes_BxL).sum(axis=1).max(initial=0))

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> SamplerState:
        """Returns the state at t=1; its `extra` is each row's share of masks, 1 - alpha(t)."""
        return begin(canvas, keys_B, jnp.ones(canvas.tokens_BxL.shape[0]))

    def time(self, state: SamplerState) -> jax.Array:
        return self.schedule.time(self._next(state)[1])

    def update(self, state: SamplerState, logits_BxLxV, without_BxLxV=None) -> SamplerState:
        chosen_BxL, share_B = self._next(state)
        log_p_BxLxV = self.prediction.log_p(logits_BxLxV, without_BxLxV)
        place_Bx1x1 = jnp.argmax(chosen_BxL, axis=1)[:, None, None]
        log_p_Bx1xV = jnp.take_along_axis(log_p_BxLxV, place_Bx1x1, axis=1)
        drawn_Bx1 = self.draw(state, log_p_Bx1xV, stream=1)
        tokens_BxL = jnp.where(chosen_BxL, drawn_Bx1, state.tokens_BxL)
        return reveal(state, tokens_BxL, self.prediction, self.stop_at_eos, share_B)

    def _next(self, state):
        """Returns (chosen_BxL, share_B): each row's next token, and the share of masks there."""
        masked_BxL = self.masked(state)
        number_B = masked_BxL.sum(axis=1)
        which_B, when_B = self.uniform(state, 2).T
        share_B = state.extra * (1 - when_B) ** (1 / jnp.maximum(number_B, 1))
        rank_B = jnp.minimum((which_B * number_B).astype(jnp.int32), number_B - 1)
        return masked_BxL & (jnp.cumsum(masked_BxL, axis=1) == rank_B[:, None] + 1), share_B
