"""The network traffic of a compiled step: bytes by kind of collective and by mesh axis.

Bytes are those that one device sends with ring algorithms over n peers: n - 1 times its shard in an
all-gather, (n - 1) / n of the array in a reduce-scatter or all-to-all, twice that in an all-reduce.

With several slices, the compiled program is that of one slice, and devices are numbered within it.
Transfers to other slices are `send` instructions to the host with Megascale's attributes. They are
counted under the axis `slices`; `data` then means the part of that axis within a slice.
"""

from collections import defaultdict
from collections.abc import Iterable
import re
from typing import NamedTuple

import numpy as np

from dlms_jax.planning.hlo import Computation, Instruction, Module

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
Sent = dict[tuple[str, ...], dict[str, float]]  # {axes: {kind: bytes}}
SLICES = "slices"  # not a mesh axis: the part of `data` between slices
_BETWEEN = {
    "ALL_REDUCE": "all-reduce",
    "ALL_GATHER": "all-gather",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}


class Collective(NamedTuple):
    """A collective operation of a step.

    Attributes:
      kind: one of KINDS.
      axes: the mesh axes along which its peers differ, or (SLICES,).
      peers: the number of devices in a group.
      size: the bytes of a device's operands.
      times: how often a step runs it.
      source: XLA's op_name.
    """

    kind: str
    axes: tuple[str, ...]
    peers: int
    size: int
    times: float
    source: str

    @property
    def sent(self) -> float:
        """Returns the bytes that a device sends in a step."""
        share = (self.peers - 1) / max(self.peers, 1)
        factor = {
            "all-gather": self.peers - 1,
            "all-reduce": 2 * share,
            "collective-permute": 1,
            "collective-broadcast": 1,
        }.get(self.kind, share)
        return self.times * self.size * factor


def find_collectives(
    module: Module, mesh_shape: dict[str, int], unknown_trips: float = 1, slices: int = 1
) -> list[Collective]:
    """Returns the collectives of a step, the one that sends most first.

    Args:
      module: the compiled step.
      mesh_shape: {axis: size} of the whole mesh, in the mesh's order.
      unknown_trips: iterations to assume for a loop whose length is only known at run time.
      slices: number of slices.
    """
    found = []
    if slices > 1:
        mesh_shape = mesh_shape | {"data": mesh_shape["data"] // slices}
    for instruction, computation, times in module.executed(unknown_trips):
        fused = instruction.kind == "fusion"
        if instruction.goes_on:
            continue
        if kind := _between_slices(instruction):
            size = instruction.arrays[0].bytes
            found.append(Collective(kind, (SLICES,), slices, size, times, instruction.source))
            continue
        inner = module.inside(instruction) if fused else {instruction.name: instruction}
        for each in inner.values():
            kind = each.kind.removesuffix("-start")
            if kind not in KINDS:
                continue
            # On TPUs a reduce-scatter is a fusion of an all-reduce and a dynamic-slice.
            if fused and kind == "all-reduce" and _takes_part(inner):
                kind = "reduce-scatter"
            groups = _groups(each.attributes, mesh_shape)
            size = _operand_bytes(each, inner if fused else computation)
            axes, peers = _axes(groups, mesh_shape)
            if peers > 1:
                found.append(Collective(kind, axes, peers, size, times, each.source))
    return sorted(found, key=lambda c: -c.sent)


def sent_by_axes(collectives: Iterable[Collective]) -> Sent:
    """Returns {axes: {kind: bytes}} that a device sends in a step."""
    table: defaultdict[tuple[str, ...], defaultdict[str, float]]
    table = defaultdict(lambda: defaultdict(float))
    for collective in collectives:
        table[collective.axes][collective.kind] += collective.sent
    return {axes: dict(kinds) for axes, kinds in table.items()}


def _between_slices(instruction: Instruction) -> str | None:
    """Returns the kind of a send to other slices; None for other instructions."""
    if instruction.kind != "send":
        return None
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
    return _BETWEEN.get(found[1], found[1].lower()) if found else None


def _takes_part(inner: Computation) -> bool:
    return any(instruction.kind == "dynamic-slice" for instruction in inner.values())


def _operand_bytes(instruction: Instruction, computation: Computation) -> int:
    return sum(
        array.bytes
        for name in instruction.operands
        if name in computation
        for array in computation[name].arrays
    )


def _groups(attributes: str, mesh_shape: dict[str, int]) -> np.ndarray:
    """Returns the groups of communicating partitions, one per row; for a permute, the pairs."""
    devices = int(np.prod(list(mesh_shape.values())))
    if found := re.search(r"source_target_pairs=\{(\{[\d,{} ]*\})?\}", attributes):
        return _rows(found[1] or "")
    text = attributes[attributes.find("replica_groups=") :].removeprefix("replica_groups=")
    if found := re.match(r"\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        sizes = _numbers(found[3])
        ids = np.arange(np.prod(sizes)).reshape(sizes)
        if found[4]:
            ids = ids.transpose(_numbers(found[4]))
        return ids.reshape(int(found[1]), int(found[2]))
    if found := re.match(r"@?mesh\[([^\]]*)\](?:, device_ids=\(([^)]*\)?)\))? ?\{([^}]*)\}", text):
        return _mesh_groups(found[1], found[3])
    if found := re.match(r"\{(\{[\d,{} ]*\})\}", text):
        return _rows(found[1])
    return np.arange(devices)[None]


def _mesh_groups(mesh: str, axes: str) -> np.ndarray:
    """Returns the groups of mesh['a'=4,'b'=16] {'b'}: devices that differ only in b.

    'b':(2)4 names the sub-axis of b of size 4 that follows a sub-axis of size 2.
    """
    sizes = [(name, int(size)) for name, size in re.findall(r"'?([\w.\-]+)'?=(\d+)", mesh)]
    wanted = {
        name: (int(before or 1), int(size or 0))
        for name, before, size in re.findall(r"'?([\w.\-]+)'?(?::\((\d+)\)(\d+))?", axes)
    }
    shape: list[int] = []
    inside: list[int] = []
    for name, size in sizes:
        before, part = wanted.get(name, (1, 1))
        part = part or size
        inside.append(len(shape) + 1)
        shape += [before, part, size // before // part]
        if name not in wanted:
            inside.pop()
    ids = np.arange(np.prod(shape)).reshape(shape)
    outside = [axis for axis in range(len(shape)) if axis not in inside]
    return ids.transpose(outside + inside).reshape(-1, int(np.prod([shape[a] for a in inside])))


def _rows(text: str) -> np.ndarray:
    rows = [_numbers(row) for row in re.findall(r"\{([\d,]*)\}", text)]
    longest = max(map(len, rows), default=0)
    return np.array([row for row in rows if len(row) == longest], int).reshape(-1, longest)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _axes(groups: np.ndarray, mesh_shape: dict[str, int]) -> tuple[tuple[str, ...], int]:
    """Returns (the axes along which the members of a group differ, the size of a group)."""
    if not groups.size:
        return (), 1
    places = np.unravel_index(groups, tuple(mesh_shape.values()))
    differ = [bool((place != place[:, :1]).any()) for place in places]
    axes = tuple(axis for axis, d in zip(mesh_shape, differ, strict=True) if d)
    return axes, groups.shape[1]
