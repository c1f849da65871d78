"""A document between two stages of cleaning."""

from typing import NamedTuple

from dlms_jax.data.cleaning.report import Count
from dlms_jax.data.corpora.document import order_key, to_str


def identity(text: bytes) -> bytes:
    """Returns the 16 bytes that identify a text: the first of its order_key at seed 0."""
    return order_key(text, 0)[:16]


class Record(NamedTuple):
    """A document between two stages; records sort by identity, then by name.

    Attributes:
      identity: the `identity` of the text.
      name: valid Unicode, unlike a Document's.
      text: the text as the stages have changed it.
      size: the bytes of the original text.
    """

    identity: bytes
    name: str
    text: bytes
    size: int

    @classmethod
    def of(cls, name: str, text: bytes, size: int) -> "Record":
        """Returns a record with the identity of its text."""
        return cls(identity(text), name, text, size)

    @property
    def characters(self) -> str:
        """Returns the text as a str, for rules on characters."""
        return to_str(self.text)

    @property
    def count(self) -> Count:  # type: ignore[override]  # it hides tuple.count
        """Returns the count of this one document."""
        return Count(1, self.size, self.name)
