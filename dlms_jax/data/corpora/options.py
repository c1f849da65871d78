"""How raw files are read."""

from collections.abc import Callable
import dataclasses
from typing import Literal

from dlms_jax.data.checks import check_fields

Invalid = Literal["strict", "replace", "skip", "keep"]
OnInvalid = Callable[[Literal["replaced", "skipped"]], None]
POLICIES = "--invalid-utf8=replace, skip or keep reads it"  # the end of messages about invalid text


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How raw files are read. Raises UserError for impossible values.

    Attributes:
      field: the field of a JSON, CSV or Parquet record that holds the text.
      invalid: what happens to text that is not UTF-8. "strict" raises an error; "replace" puts
        U+FFFD for the invalid bytes; "skip" leaves the text (the record, or the whole text file)
        out, and also a text that is null; "keep" keeps the bytes as they are, as every tokenizer
        here can.
      piece_bytes: text files are cut into documents of at most this many characters; 0: never.
    """

    field: str = "text"
    invalid: Invalid = "strict"
    piece_bytes: int = 16 * 1024

    def __post_init__(self):
        settings = {"field": "data.text_field", "invalid": "data.invalid_utf8"}
        check_fields(self, settings, {"piece_bytes": 0})


DEFAULTS = ReadOptions()


def ignore_invalid(what: Literal["replaced", "skipped"]) -> None:
    """Does nothing: the default of readers that tell their caller of each invalid text."""
