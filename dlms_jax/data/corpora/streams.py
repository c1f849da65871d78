"""A file as a stream of bytes, decompressed if its name says that it is compressed."""

import gzip
import io
import pathlib

from dlms_jax.errors import UserError, optional_import


def open_stream(path: pathlib.Path) -> io.BufferedIOBase:
    """Returns a binary stream of a file, decompressed if the name ends in .gz or .zst."""
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        return io.BufferedReader(_Zstandard(path))
    return open(path, "rb")


class _Zstandard(io.RawIOBase):
    """A decompressed stream. A file that is cut off raises an error instead of ending early."""

    def __init__(self, path):
        zstandard = optional_import("zstandard", "data")
        self._path, self._damage = path, zstandard.ZstdError
        self._file = open(path, "rb")  # noqa: SIM115 (close() closes it)
        self._start_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame, self._waiting = None, b""

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
                self._waiting = self._frame.decompress(block)
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
