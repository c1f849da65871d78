"""What a corpus is made of, and the two hashes that decide where a document goes.

Both depend on the text alone, not on files or their order. So a corpus that grows moves nothing
between training and held-out, and any number of workers sorts it the same way.
"""

import hashlib
from typing import NamedTuple


class Document(NamedTuple):
    """name: where it is from, for messages. text: bytes that are no UTF-8 are lone surrogates."""

    name: str
    text: str


def to_bytes(text: str) -> bytes:
    """Returns the UTF-8 of a text; bytes that were no UTF-8 come back as they were read."""
    return text.encode("utf-8", "surrogateescape")


def order_key(text: bytes, seed: int) -> bytes:
    """Returns the 32 bytes by which a corpus is sorted: a shuffle that `seed` names.

    Equal texts have equal keys and no others do, so duplicates become neighbours.
    """
    return hashlib.sha256(seed.to_bytes(8, "big") + text).digest()


def is_heldout(text: bytes, fraction: float) -> bool:
    """Returns whether a document is on the held-out side, as `fraction` of all documents are."""
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
