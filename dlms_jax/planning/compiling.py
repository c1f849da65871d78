"""The real train step, compiled for chips that are not here."""

import re
import time
from typing import NamedTuple

import jax

from dlms_jax.errors import UserError
from dlms_jax.planning import memory
from dlms_jax.planning.chips import Topology
from dlms_jax.planning.memory import Memory
from dlms_jax.planning.program import Program

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class TooLarge(Exception):
    """The compiler found no room for `needed` bytes, of temporaries alone or of everything."""

    def __init__(self, needed: float, temporaries_alone: bool):
        super().__init__(f"{needed:.0f} bytes are too many")
        self.needed, self.temporaries_alone = needed, temporaries_alone


class Compiled(NamedTuple):
    """text: the program; "" where jaxlib cannot read what libtpu made (of some large programs:
    "async-update instruction should have 1 operands"), and `unread` says why. flops: of one device,
    as the compiler counts: the body of a loop once."""

    memory: Memory
    text: str
    flops: float
    seconds: float
    unread: str = ""


def tpu_devices(topology: Topology):
    """Returns the devices of a topology, for which one can compile only."""
    from jax.experimental import topologies

    more = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        found = topologies.get_topology_desc(topology.name, platform="tpu", **more)
    except Exception as error:  # jax's own, and what libtpu raises
        raise UserError(
            f"--topology={topology.name}: libtpu knows no such slice ({first_line(error)})"
        ) from None
    return found.devices


def compile_step(program: Program, topology: Topology) -> Compiled:
    """Returns the compiled step of a program whose mesh is made of `tpu_devices`.

    Raises TooLarge where the chip's memory does not hold it."""
    start = time.perf_counter()
    try:
        compiled = program.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if (needed := needed_bytes(str(error))) is not None:
            raise TooLarge(needed, "temporaries" in first_line(error)) from None
        raise UserError(f"libtpu could not compile the step: {first_line(error)}") from None
    text, unread = "", ""
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        unread = first_line(error)
    stats, costs = compiled.memory_analysis(), compiled.cost_analysis()
    given = memory.arguments(program)
    return Compiled(
        Memory(
            arguments=given,
            temporaries={"temporaries": stats.temp_size_in_bytes},
            available=topology.chip.hbm,
            padding=stats.argument_size_in_bytes - sum(given.values()),
            outputs=stats.output_size_in_bytes,
            aliased=stats.alias_size_in_bytes,
            code=stats.generated_code_size_in_bytes,
            host=stats.host_temp_size_in_bytes,
        ),
        text,
        float((costs[0] if isinstance(costs, list) else costs).get("flops", 0)),
        time.perf_counter() - start,
        unread,
    )


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]


def needed_bytes(text: str) -> float | None:
    """Returns how many bytes the compiler says it needs where there are fewer; None of what is
    another complaint."""
    number = r"([\d.]+)([KMGT]?)"
    found = re.search(rf"\({number}\) exceeds available HBM", text)
    found = found or re.search(rf"Used {number} of [\d.]+[KMGT]? hbm", text)
    return float(found[1]) * _UNITS[found[2]] if found else None
