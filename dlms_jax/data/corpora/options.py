"""How raw files are read."""

from collections.abc import Callable
import dataclasses
from typing import Literal

from dlms_jax.data.checks import at_least, check_fields

Invalid = Literal["strict", "replace", "skip", "keep"]
OnInvalid = Callable[[Literal["replaced", "skipped"]], None]
PIECE_BYTES = 16 * 1024  # of the documents into which text files are cut, unless a text is short
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
      piece_bytes: text files are cut into documents of at most this many characters; 0: never;
        None: PIECE_BYTES, or less for a short text that is split (pieces.py).
    """

    field: str = "text"
    invalid: Invalid = "strict"
    piece_bytes: int | None = None

    def __post_init__(self):
        settings = {"field": "data.text_field", "invalid": "data.invalid_utf8"}
        check_fields(self, settings)
        if self.piece_bytes is not None:
            object.__setattr__(self, "piece_bytes", at_least(self.piece_bytes, 0, "piece_bytes"))


DEFAULTS = ReadOptions()


def ignore_invalid(what: Literal["replaced", "skipped"]) -> None:
    """Does nothing: the default of readers that tell their caller of each invalid text."""
