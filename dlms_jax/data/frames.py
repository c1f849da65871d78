"""Files of records in frames: intermediate results on disk, checked when they are read back.

A record is a tuple of byte strings, and a frame holds about 64 KiB of records. On disk a frame is a
magic number (4 bytes), the number of strings in a record, the number of records, a CRC-32 of what
follows (uint32 each), the lengths of all strings (uint64) and the strings, little-endian. A frame
without records ends the file. So a file that is cut off, changed or of another kind is noticed, and
reading one runs no code from it, as unpickling would.
"""

from collections.abc import Iterator
import itertools
import os
import pathlib
import struct
from typing import BinaryIO
import zlib

from dlms_jax.errors import UserError

_MAGIC = b"dlmF"
_HEAD = struct.Struct("<4sIII")
_FRAME = 1 << 16  # bytes of strings after which a frame is written


class FrameWriter:
    """Writes records to a binary stream, which is the caller's to close.

    A file may be written by several writers, one after the other. The last one calls `end`.
    """

    def __init__(self, stream: BinaryIO, width: int):
        """width: the number of strings in a record."""
        self._stream, self._width = stream, width
        self._strings: list[bytes] = []
        self._size = 0

    def write(self, record: tuple[bytes, ...]) -> None:
        """Adds a record."""
        self._strings += record
        self._size += sum(map(len, record))
        if self._size >= _FRAME:
            self.flush()

    def flush(self) -> None:
        """Writes the records that are in memory."""
        if self._strings:
            self._write_frame()

    def end(self) -> None:
        """Writes the end of the file: a file without it counts as cut off."""
        self.flush()
        self._write_frame()

    def _write_frame(self):
        number = len(self._strings) // self._width
        lengths = struct.pack(f"<{len(self._strings)}Q", *map(len, self._strings))
        body = b"".join((lengths, *self._strings))
        self._stream.write(_HEAD.pack(_MAGIC, self._width, number, zlib.crc32(body)))
        self._stream.write(body)
        self._strings, self._size = [], 0


def read_frames(path: pathlib.Path, width: int) -> Iterator[tuple[bytes, ...]]:
    """Yields the records of a file.

    Args:
      path: a file that FrameWriter wrote.
      width: the number of strings in a record.

    Raises:
      UserError: the file is cut off, damaged, or of another kind.
    """
    with open(path, "rb") as stream:
        left = os.fstat(stream.fileno()).st_size
        while True:
            head = stream.read(_HEAD.size)
            if head[: len(_MAGIC)] != _MAGIC[: len(head)]:
                raise _damaged(path, "it holds other data")
            if len(head) < _HEAD.size:
                raise _damaged(path, "it is cut off")
            _, found_width, number, checksum = _HEAD.unpack(head)
            if found_width != width:
                raise _damaged(path, "it holds other data")
            left -= _HEAD.size + 8 * width * number
            if left < 0:
                raise _damaged(path, "it is cut off")
            raw = stream.read(8 * width * number)
            lengths = struct.unpack(f"<{width * number}Q", raw)
            left -= sum(lengths)
            if left < 0:
                raise _damaged(path, "it is cut off")
            data = stream.read(sum(lengths))
            if zlib.crc32(data, zlib.crc32(raw)) != checksum:
                raise _damaged(path, "its checksum is wrong")
            if not number:
                break
            ends = itertools.accumulate(lengths, initial=0)
            strings = (data[start:end] for start, end in itertools.pairwise(ends))
            yield from zip(*[strings] * width, strict=True)
        if left:
            raise _damaged(path, "it continues after its end")


def _damaged(path: pathlib.Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}); remove its folder and run the same command again")
