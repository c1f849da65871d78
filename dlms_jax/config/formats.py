"""The on-disk format of a run's settings, and the migration of older formats.

Checkpoints, exports and the logs of studies store the settings of a run under "config", with the
number of their format. To rename a setting, change its section, increase FORMAT, and add a line to
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
    """A setting that was renamed.

    Attributes:
      old: the old "section.name".
      new: the new "section.name".
      format: the first format with the new name.
      values: {old value: new value}, for values that changed too.
    """

    old: str
    new: str
    format: int
    values: Mapping[Any, Any] = types.MappingProxyType({})

    def new_value(self, value: Any) -> Any:
        """Returns the new value for an old one."""
        return next((new for old, new in self.values.items() if old == value), value)


RENAMED = (  # in order of the format
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
    """A file or folder was written by a newer version of dlms_jax."""


def upgrade(
    data: dict[str, Any], newest: int, steps: Mapping[int, Callable], where: Any
) -> dict[str, Any]:
    """Returns JSON data in the newest format.

    Args:
      data: the data; without "format" it has format 0.
      newest: the format that this version writes.
      steps: {format: function that converts data to the next format}.
      where: the file or folder of the data, for messages.

    Raises:
      NewerFormatError: the format is newer than `newest`.
      UserError: the format is invalid, or `steps` cannot convert it.
    """
    number = data.get("format", 0) if isinstance(data, dict) else None
    if type(number) is not int or number < 0:
        raise UserError(f"{where} has the invalid format {number!r}; create it again")
    if number > newest:
        raise NewerFormatError(
            f"{where} has format {number}, but this version of dlms_jax reads formats up to "
            f"{newest}; update dlms_jax"
        )
    for old in range(number, newest):
        if old not in steps:
            raise UserError(
                f"{where} has format {old}, which is no longer supported; create it again"
            )
        data = steps[old](data)
    return data | {"format": newest}


def upgrade_run(data: dict[str, Any], where: Any) -> dict[str, Any]:
    """Returns data with a run's settings under "config", in the current format; see `upgrade`."""
    steps = {old: functools.partial(_rename, to=old + 1) for old in range(FORMAT)}
    return upgrade(data, FORMAT, steps, where)


def new_name(key: str, value: Any = None) -> tuple[str, Any] | None:
    """Returns (current name, current value) of a renamed setting; None for any other name."""
    found = None
    for entry in RENAMED:
        if entry.old == key:
            key, value = found = entry.new, entry.new_value(value)
    return found


def old_names(key: str) -> list[str]:
    """Returns the older names of a setting; all names are "section.name"."""
    renamed = {entry.old: new_name(entry.old) for entry in RENAMED}
    return [old for old, new in renamed.items() if new and new[0] == key]


def _rename(data: dict[str, Any], to: int) -> dict[str, Any]:
    """Returns data of format `to` - 1 with the setting names of format `to`."""
    if not isinstance(data.get("config"), dict):
        return data
    config = copy.deepcopy(data["config"])
    for entry in RENAMED:
        (old_section, old), (section, new) = entry.old.split("."), entry.new.split(".")
        before = config.get(old_section)
        if entry.format == to and isinstance(before, dict) and old in before:
            config.setdefault(section, {})[new] = entry.new_value(before.pop(old))
    return data | {"config": config}
