"""What the rest of the program asks of an objective, in place of its name."""

import math
from typing import Literal, NamedTuple

from dlms_jax.config.sections import Config


class Traits(NamedTuple):
    """The traits of an objective.

    attention: which positions the network lets attend (models/attention.py has the kinds).
    copies: how many copies of each row the network reads: block diffusion's are [x_t, x_0].
    inputs: what the network reads: tokens, or noisy embeddings.
    order: the order in which samplers fill positions.
    needs_time: whether the inputs hide how noisy they are, so that the network needs its time.
    exact: whether the bound is -log p itself, the same at every sample.
    may_shift: whether its network may predict at each position the next one's token (shift.py).
    logits_share: the share of positions whose logits the loss needs, on average over time.
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
    """Returns the traits of masked diffusion, which masks this share of the positions."""
    return Traits(may_shift=True, logits_share=share)


def block_traits(share: float, context: str) -> Traits:
    """Returns the traits of block diffusion; with context="causal" the clean copy, whose keys
    samplers keep, is token-causal."""
    attention = "block" if context == "bidirectional" else "block_causal"
    return Traits(attention, copies=2, order="blocks", logits_share=share)


def masked_share(schedule: str, power: float = 1.0) -> float:
    """Returns E_t[1 - alpha(t)], t uniform, of a schedule of diffusion/schedules.py."""
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
