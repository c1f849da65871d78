"""Compiles the train step for TPUs that are not attached."""

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
    """The step needs more HBM than a chip has: `needed` bytes, in all or only for temporaries."""

    def __init__(self, needed: float, temporaries_alone: bool):
        super().__init__(f"{needed:.0f} bytes do not fit")
        self.needed, self.temporaries_alone = needed, temporaries_alone


class Compiled(NamedTuple):
    """A compiled step.

    Attributes:
      memory: the memory of one device.
      text: the HLO; "" if jaxlib cannot parse libtpu's program, as for some large programs
        ("async-update instruction should have 1 operands").
      flops: of one device by the compiler's count, which counts the body of a loop once.
      seconds: the time that lowering and compiling took.
      unread: why `text` is empty.
    """

    memory: Memory
    text: str
    flops: float
    seconds: float
    unread: str = ""


def tpu_devices(topology: Topology):
    """Returns the devices of a topology; a program can be compiled for them, but not run.

    Raises:
      UserError: libtpu does not know the topology.
    """
    from jax.experimental import topologies

    more = {"num_slices": topology.slices} if topology.slices > 1 else {}
    try:
        found = topologies.get_topology_desc(topology.name, platform="tpu", **more)
    except Exception as error:  # JAX's own errors and libtpu's
        raise UserError(
            f"--topology={topology.name}: libtpu does not know this slice ({first_line(error)})"
        ) from None
    return found.devices


def compile_step(program: Program, topology: Topology) -> Compiled:
    """Returns the compiled step.

    Args:
      program: a step whose mesh consists of `tpu_devices`.
      topology: the topology of these devices.

    Raises:
      TooLarge: the step does not fit the chip's memory.
      UserError: the compiler failed in another way.
    """
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
    """Returns the first line of an error's message, at most 300 characters."""
    return str(error).strip().splitlines()[0][:300]


def needed_bytes(text: str) -> float | None:
    """Returns the bytes that an out-of-memory error asks for; None for other errors."""
    number = r"([\d.]+)([KMGT]?)"
    found = re.search(rf"\({number}\) exceeds available HBM", text)
    found = found or re.search(rf"Used {number} of [\d.]+[KMGT]? hbm", text)
    return float(found[1]) * _UNITS[found[2]] if found else None
