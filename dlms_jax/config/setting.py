"""The definition of a setting: its meaning, its allowed values, and what depends on it.

A section (config/sections/) is a frozen dataclass whose fields are made by `setting`. `settings_in`
reads them for the checks, for --help and docs/settings.md, and to decide what a resume or a warm
start may change.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import json
import math
import numbers
import types
import typing
from typing import Any, Literal, TypeVar

from dlms_jax.errors import UserError

T = TypeVar("T")

OBJECTIVES = ("masked", "uniform", "gaussian", "block", "autoregressive")
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_TYPES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    tuple[str, ...]: 'a list of strings, ["a", "b"]',
    dict[str, float]: 'names with numbers, {"a": 0.7, "b": 0.3}',
}


@dataclasses.dataclass(frozen=True)
class Range:
    """The finite numbers between two limits, and optionally one number outside of them.

    Attributes:
      low, high: the limits.
      low_open, high_open: whether the limit itself is excluded.
      also: a number that is allowed as well.
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    also: float | None = None

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return (above and below and abs(value) < math.inf) or value == self.also

    def __str__(self):
        limits = []
        if self.low > -math.inf:
            limits.append(f"{'above' if self.low_open else 'at least'} {self.low}")
        if self.high < math.inf:
            limits.append(f"{'below' if self.high_open else 'at most'} {self.high}")
        text = " and ".join(limits) or "finite"
        return text if self.also is None else f"{text}, or {self.also}"


FINITE = Range()
AT_LEAST_0 = Range(0)
AT_LEAST_1 = Range(1)
ABOVE_0 = Range(0, low_open=True)
SHARE = Range(0, 1)
BELOW_1 = Range(0, 1, high_open=True)
SEED = Range(0, 2**32 - 1)  # jax.random.key accepts more, but drops the upper bits


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
      key: "section.name".
      type: int, float, bool, str, a Literal of choices, tuple[str, ...] or dict[str, float].
      default: the value if a recipe does not set it.
      meaning: a sentence or two, with units.
      range: of a number, or of the numbers in a dict.
      shapes: the objectives for which it determines the network's parameters or their shapes.
      computes: the objectives for which a change makes a network with the same weights compute
        something else, or gives its outputs another meaning.
      changeable: whether a run may resume with another value.
    """

    key: str
    type: Any
    default: Any
    meaning: str
    range: Range
    shapes: tuple[str, ...]
    computes: tuple[str, ...]
    changeable: bool

    @property
    def choices(self) -> tuple[str, ...]:
        """Returns the allowed values of a Literal setting; () for others."""
        return typing.get_args(self.type) if typing.get_origin(self.type) is Literal else ()

    @property
    def kind(self) -> str:
        """Returns its type in words."""
        return f"one of {', '.join(self.choices)}" if self.choices else _TYPES[self.type]

    @property
    def allowed(self) -> str:
        """Returns its allowed values in words; "" if every value of its type is allowed."""
        is_number = self.type in (int, float, dict[str, float])
        limited = is_number and self.range != FINITE
        return ", ".join(self.choices) or (str(self.range) if limited else "")

    def check(self, value: Any, name: str = "") -> Any:
        """Returns a value in the setting's type; an int is accepted for a float.

        Args:
          value: the value from a recipe, an option or a caller.
          name: the name in error messages. "": config.KEY.

        Raises:
          UserError: the value has another type or is out of range.
        """
        name = name or f"config.{self.key}"
        value = self._typed(value, name)
        self.check_range(value, name)
        return value

    def check_range(self, value: Any, name: str = ""):
        """Checks the range of a value of the right type.

        Raises:
          UserError: the value is out of range.
        """
        name = name or f"config.{self.key}"
        if isinstance(value, dict):
            for inner, number in value.items():
                self.check_range(number, f"{name}[{inner!r}]")
        elif isinstance(value, int | float) and value not in self.range:
            raise UserError(f"{name}={value} should be {self.range}")

    def parse(self, text: str, name: str = "") -> Any:
        """Returns the value of a command-line text; arguments and errors are those of `check`."""
        name = name or f"config.{self.key}"
        if self.choices or self.type is str:
            return self.check(text, name)
        try:
            if self.type is bool:
                return _WORDS[text.lower()]
            value = self.type(text) if self.type in (int, float) else json.loads(text)
        except (ValueError, KeyError):
            raise UserError(f"{name}={text} should be {self.kind}") from None
        return self.check(value, name)

    def _typed(self, value, name):
        is_number = isinstance(value, numbers.Real) and not isinstance(
            value, bool
        )  # includes NumPy's
        if self.type == dict[str, float] and isinstance(value, dict):
            number = dataclasses.replace(self, type=float)
            return {part: number._typed(x, f"{name}[{part!r}]") for part, x in value.items()}
        if self.type == tuple[str, ...] and isinstance(value, list | tuple):
            fits = all(isinstance(part, str) for part in value)
            value = tuple(value)
        elif self.choices:
            fits = value in self.choices
        elif self.type in (int, float):
            fits = is_number and (self.type is float or isinstance(value, numbers.Integral))
            value = self.type(value) if fits else value
        else:
            fits = type(value) is self.type
        if not fits:
            raise UserError(f"{name}={value!r} should be {self.kind}")
        return value


def setting(
    default: T,
    meaning: str,
    range: Range = FINITE,
    *,
    shapes: tuple[str, ...] = (),
    computes: tuple[str, ...] = (),
    changeable: bool = False,
) -> T:
    """Returns a section's field; see `Setting` for the arguments."""
    metadata = {
        "meaning": meaning,
        "range": range,
        "shapes": shapes,
        "computes": computes,
        "changeable": changeable,
    }
    if isinstance(default, dict):
        copied: Callable[[], Any] = default.copy  # a dataclass takes no mutable default
        return dataclasses.field(default_factory=copied, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def settings_in(config: type, prefix: str = "") -> Mapping[str, Setting]:
    """Returns {"section.name": Setting} of a dataclass and its sections."""
    found: dict[str, Setting] = {}
    types_ = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        key, type_ = prefix + field.name, types_[field.name]
        if isinstance(type_, type) and dataclasses.is_dataclass(type_):
            found |= settings_in(type_, f"{key}.")
        else:
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            found[key] = Setting(key, type_, default, **field.metadata)
    return types.MappingProxyType(found)
