"""Checks of options: types and ranges, also from Python, and the memory and disk that they need.

What an option needs is estimated before it is built, and refused with the estimate.
"""

from collections.abc import Mapping
import dataclasses
import numbers
import os
import pathlib
import shutil
from typing import Any

from dlms_jax.config import SETTINGS
from dlms_jax.errors import UserError

TOKEN_BYTES = 13  # of a token of packing.Rows: three int32 and a bool
_LARGEST_ROW = 1 << 28  # bytes in memory: rows are packed in blocks, and in several processes


_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def check_fields(
    options: Any, settings: Mapping[str, str], least: Mapping[str, int] | None = None
) -> None:
    """Checks the fields of a frozen dataclass, and stores numbers in the type of their default.

    Args:
      options: the dataclass. A field must be of the type of its default.
      settings: {field: the setting "section.name" whose type and range it has}.
      least: {field: its smallest value}.

    Raises:
      UserError: a field has another type, or is out of range.
    """
    for name, key in settings.items():
        object.__setattr__(options, name, SETTINGS[key].check(getattr(options, name), name))
    for field in dataclasses.fields(options):
        kind: type[Any] = type(field.default)
        value = getattr(options, field.name)
        if kind not in _KINDS:
            continue
        if not _is(value, kind):
            raise UserError(f"{field.name}={value!r} should be {_KINDS[kind]}")
        object.__setattr__(options, field.name, kind(value))
    for name, low in (least or {}).items():
        if getattr(options, name) < low:
            raise UserError(f"{name}={getattr(options, name)} should be at least {low}")


def at_least(value: Any, low: int, name: str) -> int:
    """Returns a whole number.

    Raises:
      UserError: `value`, which `name` names, is something else, or below `low`.
    """
    if not _is(value, int) or value < low:
        raise UserError(f"{name}={value!r} should be a whole number of at least {low}")
    return int(value)


def _is(value: Any, kind: type) -> bool:
    """Returns whether a value is of a kind; whole numbers are numbers, truth values are not."""
    if kind in (bool, str):
        return isinstance(value, kind)
    abstract = numbers.Integral if kind is int else numbers.Real
    return isinstance(value, abstract) and not isinstance(value, bool)


def check_row(length: int) -> None:
    """Raises UserError if a row of `length` tokens is too large to be packed in memory."""
    if (size := length * TOKEN_BYTES) > _LARGEST_ROW:
        raise UserError(
            f"a row of {length} tokens takes {_gib(size)} in memory, more than "
            f"{_gib(_LARGEST_ROW)}; use a sequence length of at most {_LARGEST_ROW // TOKEN_BYTES}"
        )


def check_memory(size: int, what: str) -> None:
    """Raises UserError if `size` bytes are more than this machine's memory.

    Args:
      size: the estimate.
      what: what takes so much, with its option: the subject of the message.
    """
    if size > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise UserError(
            f"{what} takes about {_gib(size)} of memory, and this machine has {_gib(memory)}; use "
            "a smaller one"
        )


def check_disk(size: int, folder: pathlib.Path, what: str) -> None:
    """Raises UserError if `size` bytes are more than is free on the disk of a folder to be made.

    Args:
      size: the estimate.
      folder: where they are written; it need not exist.
      what: what takes so much, with its option: the subject of the message.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if size > (free := shutil.disk_usage(there).free):
        raise UserError(
            f"{what} takes about {_gib(size)} on disk, and {there} has {_gib(free)} free; use "
            "fewer, or another folder"
        )


def _gib(size: int) -> str:
    """Returns a number of bytes in GiB, in words."""
    return f"{size / 2**30:.2f} GiB" if size < 2**40 else f"{size >> 30} GiB"
