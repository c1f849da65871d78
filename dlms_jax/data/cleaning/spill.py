"""Records on disk, a few in memory: how one machine sorts more text than fits.

They lie in 256 files by the first byte of their identity, so that equal texts are in one file, and
files in order, each sorted, are all in order. A 256th of the text is in memory at a time.
"""

from collections.abc import Callable, Iterable, Iterator
import pathlib
import struct

from dlms_jax.data.cleaning.duplicates import identity
from dlms_jax.data.cleaning.filters import Record

_HEAD = struct.Struct("<III")  # bytes of the name, bytes of the text, size


class Spill:
    """Records in a folder that is the caller's to remove."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._streams = {}  # first byte -> what is being written
        self._files = []  # in order, once they have been rewritten

    def add(self, record: Record) -> None:
        number = identity(record.text)[0]
        if number not in self._streams:
            self._streams[number] = (self._folder / f"{number:02x}").open("wb")
        _write(self._streams[number], record)

    def close(self) -> None:
        """Ends the adding."""
        for stream in self._streams.values():
            stream.close()
        self._files = [pathlib.Path(self._streams[number].name) for number in sorted(self._streams)]

    def rewrite(self, change: Callable[[list[Record]], Iterable[Record]]) -> None:
        """Gives each file's records, sorted by (identity, name), to `change`; keeps its answer.

        All records of one text, and no others, are neighbours; identities rise from call to call.
        """
        for number, file in enumerate(self._files):
            records = sorted(_read(file), key=lambda record: (identity(record.text), record))
            self._files[number] = file.with_name(f"{file.name}-changed")
            with self._files[number].open("wb") as stream:
                for record in change(records):
                    _write(stream, record)
            file.unlink()

    def __iter__(self) -> Iterator[Record]:
        """Yields all records: in order, once they have been rewritten."""
        for file in self._files:
            yield from _read(file)


def _write(stream, record):
    name = record.name.encode()
    stream.write(_HEAD.pack(len(name), len(record.text), record.size))
    stream.write(name)
    stream.write(record.text)


def _read(file: pathlib.Path) -> Iterator[Record]:
    with file.open("rb") as stream:
        while head := stream.read(_HEAD.size):
            name, text, size = _HEAD.unpack(head)
            yield Record(stream.read(name).decode(), stream.read(text), size)
