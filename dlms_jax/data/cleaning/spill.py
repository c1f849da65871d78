"""Records on disk, a few in memory: how one machine sorts more text than fits in memory.

The records are in 256 files, by the first byte of their identity. So equal texts are in one file,
and the files in order, each of them sorted, are all records in order. A 256th of the text is in
memory at a time.
"""

from collections.abc import Callable, Iterable, Iterator
import pathlib

from dlms_jax.data.cleaning.duplicates import identity
from dlms_jax.data.cleaning.filters import Record
from dlms_jax.data.frames import read_frames, write_end, write_frame


class Spill:
    """Records in a folder, which the caller removes."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        self._streams = {}  # by first byte: the file that is being written
        self._files = []  # the files, in order

    def add(self, record: Record) -> None:
        """Adds a record."""
        number = identity(record.text)[0]
        if number not in self._streams:
            self._streams[number] = (self._folder / f"{number:02x}").open("wb")
        _write(self._streams[number], record)

    def close(self) -> None:
        """Ends the adding."""
        for stream in self._streams.values():
            write_end(stream)
            stream.close()
        self._files = [pathlib.Path(self._streams[number].name) for number in sorted(self._streams)]

    def rewrite(self, change: Callable[[list[Record]], Iterable[Record]]) -> None:
        """Replaces the records of each file by what `change` makes of them.

        `change` gets them sorted by (identity, name), so all records of one text are neighbours.
        Identities rise from call to call.
        """
        for number, file in enumerate(self._files):
            records = sorted(_read(file), key=lambda record: (identity(record.text), record))
            self._files[number] = file.with_name(f"{file.name}-changed")
            with self._files[number].open("wb") as stream:
                for record in change(records):
                    _write(stream, record)
                write_end(stream)
            file.unlink()

    def __iter__(self) -> Iterator[Record]:
        """Yields all records, which are in order once they have been rewritten."""
        for file in self._files:
            yield from _read(file)


def _write(stream, record):
    write_frame(stream, record.name.encode(), record.text, record.size.to_bytes(8, "little"))


def _read(file: pathlib.Path) -> Iterator[Record]:
    for name, text, size in read_frames(file, 3):
        yield Record(name.decode(), text, int.from_bytes(size, "little"))
