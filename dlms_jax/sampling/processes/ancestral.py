"""The full reverse process of masked diffusion."""

import dataclasses

import jax.numpy as jnp

from dlms_jax.sampling.processes.masked import SteppedSampler, reveal
from dlms_jax.sampling.sampler import SamplerState


@dataclasses.dataclass(frozen=True)
class Ancestral(SteppedSampler):
    """From all holes masked at t=1 to none at t=0 (MDLM, arXiv 2406.07524, eq. 6).

    A masked token is revealed, between t and s < t, with probability 1 - (1-alpha_s)/(1-alpha_t),
    and then drawn from the prediction. Whether and which are two draws: one Gumbel-max over both in
    float32 would lower the temperature (arXiv 2409.02908). Exact in the limit of many steps.
    """

    stop_at_eos: bool = True

    def update(self, state: SamplerState, logits_BxLxV, without_BxLxV=None) -> SamplerState:
        t_B, s_B = self.times(state)
        # Exactly 1 at the last step, where 1 - alpha_s is 0, so that no mask remains; 1 - alpha_t
        # may be too small for float32.
        tiny = jnp.finfo(jnp.float32).tiny
        share_B = 1 - self.schedule.masked(s_B) / jnp.maximum(self.schedule.masked(t_B), tiny)
        uniform_BxL = self.uniform(state, state.tokens_BxL.shape[1])
        revealed_BxL = self.masked(state) & (uniform_BxL < share_B[:, None])
        log_p_BxLxV = self.prediction.log_p(logits_BxLxV, without_BxLxV)
        drawn_BxL = self.draw(state, log_p_BxLxV, stream=1)
        tokens_BxL = jnp.where(revealed_BxL, drawn_BxL, state.tokens_BxL)
        return reveal(state, tokens_BxL, self.prediction, self.stop_at_eos)
