"""The full reverse process of masked diffusion."""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import State, begin, reveal, row_keys, row_uniform
from dlms_jax.sampling.timesteps import Grid, times


@dataclasses.dataclass(frozen=True)
class Ancestral:
    """From all holes masked at t=1 to none at t=0 (MDLM, arXiv 2406.07524, eq. 6).

    A masked token is revealed, between t and s < t, with probability 1 - (1-alpha_s)/(1-alpha_t),
    and then drawn from the prediction. Whether and which are two draws: one Gumbel-max over both in
    float32 would lower the temperature (arXiv 2409.02908). Exact in the limit of many steps.
    """

    prediction: Prediction
    schedule: Schedule
    steps: int
    grid: Grid = "uniform"
    stop_at_eos: bool = True

    def num_steps(self, canvas: Canvas) -> int:
        return self.steps

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> State:
        return begin(canvas)

    def step(self, denoise: Denoiser, state: State, keys_B, i) -> State:
        tokens_BxL, vocabulary = state.tokens_BxL, self.prediction.vocabulary
        t, s = times(self.grid, self.schedule, self.steps, i)
        t_BxL = jnp.full(tokens_BxL.shape, t, jnp.float32)
        log_p_BxLxV = self.prediction.log_p(denoise, tokens_BxL, t_BxL, state.layout)
        # Exactly 1 at the last step, where 1 - alpha_s is 0, so that no mask remains; 1 - alpha_t
        # may be too small for float32.
        tiny = jnp.finfo(jnp.float32).tiny
        share = 1 - self.schedule.masked(s) / jnp.maximum(self.schedule.masked(t), tiny)
        revealed_BxL = row_uniform(keys_B, i, tokens_BxL.shape[1:], stream=0) < share
        drawn_BxL = jax.vmap(self.prediction.draw)(row_keys(keys_B, i, stream=1), log_p_BxLxV)
        revealed_BxL &= tokens_BxL == vocabulary.mask_id
        tokens_BxL = jnp.where(revealed_BxL, drawn_BxL, tokens_BxL)
        return reveal(state, tokens_BxL, vocabulary, self.stop_at_eos)
