"""Files of frames: intermediate results on disk, which are checked when they are read back.

A frame holds one or more byte strings. On disk it is a magic number (4 bytes), the number of its
strings (uint32), a CRC-32 of what follows (uint32), the strings' lengths (uint64 each) and the
strings, little-endian. A frame without strings ends the file. So a file that is cut off, changed or
of another kind is found out, and reading one runs no code from it, as unpickling would.
"""

from collections.abc import Iterator
import os
import pathlib
import struct
from typing import BinaryIO
import zlib

from dlms_jax.errors import UserError

_MAGIC = b"dlmF"
_HEAD = struct.Struct("<4sII")
_END = _HEAD.pack(_MAGIC, 0, 0)


def write_frame(stream: BinaryIO, *fields: bytes) -> None:
    """Writes a frame of one or more byte strings to a binary stream."""
    lengths = struct.pack(f"<{len(fields)}Q", *map(len, fields))
    checksum = zlib.crc32(lengths)
    for field in fields:
        checksum = zlib.crc32(field, checksum)
    stream.write(_HEAD.pack(_MAGIC, len(fields), checksum) + lengths)
    for field in fields:
        stream.write(field)


def write_end(stream: BinaryIO) -> None:
    """Writes the end of the file: a file without it counts as cut off."""
    stream.write(_END)


def read_frames(path: pathlib.Path, fields: int) -> Iterator[tuple[bytes, ...]]:
    """Yields the frames of a file.

    Args:
      path: a file of frames.
      fields: the number of byte strings of each frame.

    Raises:
      UserError: the file is cut off, damaged, or not a file of such frames.
    """
    head = struct.Struct(f"{_HEAD.format}{fields}Q")
    with open(path, "rb") as stream:
        left = os.fstat(stream.fileno()).st_size
        while (start := stream.read(head.size)) != _END:
            if start[: len(_MAGIC)] != _MAGIC[: len(start)]:
                raise _damaged(path, "it has other data")
            if len(start) < head.size:
                raise _damaged(path, "it is cut off")
            _, number, checksum, *lengths = head.unpack(start)
            left -= head.size + sum(lengths)
            if number != fields or left < 0:
                raise _damaged(path, "it has other data, or is cut off")
            frame = tuple(map(stream.read, lengths))
            found = zlib.crc32(start[_HEAD.size :])
            for field in frame:
                found = zlib.crc32(field, found)
            if found != checksum:
                raise _damaged(path, "a checksum is wrong")
            yield frame


def _damaged(path: pathlib.Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}); remove its folder and run the same command again")
