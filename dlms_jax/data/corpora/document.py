"""Documents, and the hashes that decide where a document goes.

The hashes depend on the text only, not on files or on the order of documents. So a corpus that
grows moves no document between training and held-out, and any number of workers sorts a corpus the
same way.
"""

from collections.abc import Iterable
import hashlib
import re
from typing import NamedTuple

_STRAY_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class Document(NamedTuple):
    """A text of a corpus.

    Attributes:
      name: where the text is from, for messages and reports.
      text: UTF-8. Bytes that are not UTF-8 are there as they were read (`to_str`).
    """

    name: str
    text: bytes


def to_str(text: bytes) -> str:
    """Returns a text as a str, in which bytes that are not UTF-8 are U+DC80..U+DCFF."""
    return text.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """Returns the UTF-8 of a str: the inverse of `to_str`."""
    return text.encode("utf-8", "surrogateescape")


def replace_stray_surrogates(text: str) -> str:
    """Returns a str with U+FFFD for surrogates that represent no byte, which JSON can spell."""
    return _STRAY_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def strip(text: bytes) -> bytes:
    """Returns a text without the white space, as str.strip defines it, at both ends."""
    text = text.strip()
    if b"!" <= text[:1] <= b"~" and b"!" <= text[-1:] <= b"~":
        return text
    return to_bytes(to_str(text).strip())  # Unicode has more white space than bytes.strip knows


def order_key(text: bytes, seed: int) -> bytes:
    """Returns the 32 bytes by which a corpus is sorted: a shuffle that depends on `seed`.

    Equal texts have equal keys and no others do, so duplicates become neighbours.
    """
    return hashlib.sha256(seed.to_bytes(8, "big") + text).digest()


def is_heldout(text: bytes, fraction: float) -> bool:
    """Returns whether a document is on the held-out side, as `fraction` of all documents are."""
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def sha256_of_texts(texts: Iterable[bytes]) -> str:
    """Returns the hexadecimal SHA-256 of texts in order; it depends on where each text ends."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()
