"""Project Gutenberg: the text file of a book, without the licence and credits around it."""

import codecs
from collections.abc import Iterator
import pathlib
import re

from dlms_jax.data.corpora.document import Document, to_bytes
from dlms_jax.errors import UserError

# The title in a marker may continue over two more lines.
_START = re.compile(
    r"\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG E(?:BOOK|TEXT)\b"
    r"(?:[^*\n]*(?:\n[^*\n]+){0,2}\*\*\*|[^\n]*)",
    re.IGNORECASE,
)
_SMALL_PRINT = re.compile(r"\*END\*? ?THE SMALL PRINT![^\n]*", re.IGNORECASE)  # before 2003
_END = re.compile(
    r"^[^\S\n]*(?:\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG E(?:BOOK|TEXT)\b"
    r"|End of (?:the |this )?Project Gutenberg\b)",
    re.IGNORECASE | re.MULTILINE,
)
_ENCODING = re.compile(rb"^character set encoding:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
_HEADER_BYTES = 32 * 1024  # the longest headers, with the small print, have about 15 kB


def parse(path: pathlib.Path) -> Iterator[Document]:
    """Yields one document, the book; none for a file without text.

    A file without markers is kept whole, and its document's name says so.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    text = _decode(raw, path).replace("\r\n", "\n")
    book = strip_licence(text)
    name = f"{path}#0" if book is not None else f"{path}#0 (no Gutenberg markers, kept whole)"
    if text.strip():
        yield Document(name, to_bytes(text if book is None else f"{book}\n"))


def strip_licence(text: str) -> str | None:
    """Returns the text between the markers of a Gutenberg text; None if it has no markers.

    Markers with no text between them do not count.
    """
    start = _START.search(text)
    if start is None:
        *_, start = [None, *_SMALL_PRINT.finditer(text)]
    first = start.end() if start else 0
    end = _END.search(text, first)
    book = text[first : end.start() if end else len(text)].strip()
    return book if book and (start or end) else None


def _decode(raw: bytes, path: pathlib.Path) -> str:
    """Returns the text of a file: UTF-8, else the encoding that its header states, else Latin-1.

    UTF-8 comes first: text in another encoding is hardly ever valid UTF-8, and files were converted
    to UTF-8 without a change of their header. Latin-1 is tried for names that end in "-8.txt" and
    for Gutenberg's headers.
    """
    header = raw[:_HEADER_BYTES]
    stated = _ENCODING.search(header)
    names: list[str | None] = ["utf-8-sig"]
    if stated:
        names.append(_codec(stated[1].decode("latin-1")))
    if path.stem.endswith("-8") or b"project gutenberg" in header.lower():
        names.append("latin-1")
    for name in filter(None, names):
        try:
            return raw.decode(name)
        except UnicodeDecodeError:
            continue
    raise UserError(
        f"{path} is not UTF-8, and its header states no other encoding "
        "(convert it: iconv -f LATIN1 -t UTF-8)"
    )


def _codec(stated: str) -> str | None:
    """Returns Python's name of an encoding such as "ISO Latin-1" or "CP-1252"; None: unknown."""
    name = stated.lower()
    if "latin" in name:
        name = "latin-1"
    for candidate in (name, name.replace("cp-", "cp"), name.split()[-1]):
        try:
            return codecs.lookup(candidate).name
        except LookupError:
            continue
    return None
