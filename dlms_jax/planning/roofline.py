"""Estimates the time of a step from its FLOPs and bytes. Nothing is measured.

There are three times: of the matmuls (executed FLOPs over peak), of HBM (bytes over bandwidth) and
of the network (bytes over bandwidth of the rings). Matmuls and HBM traffic alternate, so these two
add up. The network can overlap with both, as FSDP's gathers do. So the estimate is
max(matmuls + HBM, network); its bounds are the largest of the three and their sum.
"""

import math
from typing import NamedTuple

from dlms_jax.planning.chips import Topology
from dlms_jax.planning.collectives import SLICES, Sent

# Assumed, not measured: the share of the data sheet's figures that a well-compiled step reaches.
SHARES = {"matmuls": 0.75, "HBM": 0.85, "network": 0.7}
_INT8 = (
    2  # times the FLOP/s of bfloat16: Google's figure for v5e and v6e; none is published for v5p
)
_DAY = 86_400


class Roofline(NamedTuple):
    """The time of a step by cause, and figures that follow from it.

    Attributes:
      matmuls, hbm: seconds.
      ici, dcn: seconds of the network within a slice and between slices.
      useful: FLOPs of a step by formula, all chips together, without recomputation.
      tokens: of a step.
      steps: of the whole run.
      topology: the chips.
    """

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
        """Returns the seconds of the network in all."""
        return self.ici + self.dcn

    @property
    def seconds(self) -> float:
        """Returns the estimated seconds of a step."""
        return max(self.matmuls + self.hbm, self.network)

    @property
    def bounds(self) -> tuple[float, float]:
        """Returns the seconds of a step if everything overlaps, and if nothing does."""
        return max(self.matmuls, self.hbm, self.network), self.matmuls + self.hbm + self.network

    def mfu(self, seconds: float) -> float:
        """Returns the model FLOPs utilization of a step that takes this many seconds."""
        return self.useful / (seconds * self.topology.chips * self.topology.chip.flops)

    @property
    def tokens_per_day(self) -> float:
        """Returns the tokens that are trained on per day."""
        return self.tokens / self.seconds * _DAY

    @property
    def days(self) -> float:
        """Returns the days of the whole run, without evaluations, checkpoints and restarts."""
        return self.steps * self.seconds / _DAY

    @property
    def chip_hours(self) -> float:
        """Returns the chip-hours of the whole run."""
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

    Args:
      topology: the chips.
      executed: FLOPs of all chips, recomputation included.
      hbm_bytes: bytes that one chip moves to and from HBM.
      ici_bytes: bytes that one chip sends within its slice.
      dcn_bytes: bytes that one chip sends to other slices.
      useful: FLOPs of all chips without recomputation.
      tokens: of a step.
      steps: of the whole run.
      int8: the part of `executed` that is int8.
    """
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
    """Returns the traffic by formula with the part between slices moved to SLICES.

    `data` spans slices first. A sum over all of `data` first reduces within each slice; then each
    chip sums its part across slices.

    Args:
      sent: {axes: {kind: bytes}} that a chip sends.
      mesh_shape: {axis: size}.
      slices: number of slices.
    """
    if slices == 1:
        return sent
    split: Sent = {}
    between: dict[str, float] = {}
    for axes, kinds in sent.items():
        if "data" not in axes:
            split[axes] = kinds
            continue
        peers = math.prod(mesh_shape[axis] for axis in axes)
        within = peers // slices
        for kind, size in kinds.items():
            whole = size * peers / (peers - 1)  # bytes of the array; twice that in an all-reduce
            if within > 1:
                split.setdefault(axes, {})[kind] = whole * (within - 1) / within
            moved = whole * (slices - 1) / slices / within
            between[kind] = between.get(kind, 0) + moved
    return split | ({(SLICES,): between} if between else {})


def over_networks(sent: Sent) -> tuple[float, float]:
    """Returns the bytes that a chip sends (within its slice, to other slices)."""
    sizes = {axes: sum(kinds.values()) for axes, kinds in sent.items()}
    across = sizes.pop((SLICES,), 0.0)
    return sum(sizes.values()), across
