"""Ancestral sampling of masked diffusion."""

import dataclasses

import jax.numpy as jnp

from dlms_jax.sampling.processes.masked import SteppedSampler, reveal
from dlms_jax.sampling.sampler import SamplerState


@dataclasses.dataclass(frozen=True)
class Ancestral(SteppedSampler):
    """The reverse process of masked diffusion (MDLM, arXiv 2406.07524, eq. 6).

    All holes are masked at t=1 and none at t=0. A step from t to s < t reveals a masked token with
    probability 1 - (1 - alpha_s) / (1 - alpha_t) and draws it from the prediction. These are two
    separate draws: a single Gumbel-max over both in float32 would lower the temperature
    (arXiv 2409.02908). The sampler is exact in the limit of many steps.
    """

    stop_at_eos: bool = True

    def update(self, state: SamplerState, logits_BxLxV, without_BxLxV=None) -> SamplerState:
        t_B, s_B = self.times(state)
        # Exactly 1 at the last step, where 1 - alpha_s is 0, so that no mask remains. 1 - alpha_t
        # may underflow in float32.
        tiny = jnp.finfo(jnp.float32).tiny
        share_B = 1 - self.schedule.masked(s_B) / jnp.maximum(self.schedule.masked(t_B), tiny)
        uniform_BxL = self.uniform(state, state.tokens_BxL.shape[1])
        revealed_BxL = self.masked(state) & (uniform_BxL < share_B[:, None])
        log_p_BxLxV = self.prediction.log_p(logits_BxLxV, without_BxLxV)
        drawn_BxL = self.draw(state, log_p_BxLxV, stream=1)
        tokens_BxL = jnp.where(revealed_BxL, drawn_BxL, state.tokens_BxL)
        return reveal(state, tokens_BxL, self.prediction, self.stop_at_eos)
