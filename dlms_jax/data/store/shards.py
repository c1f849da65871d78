"""Packed rows on disk: one record for each row, in ArrayRecord files that are checked before use.

A record is: uint32 [padding before the first segment, number of segments, 1 if a loss mask
follows], the lengths of the segments (uint32), the loss mask (bits) unless it is simply all but
BOS, and the tokens (uint16 or uint32, by vocabulary).
"""

from collections.abc import Iterable
import contextlib
import errno
import pathlib
from typing import NamedTuple

import numpy as np

from dlms_jax.data.packing import Rows, empty_rows
from dlms_jax.errors import UserError
from dlms_jax.files import sha256_of, written_whole

_HEADER = 3
_REPAIR = "prepare the dataset again (only what is missing or damaged is made again)"


class Shard(NamedTuple):
    """A file of rows, as dataset.json lists it.

    Attributes:
      file: the name of the file.
      rows: the number of rows.
      tokens: the number of scored tokens.
      size: the number of bytes.
      sha256: the checksum of the file.
    """

    file: str
    rows: int
    tokens: int
    size: int
    sha256: str


def token_type(vocabulary: int) -> np.dtype:
    """Returns the integer type in which a shard stores ids below `vocabulary`."""
    return np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)


def write_shard(path: pathlib.Path, blocks: Iterable[Rows], dtype: np.dtype) -> Shard:
    """Writes blocks of rows to `path`, whole or not at all, and returns what dataset.json lists."""
    from array_record.python.array_record_module import ArrayRecordWriter

    rows = tokens = 0
    with written_whole(path) as unfinished:
        # Group size 1: a row is read without its neighbours, which shuffled reading needs.
        with _as_os_error(unfinished):
            writer = ArrayRecordWriter(str(unfinished), "group_size:1,zstd:3")
        try:
            for block in blocks:
                with _as_os_error(unfinished):
                    for row in range(block.number):
                        writer.write(_to_record(block.take(row), dtype))
                rows += block.number
                tokens += int(block.loss_mask_RxL.sum())
        finally:
            with _as_os_error(unfinished):
                writer.close()
        return Shard(path.name, rows, tokens, unfinished.stat().st_size, sha256_of(unfinished))


@contextlib.contextmanager
def _as_os_error(path):
    """Raises OSError for array_record's RuntimeError, such as for a full disk."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EIO, str(error).partition(";")[0], str(path)) from None


def check_shard(folder: pathlib.Path, shard: Shard, contents: bool):
    """Raises UserError unless a shard is there with its size and, with `contents`, its checksum."""
    path = folder / shard.file
    if not path.is_file():
        raise UserError(f"{path} is missing; {_REPAIR}")
    size = path.stat().st_size
    if size != shard.size:
        raise UserError(f"{path} has {size} bytes instead of {shard.size}; {_REPAIR}")
    if contents and sha256_of(path) != shard.sha256:
        raise UserError(f"{path} is damaged: its sha256 is not {shard.sha256[:16]}...; {_REPAIR}")


class ShardRows:
    """The rows of shards, which stay on disk until they are taken."""

    def __init__(
        self, folder: pathlib.Path, shards: list[Shard], length: int, pad_id: int, dtype: np.dtype
    ):
        import grain  # takes seconds, and writing does not need it

        self.length = length
        self._folder, self._pad_id, self._dtype = folder, pad_id, dtype
        self._shards = [shard for shard in shards if shard.rows]  # an empty file cannot be opened
        self._ends = np.cumsum([shard.rows for shard in self._shards])
        self._token_ends = np.cumsum([shard.tokens for shard in self._shards])
        paths = [str(folder / shard.file) for shard in self._shards]
        try:
            self._records = grain.sources.ArrayRecordDataSource(paths) if paths else []
            number = len(self._records)
        except RuntimeError:
            number = -1
        if number != self.number:
            self._raise_for_the_wrong_one(grain.sources.ArrayRecordDataSource)

    def _raise_for_the_wrong_one(self, open_records):
        for shard in self._shards:
            path = self._folder / shard.file
            try:
                number = len(open_records(str(path)))
            except RuntimeError as error:
                raise UserError(
                    f"{path} cannot be read ({type(error).__name__}); {_REPAIR}"
                ) from None
            if number != shard.rows:
                raise UserError(f"{path} holds {number} rows, not {shard.rows}; {_REPAIR}")

    @property
    def number(self) -> int:
        """The number of rows."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, indices) -> Rows:
        """Returns rows by index array or slice, in memory."""
        indices = np.arange(self.number)[indices]
        rows = empty_rows(len(indices), self.length, self._pad_id)
        for place, index in enumerate(indices):
            self._from_record(self._read(int(index)), rows.take(place))
        return rows

    def find_token(self, n: int) -> tuple[int, int]:
        """Returns (row, k): the n-th scored token is the k-th of its row (n and k from 1)."""
        shard = int(np.searchsorted(self._token_ends, n))
        first = int(self._ends[shard - 1]) if shard else 0
        n -= int(self._token_ends[shard - 1]) if shard else 0
        for start in range(first, int(self._ends[shard]), 1024):
            block = self.take(slice(start, min(start + 1024, int(self._ends[shard]))))
            inside = int(block.loss_mask_RxL.sum())
            if n <= inside:
                row, nth = block.find_token(n)
                return start + row, nth
            n -= inside
        path = self._folder / self._shards[shard].file
        raise UserError(f"{path} has fewer tokens than {self._folder} lists; {_REPAIR}")

    def _read(self, index: int) -> bytes:
        try:
            return self._records[index]
        except Exception as error:  # riegeli's own checksum fails in several kinds of errors
            shard = self._shards[int(np.searchsorted(self._ends, index, side="right"))]
            raise UserError(
                f"{self._folder / shard.file} cannot be read ({type(error).__name__}); {_REPAIR}"
            ) from None

    def _from_record(self, record: bytes, row: Rows):
        """Fills a row, whose arrays are views of length L, with a record."""
        before, segments, masked = np.frombuffer(record, np.uint32, _HEADER)
        lengths = np.frombuffer(record, np.uint32, segments, 4 * _HEADER).astype(np.int64)
        at, number = 4 * (_HEADER + int(segments)), int(lengths.sum())
        here = slice(int(before), int(before) + number)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        row.segments_RxL[here] = np.repeat(np.arange(1, segments + 1), lengths)
        row.positions_RxL[here] = np.arange(number) - starts
        if masked:
            bits = np.frombuffer(record, np.uint8, -(-number // 8), at)
            row.loss_mask_RxL[here] = np.unpackbits(bits, count=number).astype(bool)
            at += len(bits)
        else:
            row.loss_mask_RxL[here] = row.positions_RxL[here] > 0
        row.tokens_RxL[here] = np.frombuffer(record, self._dtype, number, at)


def _to_record(row: Rows, dtype) -> bytes:
    """Returns the record of a row, whose arrays have length L."""
    filled = np.flatnonzero(row.segments_RxL)
    before = int(filled[0]) if len(filled) else 0
    here = slice(before, before + len(filled))
    lengths = np.bincount(row.segments_RxL[here])[1:].astype(np.uint32)
    loss_mask = row.loss_mask_RxL[here]
    masked = not np.array_equal(loss_mask, row.positions_RxL[here] > 0)
    header = np.array([before, len(lengths), masked], np.uint32)
    bits = np.packbits(loss_mask).tobytes() if masked else b""
    return (
        header.tobytes() + lengths.tobytes() + bits + row.tokens_RxL[here].astype(dtype).tobytes()
    )
