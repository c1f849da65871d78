"""The format of what holds a run's settings on disk, and how older formats become today's.

Checkpoints, exports and the logs of studies keep the settings of a run under "config", beside the
number of their format. To rename a setting: change its section, increase FORMAT, and add a line to
RENAMED.
"""

from collections.abc import Callable, Mapping
import copy
import functools
import types
from typing import Any, NamedTuple

from dlms_jax.errors import UserError

FORMAT = 1  # of checkpoint metadata, dlms_jax.json, config.json's "dlms_jax" part and study.json


class Renamed(NamedTuple):
    """A setting that has another name since a format.

    Attributes:
      old: "section.name" before.
      new: "section.name" from `format` on.
      format: the first format with the new name.
      values: new values by old ones, where they changed too.
    """

    old: str
    new: str
    format: int
    values: Mapping[Any, Any] = types.MappingProxyType({})

    def new_value(self, value: Any) -> Any:
        """Returns what a value of before is now."""
        return next((new for old, new in self.values.items() if old == value), value)


RENAMED = (  # those of older formats first
    Renamed("model.matmuls", "model.quantization", 1, {"dtype": "none"}),
    Renamed("model.source", "model.prompt_encoder", 1, {"concatenation": "none"}),
    Renamed("model.source_layers", "model.prompt_encoder_layers", 1),
    Renamed("data.repeat", "data.max_epochs", 1),
    Renamed("data.short_rows", "data.random_length_probability", 1),
    Renamed("data.field", "data.text_field", 1),
    Renamed("data.invalid", "data.invalid_utf8", 1),
    Renamed("training.head", "training.loss_implementation", 1),
    Renamed("training.head_chunk", "training.loss_chunk_size", 1),
    Renamed("training.hang_minutes", "training.watchdog_minutes", 1),
    Renamed("training.hang_exit", "training.watchdog_exit", 1),
    Renamed("sampling.grid", "sampling.timestep_spacing", 1),
    Renamed("sampling.rounding", "sampling.clamp", 1),
)


class NewerFormatError(UserError):
    """Something on disk was written by a newer version."""


def upgrade(
    data: dict[str, Any], newest: int, steps: Mapping[int, Callable], where: Any
) -> dict[str, Any]:
    """Returns JSON data in the newest format.

    Args:
      data: what was read; without "format" it has format 0.
      newest: the format that this version writes.
      steps: by format, the function that returns data of that format in the next one.
      where: the file or folder that the data are from, for messages.

    Raises:
      NewerFormatError: the format is newer than `newest`.
      UserError: the format is none, or there is no step from it.
    """
    number = data.get("format", 0) if isinstance(data, dict) else None
    if type(number) is not int or number < 0:
        raise UserError(f"{where} has format {number!r}, which is not a format; get it again")
    if number > newest:
        raise NewerFormatError(
            f"{where} has format {number}, and this version of dlms_jax reads up to format "
            f"{newest}; update dlms_jax"
        )
    for old in range(number, newest):
        if old not in steps:
            raise UserError(f"{where} has format {old}, which is no longer read; make it again")
        data = steps[old](data)
    return data | {"format": newest}


def upgrade_run(data: dict[str, Any], where: Any) -> dict[str, Any]:
    """Returns what holds a run's settings under "config" in today's format; see `upgrade`."""
    steps = {old: functools.partial(_rename, to=old + 1) for old in range(FORMAT)}
    return upgrade(data, FORMAT, steps, where)


def new_name(key: str, value: Any = None) -> tuple[str, Any] | None:
    """Returns (today's name, today's value) of a setting's older name; None of any other name."""
    found = None
    for entry in RENAMED:
        if entry.old == key:
            key, value = found = entry.new, entry.new_value(value)
    return found


def old_names(key: str) -> list[str]:
    """Returns the older names of a setting, "section.name"."""
    return [entry.old for entry in RENAMED if new_name(entry.old)[0] == key]


def _rename(data: dict[str, Any], to: int) -> dict[str, Any]:
    """Returns data of the format before `to` with the names that settings have in it."""
    if not isinstance(data.get("config"), dict):
        return data
    config = copy.deepcopy(data["config"])
    for entry in RENAMED:
        (old_section, old), (section, new) = entry.old.split("."), entry.new.split(".")
        before = config.get(old_section)
        if entry.format == to and isinstance(before, dict) and old in before:
            config.setdefault(section, {})[new] = entry.new_value(before.pop(old))
    return data | {"config": config}
