"""Masked diffusion that masks some of what it has written again, and so can mend it: ReMDM."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import State, begin, row_keys, row_uniform
from dlms_jax.sampling.timesteps import Grid, times

# alpha is 0 at t=1, and 1 - alpha may be too small for float32 near t=0.
_TINY = float(jnp.finfo(jnp.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Remasking:
    """The reverse process that masks a written token again with probability sigma (ReMDM, arXiv
    2503.00307). Between t and s, a masked one is revealed with probability
    1 - (1 - alpha_s - sigma alpha_t) / (1 - alpha_t); so, if all have the same sigma, the share of
    masks is that of the process without remasking. With limit = min(1, (1-alpha_s) / alpha_t):

    cap: sigma = min(eta, limit).
    rescale: sigma = eta limit.
    confidence: sigma = eta limit times a softmax, over the row's written holes, of minus the
        probability that each token had when it was written (after guidance, before temperature and
        cuts). Masked tokens are revealed as with sigma = 0, as in the paper.

    eta lies in 0..1; 0 is the process without remasking. Given tokens are never masked. limit is 0
    at the last step, so that no mask remains.
    """

    prediction: Prediction
    schedule: Schedule
    steps: int
    kind: Literal["cap", "rescale", "confidence"] = "cap"
    eta: float = 0.0
    grid: Grid = "uniform"

    def num_steps(self, canvas: Canvas) -> int:
        return self.steps

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> State:
        """Returns the state at t=1; its `extra` is the probability that each written token had."""
        return begin(canvas, jnp.zeros(canvas.tokens_BxL.shape))

    def step(self, denoise: Denoiser, state: State, keys_B, i) -> State:
        tokens_BxL, mask_id = state.tokens_BxL, self.prediction.vocabulary.mask_id
        t, s = times(self.grid, self.schedule, self.steps, i)
        t_BxL = jnp.full(tokens_BxL.shape, t, jnp.float32)
        log_p_BxLxV = self.prediction.guided(denoise, tokens_BxL, t_BxL, state.layout)
        drawn_BxL = jax.vmap(self.prediction.draw)(
            row_keys(keys_B, i, stream=1), self.prediction.cut(log_p_BxLxV)
        )
        masked_BxL = state.holes_BxL & (tokens_BxL == mask_id)
        written_BxL = state.holes_BxL & (tokens_BxL != mask_id)
        sigma_BxL = self._sigma(t, s, written_BxL, state.extra)
        stay_BxL = self.schedule.masked(s) - sigma_BxL * self.schedule.alpha(t)
        reveal_BxL = 1 - stay_BxL / jnp.maximum(self.schedule.masked(t), _TINY)

        uniform_BxL = row_uniform(keys_B, i, tokens_BxL.shape[1:], stream=0)
        revealed_BxL = masked_BxL & (uniform_BxL < reveal_BxL)
        hidden_BxL = written_BxL & (uniform_BxL < sigma_BxL)
        p_BxL = jnp.exp(jnp.take_along_axis(log_p_BxLxV, drawn_BxL[..., None], axis=-1)[..., 0])
        tokens_BxL = jnp.where(revealed_BxL, drawn_BxL, jnp.where(hidden_BxL, mask_id, tokens_BxL))
        return state._replace(
            tokens_BxL=jnp.where(state.done_B[:, None], state.tokens_BxL, tokens_BxL),
            extra=jnp.where(revealed_BxL, p_BxL, state.extra),
        )

    def _sigma(self, t, s, written_BxL, p_BxL):
        """Returns sigma_BxL: of written tokens the probability that they are masked again."""
        alpha_t = jnp.maximum(self.schedule.alpha(t), _TINY)
        limit = jnp.minimum(1.0, self.schedule.masked(s) / alpha_t)
        if self.kind == "cap":
            return jnp.full(p_BxL.shape, jnp.minimum(self.eta, limit))
        if self.kind == "rescale":
            return jnp.full(p_BxL.shape, self.eta * limit)
        weight_BxL = jnp.where(written_BxL, jnp.exp(-p_BxL), 0.0)
        total_Bx1 = jnp.maximum(weight_BxL.sum(axis=1, keepdims=True), _TINY)
        return self.eta * limit * weight_BxL / total_Bx1
