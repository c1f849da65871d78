"""A file as a stream of bytes, decompressed if its name says that it is compressed."""

import bz2
from collections.abc import Callable
import gzip
import io
import pathlib
from typing import Any

from dlms_jax.errors import UserError, optional_import

COMPRESSED = (".gz", ".zst", ".bz2")  # endings of names, in any case
BOM = "\ufeff"  # a byte order mark, which may open a text file and is no part of its text
_LARGEST_WINDOW = 1 << 31  # bytes that `zstd --long=31` refers back to


def open_stream(path: pathlib.Path) -> io.BufferedIOBase:
    """Returns a binary stream of a file, decompressed if the name ends in .gz, .zst or .bz2."""
    ending = path.suffix.lower()
    if ending == ".gz":
        return gzip.open(path)
    if ending == ".bz2":  # the module's own reader ends early, in silence, at a damaged stream
        return io.BufferedReader(_Frames(path, bz2.BZ2Decompressor, OSError))
    if ending == ".zst":
        zstandard = optional_import("zstandard", "data")
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        return io.BufferedReader(_Frames(path, decompressor.decompressobj, zstandard.ZstdError))
    return open(path, "rb")


class _Frames(io.RawIOBase):
    """A decompressed stream. A file that is cut off raises an error instead of ending early."""

    def __init__(
        self, path: pathlib.Path, start_frame: Callable[[], Any], damage: type[Exception]
    ) -> None:
        """Opens a file.

        Args:
          path: the file: compressed frames, one after the other.
          start_frame: returns the decompressor of a frame.
          damage: what the decompressor raises.
        """
        self._path, self._start_frame, self._damage = path, start_frame, damage
        self._file = open(path, "rb")  # noqa: SIM115 (close() closes it)
        self._frame, self._waiting = None, memoryview(b"")

    def readable(self):
        return True

    def readinto(self, buffer):
        block = b""
        while not self._waiting:
            block = block or self._file.read(1 << 17)
            if not block:
                if self._frame:
                    raise UserError(f"{self._path} is cut off: its last frame does not end")
                return 0
            self._frame = self._frame or self._start_frame()
            try:
                self._waiting = memoryview(self._frame.decompress(block))
            except self._damage as error:
                raise UserError(f"{self._path} is damaged: {error}") from None
            # A file that was appended to has several frames.
            block = self._frame.unused_data
            self._frame = None if self._frame.eof else self._frame
        self._file.seek(-len(block), 1)
        number = min(len(buffer), len(self._waiting))
        buffer[:number], self._waiting = self._waiting[:number], self._waiting[number:]
        return number

    def close(self):
        self._file.close()
        super().close()
