"""Masked diffusion in an order of the network's choice: what it is surest of is revealed first."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import State, begin, reveal, row_keys
from dlms_jax.sampling.timesteps import Grid, times

Order = Literal["confidence", "margin", "entropy"]


@dataclasses.dataclass(frozen=True)
class Ordered:
    """Each step reveals those masked tokens of a row that score highest (MaskGIT, arXiv 2202.04200;
    LLaDA, 2502.09992), of equals the first, so many that the schedule's number stays masked: the
    row's holes times 1 - alpha, rounded. With fewer holes than steps some steps reveal none.

    What a token would be is drawn first, then scored. The scores, all of the prediction after
    guidance but before temperature and cuts, are
    confidence: the probability of what was drawn;
    margin: how much likelier the likeliest symbol is than the next (arXiv 2502.06768);
    entropy: minus the entropy.

    One token a step, margin and entropy follow the chain rule in some order, and are exact;
    confidence prefers likely texts in any number of steps. At temperature 0 nothing is random.
    """

    prediction: Prediction
    schedule: Schedule
    steps: int
    order: Order = "confidence"
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
        log_p_BxLxV = self.prediction.guided(denoise, tokens_BxL, t_BxL, state.layout)
        drawn_BxL = jax.vmap(self.prediction.draw)(
            row_keys(keys_B, i, stream=0), self.prediction.cut(log_p_BxLxV)
        )
        masked_BxL = state.holes_BxL & (tokens_BxL == vocabulary.mask_id)
        remain_B = jnp.round(state.holes_BxL.sum(axis=1) * self.schedule.masked(s))
        number_B = masked_BxL.sum(axis=1) - remain_B.astype(jnp.int32)
        score_BxL = jnp.where(masked_BxL, self._score(log_p_BxLxV, drawn_BxL), -jnp.inf)
        chosen_BxL = masked_BxL & (_ranks(score_BxL) < number_B[:, None])
        tokens_BxL = jnp.where(chosen_BxL, drawn_BxL, tokens_BxL)
        return reveal(state, tokens_BxL, vocabulary, self.stop_at_eos)

    def _score(self, log_p_BxLxV, drawn_BxL):
        if self.order == "confidence":
            return jnp.take_along_axis(log_p_BxLxV, drawn_BxL[..., None], axis=-1)[..., 0]
        p_BxLxV = jnp.exp(log_p_BxLxV)
        if self.order == "margin":
            first_BxLx2, _ = jax.lax.top_k(p_BxLxV, 2)
            return first_BxLx2[..., 0] - first_BxLx2[..., 1]
        return jnp.sum(jnp.where(p_BxLxV > 0, p_BxLxV * log_p_BxLxV, 0.0), axis=-1)


def _ranks(score_BxL):
    """Returns each place's rank in its row, 0 for the highest score; of equals the first comes
    first."""
    order_BxL = jnp.argsort(-score_BxL, axis=1, stable=True)
    return jnp.argsort(order_BxL, axis=1)
