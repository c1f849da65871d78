"""Makes the plan of a config on a topology, compiled or by formula."""

import math
from typing import NamedTuple

from jax.sharding import AbstractMesh, AxisType

from dlms_jax.config import Config
from dlms_jax.parallel.mesh import AXES, make_mesh, mesh_shape
from dlms_jax.planning import compiling, formulas, hlo, memory, roofline, traffic
from dlms_jax.planning.chips import Topology
from dlms_jax.planning.collectives import Collective, Sent, find_collectives, sent_by_axes
from dlms_jax.planning.memory import Memory
from dlms_jax.planning.program import Program, make_program
from dlms_jax.planning.roofline import Roofline


class Plan(NamedTuple):
    """The estimated cost of a train step on a topology.

    Attributes:
      program: the step.
      topology: the chips.
      compiled: whether memory, sent and hbm_bytes come from the compiler. If the step did not fit,
        only the size of the temporaries does.
      memory: of one device.
      model: the memory by formula.
      sent: {axes: {kind: bytes}} that a device sends in a step.
      hbm_bytes: bytes that a device moves to and from HBM in a step.
      roofline: the time of a step.
      counted_flops: FLOPs of all chips by the compiler's count, the body of a loop once.
      largest: the collectives that send most.
      seconds: the time of compiling.
      unread: why the compiled program could not be parsed; sent and hbm_bytes are then by formula.
    """

    program: Program
    topology: Topology
    compiled: bool
    memory: Memory
    model: Memory
    sent: Sent
    hbm_bytes: float
    roofline: Roofline
    counted_flops: float | None = None
    largest: tuple[Collective, ...] = ()
    seconds: float = 0.0
    unread: str = ""

    @property
    def mesh_shape(self) -> dict[str, int]:
        """Returns {axis: size} of the mesh."""
        return dict(self.program.mesh.shape)


def make_plan(config: Config, topology: Topology, compile_it: bool) -> Plan:
    """Returns the plan of a config's train step on a topology.

    Args:
      config: the config.
      topology: the chips.
      compile_it: whether to compile the step with libtpu; otherwise the plan is by formula.

    Raises:
      UserError: sizes do not divide by the mesh, or libtpu does not know the topology.
    """
    if not compile_it:
        return by_formula(config, topology)
    devices = compiling.tpu_devices(topology)
    program = make_program(config, make_mesh(config.mesh, devices))
    model = by_formula(config, topology)
    try:
        compiled = compiling.compile_step(program, topology)
    except compiling.TooLarge as error:
        given = 0 if error.temporaries_alone else sum(model.memory.arguments.values())
        needed = model.memory._replace(temporaries={"temporaries": error.needed - given})
        return model._replace(compiled=True, memory=needed)
    found = model._replace(
        compiled=True,
        memory=compiled.memory,
        counted_flops=compiled.flops * topology.chips,
        seconds=compiled.seconds,
        unread=compiled.unread,
    )
    if compiled.unread:
        return found
    module = hlo.parse(compiled.text)
    chunks = _head_chunks(program)
    collectives = find_collectives(module, dict(program.mesh.shape), chunks, slices=topology.slices)
    sent = sent_by_axes(collectives)
    moved = traffic.hbm_bytes(module, chunks) + formulas.read_again(program)
    return found._replace(
        sent=sent,
        hbm_bytes=moved,
        roofline=_roofline(program, topology, sent, moved),
        largest=tuple(collectives[:5]),
    )


def by_formula(config: Config, topology: Topology) -> Plan:
    """Returns the plan by formula.

    Raises:
      UserError: sizes do not divide by the mesh.
    """
    shape = mesh_shape(config.mesh, topology.chips, topology.slices)
    mesh = AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    program = make_program(config, mesh)
    sizes = Memory(
        memory.arguments(program),
        memory.temporaries(program),
        topology.chip.hbm,
        host=memory.host(program),
    )
    sent = roofline.split_by_network(
        formulas.sent_bytes(program), dict(program.mesh.shape), topology.slices
    )
    moved = formulas.hbm_bytes(program)
    times = _roofline(program, topology, sent, moved)
    return Plan(program, topology, False, sizes, sizes, sent, moved, times)


def _roofline(program: Program, topology: Topology, sent: Sent, moved: float) -> Roofline:
    within, across = roofline.over_networks(sent)
    return roofline.estimate(
        topology,
        formulas.executed_flops(program),
        moved,
        within,
        across,
        program.flops,
        program.tokens,
        program.config.training.steps,
        formulas.int8_flops(program),
    )


def _head_chunks(program: Program) -> int:
    """Returns the average number of loss chunks on a device, the only data-dependent loop."""
    positions = program.local_rows * program.config.data.sequence_length
    chunk = min(program.config.training.loss_chunk_size, positions)
    return math.ceil(positions * program.head_share / chunk)
