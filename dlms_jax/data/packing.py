"""Documents -> fixed-length rows: the one place where BOS and EOS are put.

Two ways. "concat" lays documents one after the other and cuts at a row's end: rows are full and in
document order. "best-fit" cuts only documents longer than a row, and puts each piece where the
least room is left (best-fit decreasing, Ding et al. 2024, arXiv 2404.10830): nearly as full, and no
document is cut without need.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

Method = Literal["concat", "best-fit"]
_BLOCK = 1024  # rows laid out at a time


class Rows(NamedTuple):
    """Packed rows, R of them, L tokens each.

    tokens_RxL: int32 ids, pad_id where nothing stands.
    segments_RxL: 0 for padding, then 1, 2, ... for the documents of a row.
    positions_RxL: 0, 1, ... within each document's part of the row; 0 holds BOS.
    scored_RxL: True where a token is learned and scored: of a text, all but its BOS.
    class_R: of a mixture, which corpus a row is from, counted from 1; else 0.
    """

    tokens_RxL: np.ndarray
    segments_RxL: np.ndarray
    positions_RxL: np.ndarray
    scored_RxL: np.ndarray
    class_R: np.ndarray

    @property
    def cells(self) -> tuple[np.ndarray, ...]:
        """The arrays that have a value a token: tokens, segments, positions, scored."""
        return self[:4]

    @property
    def number(self) -> int:
        return len(self.tokens_RxL)

    @property
    def length(self) -> int:
        return self.tokens_RxL.shape[1]

    def take(self, indices) -> "Rows":
        """Returns the rows of an index array or slice."""
        return Rows(*(array[indices] for array in self))

    def find_token(self, n: int) -> tuple[int, int]:
        """Returns (row, which of the row's scored tokens, from 1) of the n-th scored token."""
        ends_R = np.cumsum(self.scored_RxL.sum(axis=1))
        row = int(np.searchsorted(ends_R, n))
        return row, n - (int(ends_R[row - 1]) if row else 0)


def no_rows(length: int) -> Rows:
    """Returns Rows of which there are none."""
    return empty_rows(0, length, 0)


def empty_rows(number: int, length: int, pad_id: int) -> Rows:
    """Returns rows in which nothing stands, to be written to."""
    return Rows(
        np.full((number, length), pad_id, np.int32),
        *np.zeros((2, number, length), np.int32),
        np.zeros((number, length), bool),
        np.zeros(number, np.int32),
    )


def join(blocks: Iterable[Rows], length: int) -> Rows:
    """Returns the rows of all blocks."""
    blocks = [no_rows(length), *blocks]
    return Rows(*map(np.concatenate, zip(*blocks, strict=True)))


def pack(
    documents: Iterable[np.ndarray], length: int, bos_id: int, eos_id: int, pad_id: int,
    method: Method = "concat",
) -> Iterator[Rows]:  # fmt: skip
    """Yields blocks of rows of `length` that hold the documents.

    Each document ends with EOS. One that is cut goes on in another row; every part starts with BOS,
    so each of a document's tokens, and its EOS, is scored once.
    """
    ended = (np.append(document, eos_id).astype(np.int32) for document in documents)
    rows = _concat(ended, length) if method == "concat" else _best_fit(ended, length)
    block = []
    for row in rows:
        block.append(row)
        if len(block) == _BLOCK:
            yield _lay_out(block, length, bos_id, pad_id)
            block = []
    if block:
        yield _lay_out(block, length, bos_id, pad_id)


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Returns rows of indices of pieces, none of which exceeds `capacity` in all.

    Best-fit decreasing: the largest first, each into the row that it leaves the least room in.
    """
    rows: list[list[int]] = []
    rows_by_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # the keys of rows_by_room that hold a row, sorted
    for piece in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        at = bisect.bisect_left(rooms, sizes[piece])
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = rows_by_room[room].pop()
            if not rows_by_room[room]:
                del rooms[at]
        rows[row].append(piece)
        left = room - sizes[piece]
        if not rows_by_room[left]:
            bisect.insort(rooms, left)
        rows_by_room[left].append(row)
    return rows


def _concat(documents, length):
    """Yields rows as lists of parts, BOS not yet before them, in the documents' order."""
    row, room = [], length
    for document in documents:
        start = 0
        while start < len(document):
            if room < 2:  # BOS alone would score nothing
                yield row
                row, room = [], length
            part = document[start : start + room - 1]
            row.append(part)
            start += len(part)
            room -= len(part) + 1
    if row:
        yield row


def _best_fit(documents, length):
    """Yields rows as lists of parts; only documents longer than a row are cut."""
    parts = [
        document[start : start + length - 1]
        for document in documents
        for start in range(0, len(document), length - 1)
    ]
    rows = best_fit([len(part) + 1 for part in parts], length)
    # By the first document in each, not the longest first: the beginning is then a fair sample.
    for row in sorted(rows, key=min):
        yield [parts[i] for i in row]


def _lay_out(rows, length, bos_id, pad_id) -> Rows:
    tokens_RxL = np.full((len(rows), length), pad_id, np.int32)
    segments_RxL, positions_RxL = np.zeros((2, len(rows), length), np.int32)
    count_L = np.arange(length, dtype=np.int32)
    for r, row in enumerate(rows):
        start = 0
        for number, part in enumerate(row, 1):
            end = start + len(part) + 1
            tokens_RxL[r, start] = bos_id
            tokens_RxL[r, start + 1 : end] = part
            segments_RxL[r, start:end] = number
            positions_RxL[r, start:end] = count_L[: end - start]
            start = end
    class_R = np.zeros(len(rows), np.int32)
    return Rows(tokens_RxL, segments_RxL, positions_RxL, positions_RxL > 0, class_R)
