"""The TPU chips and slices that a plan supports.

Figures are Google's, from docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}: peak bfloat16 FLOP/s, HBM
bandwidth, interconnect (ICI: the bidirectional figure per chip, 400, 1200 and 800 GB/s, halved and
divided by a chip's 4 or 6 links; the page of v6e gives 3200 Gbps one way), data-center network per
chip (DCN: 50 Gbps for v5p; 6.4 and 25.6 Tbps per pod of 256 chips for v5e and v6e). HBM is the
limit that libtpu 0.0.52 reports when a program is too large, slightly below the data sheet's.
"""

import dataclasses
import math
import re

from dlms_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of TPU.

    Attributes:
      hbm: bytes that a program can use.
      flops: peak bfloat16 FLOP/s.
      hbm_bandwidth: bytes per second.
      link_bandwidth: bytes per second that one ICI link sends.
      dcn_bandwidth: bytes per second that a chip sends to other slices.
      dimensions: of the torus.
      cube: a side of a slice closes to a ring if it is a multiple of this.
      most: largest number of chips in a slice.
    """

    name: str
    hbm: int
    flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    dcn_bandwidth: float
    dimensions: int
    cube: int
    most: int


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", int(15.75 * 2**30), 197e12, 819e9, 50e9, 3.125e9, 2, 16, 256),
        Chip("v5p", int(95.74 * 2**30), 459e12, 2765e9, 100e9, 6.25e9, 3, 4, 6144),
        Chip("v6e", int(31.24 * 2**30), 918e12, 1600e9, 100e9, 12.5e9, 2, 16, 256),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A number of slices of one kind of chip, each of `shape` chips."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def name(self) -> str:
        """Returns libtpu's name of a slice: "v5p:4x4x4"."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def text(self) -> str:
        """Returns the name with the number of slices: "2 x v5p:4x4x4"."""
        return f"{self.slices} x {self.name}" if self.slices > 1 else self.name

    @property
    def slice_chips(self) -> int:
        """Returns the number of chips in a slice."""
        return math.prod(self.shape)

    @property
    def chips(self) -> int:
        """Returns the number of chips in all slices."""
        return self.slices * self.slice_chips

    @property
    def ici_bandwidth(self) -> float:
        """Returns the bytes per second that a chip can send within its slice.

        It uses both links of a side that closes to a ring, and one link of a side that does not.
        """
        links = sum((2 if side % self.chip.cube == 0 else 1) for side in self.shape if side > 1)
        return links * self.chip.link_bandwidth

    def larger(self) -> "Topology | None":
        """Returns the slice with its shortest side doubled; None if that is too large."""
        shape = list(self.shape)
        side = min(range(len(shape)), key=lambda i: (shape[i], -i))
        shape[side] *= 2
        if math.prod(shape) > self.chip.most:
            return None
        return dataclasses.replace(self, shape=tuple(sorted(shape)))


def parse_topology(text: str, slices: int = 1) -> Topology:
    """Returns the Topology of a text such as "v5p:4x4x4".

    Args:
      text: chip and sides of a slice.
      slices: number of such slices.

    Raises:
      UserError: no such slice exists.
    """
    name, _, sides = text.partition(":")
    if name not in CHIPS:
        raise UserError(f"--topology={text}: unknown chip {name!r}; use one of {', '.join(CHIPS)}")
    chip = CHIPS[name]
    example = "4x4x4" if chip.dimensions == 3 else "4x4"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sides):
        raise UserError(f"--topology={text} should be a chip and a slice, such as {name}:{example}")
    shape = tuple(map(int, sides.split("x")))
    if len(shape) != chip.dimensions:
        raise UserError(
            f"--topology={text}: a {name} slice has {chip.dimensions} sides: {name}:{example}"
        )
    if math.prod(shape) > chip.most:
        raise UserError(f"--topology={text}: a {name} slice has at most {chip.most} chips")
    if math.prod(shape) > 1 and any(side % 2 for side in shape[:2]):
        raise UserError(
            f"--topology={text}: a host has 2x2 chips, so the first two sides should be even"
        )
    if slices < 1:
        raise UserError(f"--slices={slices} should be at least 1")
    return Topology(chip, shape, slices)
