"""Masked diffusion in an order that the network chooses: its surest tokens are revealed first."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from dlms_jax.sampling.processes.masked import SteppedSampler, reveal
from dlms_jax.sampling.sampler import SamplerState

Order = Literal["confidence", "margin", "entropy"]


@dataclasses.dataclass(frozen=True)
class Ordered(SteppedSampler):
    """Each step reveals the masked tokens of a row that score highest, the leftmost of equals
    (MaskGIT, arXiv 2202.04200; LLaDA, 2502.09992). As many stay masked as the schedule says: the
    row's holes times 1 - alpha, rounded. With fewer holes than steps some steps reveal none.

    A token is drawn first, then scored. The scores, all of the prediction after guidance but before
    temperature and cuts, are
    confidence: the probability of the token drawn;
    margin: the probability of the most probable symbol minus that of the next (arXiv 2502.06768);
    entropy: minus the entropy.

    One token a step, margin and entropy follow the chain rule in some order, and are exact;
    confidence prefers likely texts in any number of steps. At temperature 0 nothing is random.
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
    """Returns each place's rank in its row, 0 for the highest score, from the left among equals."""
    order_BxL = jnp.argsort(-score_BxL, axis=1, stable=True)
    return jnp.argsort(order_BxL, axis=1)
