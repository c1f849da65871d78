"""The traits of an objective, which the rest of the program reads instead of its name."""

import math
from typing import Literal, NamedTuple

from dlms_jax.config.sections import Config


class Traits(NamedTuple):
    """The traits of an objective.

    Attributes:
      attention: the kind of attention mask (models/attention.py).
      copies: copies of each row that the network reads; those of block diffusion are [x_t, x_0].
      inputs: what the network reads: tokens or noisy embeddings.
      order: the order in which samplers fill positions.
      needs_time: whether the network needs the time because the inputs do not show the noise level.
      exact: whether the bound is -log p itself, so that every sample of it is the same.
      may_shift: whether the output at a position may predict the next position's token (shift.py).
      logits_share: share of positions whose logits the loss needs, on average over time.
    """

    attention: Literal["full", "causal", "block", "block_causal"] = "full"
    copies: int = 1
    inputs: Literal["tokens", "embeddings"] = "tokens"
    order: Literal["any", "left_to_right", "blocks"] = "any"
    needs_time: bool = False
    exact: bool = False
    may_shift: bool = False
    logits_share: float = 1.0


AUTOREGRESSIVE = Traits(attention="causal", order="left_to_right", exact=True)
UNIFORM = Traits(needs_time=True)
GAUSSIAN = Traits(inputs="embeddings", needs_time=True)


def masked_traits(share: float) -> Traits:
    """Returns the traits of masked diffusion; `share` is the mean share of masked positions."""
    return Traits(may_shift=True, logits_share=share)


def block_traits(share: float, context: str) -> Traits:
    """Returns the traits of block diffusion.

    Args:
      share: the mean share of masked positions.
      context: attention within finished blocks, "bidirectional" or "causal".
    """
    return Traits(
        attention="block" if context == "bidirectional" else "block_causal",
        copies=2,
        order="blocks",
        logits_share=share,
    )


def masked_share(schedule: str, power: float = 1.0) -> float:
    """Returns E_t[1 - alpha(t)] with uniform t, for a schedule of diffusion/schedules.py."""
    shares = {"linear": 1 / 2, "cosine": 2 / math.pi, "polynomial": 1 / (power + 1)}
    return shares[schedule]


def traits_of(config: Config) -> Traits:
    """Returns the traits of a config's objective."""
    objective = config.objective
    if objective.name in ("masked", "block"):
        share = masked_share(objective.schedule, objective.schedule_power)
        block = objective.name == "block"
        return block_traits(share, config.block.context) if block else masked_traits(share)
    return {"autoregressive": AUTOREGRESSIVE, "uniform": UNIFORM, "gaussian": GAUSSIAN}[
        objective.name
    ]
