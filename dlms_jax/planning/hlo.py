"""A parser of XLA's HLO text: which instructions a program runs, and how often.

The compiler's own cost analysis counts the body of a loop once. Here a scan over N layers counts
its body N times.
"""

from collections.abc import Iterator
import dataclasses
import math
import re

_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^{}]*\})?")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_END = re.compile(r"\}(,|$)")  # "}}," ends a kernel's attributes that span several lines
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of an instruction's type; `near`: it is in a memory other than HBM."""

    bytes: int
    near: bool


@dataclasses.dataclass(frozen=True)
class Instruction:
    """An HLO instruction, as parsed from its line."""

    name: str
    kind: str  # its opcode: "fusion", "all-gather-start", ...
    type: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def arrays(self) -> list[Array]:
        """Returns the arrays of its result; a tuple has several."""
        return _arrays(self.type)

    def called(self, how: str) -> str:
        """Returns the computation that an attribute (calls, body, ...) names; "" if it has none."""
        return dict(_CALLED.findall(self.attributes)).get(how, "")

    @property
    def ends(self) -> bool:
        """Returns whether it ends an asynchronous operation that another instruction started."""
        return self.kind.endswith("-done") or self.name.startswith("async-collective-done")

    @property
    def goes_on(self) -> bool:
        """Returns whether it continues or ends an operation that another instruction started.

        On TPUs a gather that overlaps with matmuls continues in their fusions.
        """
        return self.ends or self.called("calls").startswith("async_collective_fusion")

    @property
    def source(self) -> str:
        """Returns XLA's op_name: the place in the JAX program; "" if there is none."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the name of its entry computation."""

    computations: dict[str, Computation]
    entry: str

    def executed(
        self, unknown_trips: float = 1
    ) -> Iterator[tuple[Instruction, Computation, float]]:
        """Yields (instruction, its computation, how often it runs), without those inside fusions.

        Args:
          unknown_trips: iterations to assume for a loop whose length is only known at run time.
        """
        yield from self._executed(self.entry, 1, unknown_trips)

    def _executed(self, name, times, unknown):
        computation = self.computations[name]
        for instruction in computation.values():
            yield instruction, computation, times
            if instruction.kind == "while":
                trips = self.trips(instruction)
                trips = unknown if trips is None else trips
                yield from self._executed(instruction.called("body"), times * trips, unknown)
            elif instruction.kind in ("call", "async-start"):
                inner = instruction.called("to_apply") or instruction.called("calls")
                yield from self._executed(inner, times, unknown)
            elif instruction.kind == "conditional":  # one branch runs; all are equally likely
                branches = _branches(instruction.attributes)
                for branch in branches:
                    yield from self._executed(branch, times / len(branches), unknown)

    def trips(self, loop: Instruction) -> int | None:
        """Returns the number of iterations of a while loop; None if it is unknown.

        It is XLA's known_trip_count, else the constant that the condition compares a counter with
        (a scan counts from 0 by 1).
        """
        noted = re.search(r"known_trip_count[^\d}]*(\d+)", loop.attributes)
        if noted:
            return int(noted[1])
        condition = self.computations[loop.called("condition")]
        root = next(i for i in condition.values() if i.root)
        if root.kind != "compare" or "direction=LT" not in root.attributes:
            return None
        for operand in root.operands:
            limit = condition.get(operand)
            if limit is not None and limit.kind == "constant":
                value = re.search(r"constant\((-?\d+)\)", limit.attributes)
                return int(value[1]) if value else None
        return None

    def inside(self, fusion: Instruction) -> Computation:
        """Returns the instructions of a fusion."""
        return self.computations[fusion.called("calls")]


def parse(text: str) -> Module:
    """Returns the Module of compiled.as_text()."""
    computations: dict[str, Computation] = {}
    entry = ""
    current: Computation | None = None
    for line in text.splitlines():
        if current is None:
            head = _HEAD.match(line)
            if head and " = " not in line.split(" (")[0]:
                current = computations.setdefault(head[2], {})
                entry = head[2] if head[1] else entry
        elif _END.match(line):
            current = None
        elif found := _LINE.match(line):
            instruction = _instruction(found[2], found[3], bool(found[1]))
            current[instruction.name] = instruction
    return Module(computations, entry)


def _instruction(name: str, text: str, root: bool) -> Instruction:
    """Parses TYPE OPCODE(OPERANDS), ATTRIBUTES."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    type_, rest = text[:end], text[end:].lstrip()
    kind, _, _ = rest.partition("(")
    close = _closing(rest, len(kind))
    inner, attributes = rest[len(kind) + 1 : close], rest[close + 1 :]
    if kind == "constant":
        attributes = f"constant({inner}){attributes}"
    operands = tuple(_NAME.findall(inner)) or tuple(
        part.split()[-1] for part in inner.split(",") if part.strip() and kind != "constant"
    )
    return Instruction(name, kind, type_, operands, attributes, root)


def _closing(text: str, start: int) -> int:
    """Returns the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if not depth:
                return place
    raise ValueError(f"unbalanced parentheses: {text[start : start + 80]}")


def _arrays(type_: str) -> list[Array]:
    arrays = []
    for dtype, sizes, layout in _ARRAY.findall(type_):
        if dtype in _BYTES:
            number = math.prod(int(size) for size in sizes.split(",") if size)
            near = bool(re.search(r"S\([1-9]\d*\)", layout or ""))
            arrays.append(Array(math.ceil(number * _BYTES[dtype]), near))
    return arrays


def _branches(attributes: str) -> list[str]:
    found = _BRANCHES.search(attributes)
    if found:
        return [name.strip().lstrip("%") for name in found[1].split(",")]
    return re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes)
