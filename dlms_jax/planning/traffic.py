"""The HBM traffic of a compiled step on one device, in bytes.

Each executed instruction reads its operands and writes its results once. Arrays in a nearer memory
are free. If a fusion only slices an operand, the slices count; if it updates one in place, the
update counts.
"""

from dlms_jax.planning.hlo import Computation, Instruction, Module

_FREE = {
    "parameter",
    "constant",
    "get-tuple-element",
    "tuple",
    "bitcast",
    "while",
    "call",
    "conditional",
    "after-all",
    "partition-id",
    "iota",
    "opt-barrier",
}
_SLICING = ("dynamic-slice", "slice", "gather")


def hbm_bytes(module: Module, unknown_trips: float = 1) -> float:
    """Returns the bytes that one device moves to and from HBM in a step.

    Args:
      module: the compiled step.
      unknown_trips: iterations to assume for a loop whose length is only known at run time.
    """
    return sum(
        times * _moved(instruction, computation, module)
        for instruction, computation, times in module.executed(unknown_trips)
        if instruction.kind not in _FREE and not instruction.ends
    )


def _moved(instruction: Instruction, computation: Computation, module: Module) -> int:
    operands = [computation.get(name) for name in instruction.operands]
    sizes = [_far(operand) for operand in operands]
    kind = instruction.kind
    if kind == "slice-start":  # its result is (operands, the slice, ...)
        part = instruction.arrays[len(operands)]
        return part.bytes * (1 if part.near else 2)
    if kind.endswith("-start"):  # its result repeats the operands
        return sum(sizes) + _far(instruction, only_first=True)
    if kind in _SLICING:
        return 2 * _far(instruction)
    if kind == "dynamic-update-slice":
        return 2 * sizes[1]
    if 'custom_call_target="AllocateBuffer"' in instruction.attributes:
        return 0
    if kind != "fusion":
        return sum(sizes) + _far(instruction)
    return _moved_by_fusion(instruction, module, sizes)


def _moved_by_fusion(fusion: Instruction, module: Module, sizes: list[int]) -> int:
    inside = module.inside(fusion)
    written, read = _far(fusion), 0
    for parameter, size in zip(_parameters(inside), sizes, strict=True):
        ends = _ends(parameter, inside, module)
        if ends and all(user.kind in _SLICING for user, _, _ in ends):
            size = min(size, sum(_whole(user) for user, _, _ in ends))
        elif ends and all(u.kind == "dynamic-update-slice" and first for u, first, _ in ends):
            updates = sum(_whole(where[user.operands[1]]) for user, _, where in ends)
            written -= max(size - updates, 0)
            size = 0
        read += size
    return read + max(written, 0)


def _parameters(computation: Computation) -> list[Instruction]:
    parameters = [i for i in computation.values() if i.kind == "parameter"]
    return sorted(parameters, key=lambda parameter: int(parameter.operands[0]))


def _ends(
    array: Instruction, computation: Computation, module: Module
) -> list[tuple[Instruction, bool, Computation]]:
    """Returns (user, whether the array is its first operand, its computation) of an array's users.

    Looks through bitcasts and into fusions.
    """
    ends = []
    for user in computation.values():
        for place, operand in enumerate(user.operands):
            if operand != array.name or user.kind == "parameter":
                continue
            if user.kind == "bitcast":
                ends += _ends(user, computation, module) or [(user, True, computation)]
            elif user.kind == "fusion":
                inside = module.inside(user)
                ends += _ends(_parameters(inside)[place], inside, module)
            else:
                ends.append((user, place == 0, computation))
    return ends


def _far(instruction: Instruction | None, only_first: bool = False) -> int:
    """Returns the bytes of an instruction's results in HBM."""
    arrays = instruction.arrays if instruction else []
    return sum(array.bytes for array in (arrays[:1] if only_first else arrays) if not array.near)


def _whole(instruction: Instruction) -> int:
    return sum(array.bytes for array in instruction.arrays)
