"""ReMDM: masked diffusion that masks some written tokens again, so that it can correct them."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.processes.masked import SteppedSampler
from dlms_jax.sampling.sampler import SamplerState, advance, begin, end_at_eos

# alpha is 0 at t=1, and 1 - alpha may underflow in float32 near t=0.
_TINY = float(jnp.finfo(jnp.float32).tiny)


@dataclasses.dataclass(frozen=True)
class Remasking(SteppedSampler):
    """A reverse process that masks written tokens again (ReMDM, arXiv 2503.00307).

    A step from t to s masks a written token with probability sigma, and reveals a masked token with
    probability 1 - (1 - alpha_s - sigma alpha_t) / (1 - alpha_t). If all tokens have the same
    sigma, the share of masks is that of the process without remasking. The kinds, with
    limit = min(1, (1 - alpha_s) / alpha_t):

    - cap: sigma = min(eta, limit).
    - rescale: sigma = eta limit.
    - confidence: sigma = eta limit softmax(-p) over the row's written holes, where p is the
      probability that a token had when it was written (after guidance, before temperature and
      cuts). Masked tokens are revealed as with sigma = 0, as in the paper.

    eta is in 0..1; 0 turns remasking off. Given tokens are never masked. The limit is 0 at the last
    step, so that no mask remains. At the end, holes after the first EOS get EOS.
    """

    kind: Literal["cap", "rescale", "confidence"] = "cap"
    eta: float = 0.0

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> SamplerState:
        """Returns the state at t=1; its `extra` is p_BxL, the probabilities of written tokens."""
        return begin(canvas, keys_B, jnp.zeros(canvas.tokens_BxL.shape))

    def update(self, state: SamplerState, logits_BxLxV, without_BxLxV=None) -> SamplerState:
        mask_id = self.prediction.vocabulary.mask_id
        t_Bx1, s_Bx1 = (t_B[:, None] for t_B in self.times(state))
        log_p_BxLxV = self.prediction.guided(logits_BxLxV, without_BxLxV)
        drawn_BxL = self.draw(state, self.prediction.cut(log_p_BxLxV), stream=1)
        masked_BxL = self.masked(state)
        written_BxL = state.holes_BxL & ~masked_BxL
        sigma_BxL = self._sigma(t_Bx1, s_Bx1, written_BxL, state.extra)
        stay_BxL = self.schedule.masked(s_Bx1) - sigma_BxL * self.schedule.alpha(t_Bx1)
        reveal_BxL = 1 - stay_BxL / jnp.maximum(self.schedule.masked(t_Bx1), _TINY)

        uniform_BxL = self.uniform(state, state.tokens_BxL.shape[1])
        revealed_BxL = masked_BxL & (uniform_BxL < reveal_BxL)
        hidden_BxL = written_BxL & (uniform_BxL < sigma_BxL)
        p_BxL = jnp.exp(jnp.take_along_axis(log_p_BxLxV, drawn_BxL[..., None], axis=-1)[..., 0])
        tokens_BxL = jnp.where(hidden_BxL, mask_id, state.tokens_BxL)
        tokens_BxL = jnp.where(revealed_BxL, drawn_BxL, tokens_BxL)
        done_B = state.step_B + 1 >= self.steps
        ended_BxL = end_at_eos(tokens_BxL, state.holes_BxL, self.prediction.vocabulary)
        tokens_BxL = jnp.where(done_B[:, None], ended_BxL, tokens_BxL)
        return advance(state, tokens_BxL, done_B, jnp.where(revealed_BxL, p_BxL, state.extra))

    def _sigma(self, t_Bx1, s_Bx1, written_BxL, p_BxL):
        """Returns sigma_BxL, the probability that a written token is masked again."""
        alpha_Bx1 = jnp.maximum(self.schedule.alpha(t_Bx1), _TINY)
        limit_Bx1 = jnp.minimum(1.0, self.schedule.masked(s_Bx1) / alpha_Bx1)
        if self.kind == "cap":
            return jnp.broadcast_to(jnp.minimum(self.eta, limit_Bx1), p_BxL.shape)
        if self.kind == "rescale":
            return jnp.broadcast_to(self.eta * limit_Bx1, p_BxL.shape)
        weight_BxL = jnp.where(written_BxL, jnp.exp(-p_BxL), 0.0)
        total_Bx1 = jnp.maximum(weight_BxL.sum(axis=1, keepdims=True), _TINY)
        return self.eta * limit_Bx1 * weight_BxL / total_Bx1
