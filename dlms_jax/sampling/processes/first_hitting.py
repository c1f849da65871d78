"""Masked diffusion one token at a time, exactly: the first-hitting sampler (arXiv 2409.02908)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import State, begin, reveal, row_keys, row_uniform


@dataclasses.dataclass(frozen=True)
class FirstHitting:
    """Each step goes to the time at which the reverse process reveals the row's next token, and
    reveals one, chosen at random: the process itself, without the error of steps of a given length.

    With n tokens masked while the share of masks falls from m, each is revealed at a share uniform
    in (0, m), and the next at the greatest of these: m u^(1/n). There are as many steps as holes in
    the row that has most; the others finish earlier.
    """

    prediction: Prediction
    schedule: Schedule
    stop_at_eos: bool = True

    def num_steps(self, canvas: Canvas) -> int:
        return int(np.asarray(canvas.holes_BxL).sum(axis=1).max(initial=0))

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> State:
        """Returns the state at t=1; its `extra` is each row's share of masks, 1 - alpha(t)."""
        return begin(canvas, jnp.ones(canvas.tokens_BxL.shape[0]))

    def step(self, denoise: Denoiser, state: State, keys_B, i) -> State:
        tokens_BxL, vocabulary = state.tokens_BxL, self.prediction.vocabulary
        masked_BxL = state.holes_BxL & (tokens_BxL == vocabulary.mask_id)
        number_B = masked_BxL.sum(axis=1)
        which_B, when_B = row_uniform(keys_B, i, (2,), stream=0).T
        share_B = state.extra * (1 - when_B) ** (1 / jnp.maximum(number_B, 1))
        t_BxL = jnp.broadcast_to(self.schedule.time(share_B)[:, None], tokens_BxL.shape)
        log_p_BxLxV = self.prediction.log_p(denoise, tokens_BxL, t_BxL, state.layout)

        chosen_B = jnp.minimum((which_B * number_B).astype(jnp.int32), number_B - 1)
        chosen_BxL = masked_BxL & (jnp.cumsum(masked_BxL, axis=1) == chosen_B[:, None] + 1)
        place_Bx1x1 = jnp.argmax(chosen_BxL, axis=1)[:, None, None]
        log_p_Bx1xV = jnp.take_along_axis(log_p_BxLxV, place_Bx1x1, axis=1)
        drawn_Bx1 = jax.vmap(self.prediction.draw)(row_keys(keys_B, i, stream=1), log_p_Bx1xV)
        tokens_BxL = jnp.where(chosen_BxL, drawn_Bx1, tokens_BxL)
        return reveal(state, tokens_BxL, vocabulary, self.stop_at_eos, share_B)
