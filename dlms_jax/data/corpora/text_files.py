"""Text files -> pieces that end at line ends, read block by block.

A text file is cut into several documents, so that one large file still splits into training and
held-out.
"""

import codecs
from collections.abc import Iterable, Iterator
import pathlib
import sys

from dlms_jax.data.corpora.document import to_bytes
from dlms_jax.data.corpora.options import PIECE_BYTES, POLICIES, OnInvalid, ReadOptions
from dlms_jax.data.corpora.streams import BOM, open_stream
from dlms_jax.errors import UserError

_BLOCK = 1 << 20  # bytes that are read at a time
_ERRORS = {"strict": "strict", "skip": "strict", "replace": "replace", "keep": "surrogateescape"}


def read_text_file(
    path: pathlib.Path, options: ReadOptions, on_invalid: OnInvalid
) -> Iterator[tuple[int, bytes]]:
    """Yields (number, piece) of a text file."""
    if options.invalid in ("skip", "replace") and not _is_utf8(path):
        # Checked before the first piece, so that a file that is skipped yields none.
        if options.invalid == "skip":
            on_invalid("skipped")
            return
        on_invalid("replaced")
    with open_stream(path) as stream:
        text = _decoded(stream, path, _ERRORS[options.invalid])
        size = PIECE_BYTES if options.piece_bytes is None else options.piece_bytes
        yield from enumerate(cut(text, size or sys.maxsize))


def cut(blocks: Iterable[str], size: int) -> Iterator[bytes]:
    """Yields a text in pieces.

    Args:
      blocks: the text, in blocks of any length; the pieces do not depend on where a block ends.
      size: the most characters of a piece. A piece ends at the last line end that fits, or inside a
        line that is longer.
    """
    waiting = ""
    for block in blocks:
        waiting += block
        start = 0
        while len(waiting) - start > size:
            end = waiting.rfind("\n", start, start + size) + 1
            end = end if end > start else start + size
            yield to_bytes(waiting[start:end])
            start = end
        waiting = waiting[start:]
    if waiting:
        yield to_bytes(waiting)


def _decoded(stream, path, errors) -> Iterator[str]:
    """Yields the text of a stream in blocks, without the byte order mark that may open it."""
    decoder, offset, at_start = codecs.getincrementaldecoder("utf-8")(errors), 0, True
    while True:
        block = stream.read(_BLOCK)
        waiting = len(decoder.getstate()[0])  # bytes of a character that the last block began
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            where = offset - waiting + error.start
            raise UserError(f"{path}: byte {where} is not UTF-8 ({POLICIES})") from None
        yield text.removeprefix(BOM) if at_start else text
        at_start = at_start and not text
        if not block:
            return
        offset += len(block)


def _is_utf8(path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_stream(path) as stream:
        try:
            while block := stream.read(_BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True
