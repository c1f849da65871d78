"""Records on disk, a few in memory: how one machine sorts more text than fits in memory.

The records are in 256 files, by the first byte of their identity. So equal texts are in one file,
and the files in order, each of them sorted, are all records in order. A 256th of the text is in
memory at a time.
"""

from collections.abc import Callable, Iterable, Iterator
import pathlib
from typing import BinaryIO

from dlms_jax.data.cleaning.record import Record
from dlms_jax.data.frames import FrameWriter, read_frames

_WIDTH = 4  # byte strings of a record


class Spill:
    """Records in a folder, which the caller removes."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        # By first byte: the file that is being written, and its writer.
        self._open: dict[int, tuple[BinaryIO, FrameWriter]] = {}
        self._files: list[pathlib.Path] = []  # in order

    def add(self, record: Record) -> None:
        """Adds a record."""
        number = record.identity[0]
        if number not in self._open:
            stream = (self._folder / f"{number:02x}").open("wb")
            self._open[number] = stream, FrameWriter(stream, _WIDTH)
        self._open[number][1].write(_strings(record))

    def close(self) -> None:
        """Ends the adding."""
        for stream, writer in self._open.values():
            with stream:
                writer.end()
        self._files = [self._folder / f"{number:02x}" for number in sorted(self._open)]

    def rewrite(self, change: Callable[[list[Record]], Iterable[Record]]) -> None:
        """Replaces the records of each file by what `change` makes of them.

        `change` gets them sorted by (identity, name), so all records of one text are neighbours.
        Identities rise from call to call.
        """
        for number, file in enumerate(self._files):
            records = sorted(_read(file))
            self._files[number] = file.with_name(f"{file.name}-changed")
            with self._files[number].open("wb") as stream:
                writer = FrameWriter(stream, _WIDTH)
                for record in change(records):
                    writer.write(_strings(record))
                writer.end()
            file.unlink()

    def __iter__(self) -> Iterator[Record]:
        """Yields all records, which are in order once they have been rewritten."""
        for file in self._files:
            yield from _read(file)


def _strings(record: Record) -> tuple[bytes, ...]:
    return record.identity, record.name.encode(), record.text, record.size.to_bytes(8, "little")


def _read(file: pathlib.Path) -> Iterator[Record]:
    for identity, name, text, size in read_frames(file, _WIDTH):
        yield Record(identity, name.decode(), text, int.from_bytes(size, "little"))
