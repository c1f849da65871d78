"""Masked diffusion that reveals the tokens first of which the network is most certain."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from dlms_jax.sampling.processes.masked import SteppedSampler, reveal
from dlms_jax.sampling.sampler import SamplerState

Order = Literal["confidence", "margin", "entropy"]


@dataclasses.dataclass(frozen=True)
class Ordered(SteppedSampler):
    """Each step reveals the masked tokens with the highest scores, the leftmost among equals.

    See MaskGIT (arXiv 2202.04200) and LLaDA (2502.09992). The number of tokens that stay masked is
    the number of holes times 1 - alpha, rounded. If a row has fewer holes than steps, some steps
    reveal no token.

    A token is drawn first, then scored with the prediction after guidance, but before temperature
    and cuts:

    - confidence: the probability of the drawn token.
    - margin: the largest probability minus the second largest (arXiv 2502.06768).
    - entropy: the negative entropy.

    With one token per step, margin and entropy follow the chain rule in some order and are exact.
    Confidence prefers likely texts at any number of steps. At temperature 0 nothing is random.
    """

    order: Order = "confidence"
    stop_at_eos: bool = True

    def update(self, state: SamplerState, logits_BxLxV, without_BxLxV=None) -> SamplerState:
        log_p_BxLxV = self.prediction.guided(logits_BxLxV, without_BxLxV)
        drawn_BxL = self.draw(state, self.prediction.cut(log_p_BxLxV), stream=0)
        masked_BxL, (_, s_B) = self.masked(state), self.times(state)
        remain_B = jnp.round(state.holes_BxL.sum(axis=1) * self.schedule.masked(s_B))
        number_B = masked_BxL.sum(axis=1) - remain_B.astype(jnp.int32)
        score_BxL = jnp.where(masked_BxL, self._score(log_p_BxLxV, drawn_BxL), -jnp.inf)
        chosen_BxL = masked_BxL & (_ranks(score_BxL) < number_B[:, None])
        tokens_BxL = jnp.where(chosen_BxL, drawn_BxL, state.tokens_BxL)
        return reveal(state, tokens_BxL, self.prediction, self.stop_at_eos)

    def _score(self, log_p_BxLxV, drawn_BxL):
        if self.order == "confidence":
            return jnp.take_along_axis(log_p_BxLxV, drawn_BxL[..., None], axis=-1)[..., 0]
        p_BxLxV = jnp.exp(log_p_BxLxV)
        if self.order == "margin":
            first_BxLx2, _ = jax.lax.top_k(p_BxLxV, 2)
            return first_BxLx2[..., 0] - first_BxLx2[..., 1]
        return jnp.sum(jnp.where(p_BxLxV > 0, p_BxLxV * log_p_BxLxV, 0.0), axis=-1)


def _ranks(score_BxL):
    """Returns each position's rank in its row: 0 for the highest score, leftmost among equals."""
    order_BxL = jnp.argsort(-score_BxL, axis=1, stable=True)
    return jnp.argsort(order_BxL, axis=1)
