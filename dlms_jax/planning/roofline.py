"""From FLOPs and bytes to the time of a step: an estimate, never a measurement.

Three times: of the matmuls (executed FLOPs over peak), of HBM (bytes over bandwidth) and of the
network (bytes sent over the rings' bandwidth). Matmuls and what moves arrays take turns, so these
two add up; the network works beside them, as FSDP's gathers can. So the estimate is
max(matmuls + HBM, network); the bounds are the largest of the three, and their sum.
"""

import math
from typing import NamedTuple

from dlms_jax.planning.chips import Topology
from dlms_jax.planning.collectives import SLICES, Sent

# Assumed, not measured: what a well-compiled step gets of the data sheet's figures.
SHARES = {"matmuls": 0.75, "HBM": 0.85, "network": 0.7}
_INT8 = 2  # times the FLOP/s of bfloat16: so Google of v5e and v6e; of v5p it says nothing
_DAY = 86_400


class Roofline(NamedTuple):
    """Seconds of a step, by cause, and what follows. useful: FLOPs of a step by formula, without
    recomputation, of all chips; tokens: of a step; steps: of the recipe."""

    matmuls: float
    hbm: float
    ici: float
    dcn: float
    useful: float
    tokens: int
    steps: int
    topology: Topology

    @property
    def network(self) -> float:
        return self.ici + self.dcn

    @property
    def seconds(self) -> float:
        """Returns the estimate for a step."""
        return max(self.matmuls + self.hbm, self.network)

    @property
    def bounds(self) -> tuple[float, float]:
        """Returns a step's time if all overlapped, and if nothing did."""
        return max(self.matmuls, self.hbm, self.network), self.matmuls + self.hbm + self.network

    def mfu(self, seconds: float) -> float:
        """Returns which share of the peak a step of so many seconds makes useful."""
        return self.useful / (seconds * self.topology.chips * self.topology.chip.flops)

    @property
    def tokens_per_day(self) -> float:
        return self.tokens / self.seconds * _DAY

    @property
    def days(self) -> float:
        """Returns how long the recipe takes, without evaluations, saves and restarts."""
        return self.steps * self.seconds / _DAY

    @property
    def chip_hours(self) -> float:
        return self.days * 24 * self.topology.chips


def estimate(
    topology: Topology,
    executed: float,
    hbm_bytes: float,
    ici_bytes: float,
    dcn_bytes: float,
    useful: float,
    tokens: int,
    steps: int,
    int8: float = 0.0,
) -> Roofline:
    """Returns the Roofline of a step.

    executed: FLOPs of all chips, recomputation included, of which int8 are of int8 products; the
    bytes are those of one chip."""
    chip = topology.chip

    def network(sent, bandwidth):
        return sent / (bandwidth * SHARES["network"]) if sent else 0.0

    return Roofline(
        matmuls=(executed - int8 + int8 / _INT8)
        / (topology.chips * chip.flops * SHARES["matmuls"]),
        hbm=hbm_bytes / (chip.hbm_bandwidth * SHARES["HBM"]),
        ici=network(ici_bytes, topology.ici_bandwidth),
        dcn=network(dcn_bytes, chip.dcn_bandwidth),
        useful=useful,
        tokens=tokens,
        steps=steps,
        topology=topology,
    )


def split_by_network(sent: Sent, mesh_shape: dict[str, int], slices: int) -> Sent:
    """Returns what a formula says is sent, with what goes to other slices under SLICES.

    `data` goes over slices first. A sum over all of `data` is taken to be made within the slices
    and then, of the part that each chip then holds, across them."""
    if slices == 1:
        return sent
    split, between = {}, {}
    for axes, kinds in sent.items():
        if "data" not in axes:
            split[axes] = kinds
            continue
        peers = math.prod(mesh_shape[axis] for axis in axes)
        within = peers // slices
        for kind, size in kinds.items():
            whole = size * peers / (peers - 1)  # by a ring's count, twice it in an all-reduce
            if within > 1:
                split.setdefault(axes, {})[kind] = whole * (within - 1) / within
            moved = whole * (slices - 1) / slices / within
            between[kind] = between.get(kind, 0) + moved
    return split | ({(SLICES,): between} if between else {})


def over_networks(sent: Sent) -> tuple[float, float]:
    """Returns (bytes that a chip sends within its slice, bytes to other slices)."""
    sizes = {axes: sum(kinds.values()) for axes, kinds in sent.items()}
    across = sizes.pop((SLICES,), 0.0)
    return sum(sizes.values()), across
