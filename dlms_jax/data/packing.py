"""Documents -> fixed-length rows: the one place where BOS and EOS are put."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Rows(NamedTuple):
    """Packed rows, R of them, L tokens each.

    tokens_RxL: int32 ids, pad_id where nothing stands.
    segments_RxL: 0 for padding, then 1, 2, ... for the documents of a row.
    positions_RxL: 0, 1, ... within each document's part of the row; 0 holds BOS.
    """

    tokens_RxL: np.ndarray
    segments_RxL: np.ndarray
    positions_RxL: np.ndarray

    @property
    def number(self) -> int:
        return len(self.tokens_RxL)

    def take(self, indices) -> "Rows":
        """Returns the rows of an index array or slice."""
        return Rows(*(array[indices] for array in self))

    @property
    def scored_RxL(self) -> np.ndarray:
        """True at every token but BOS and padding."""
        return self.positions_RxL > 0


def pack(
    documents: Iterable[np.ndarray], length: int, bos_id: int, eos_id: int, pad_id: int
) -> Rows:
    """Returns rows of `length` that hold the documents one after the other.

    Each document ends with EOS. One that does not fit into what is left of a row goes on in the
    next; every part starts with BOS, so each of a document's tokens, and its EOS, is scored once.
    """
    tokens, segments, positions = [], [], []
    row = []

    def close_row():
        tokens_L = np.full(length, pad_id, np.int32)
        segments_L, positions_L = np.zeros((2, length), np.int32)
        start = 0
        for number, part in enumerate(row, 1):
            end = start + len(part)
            tokens_L[start:end] = part
            segments_L[start:end] = number
            positions_L[start:end] = np.arange(len(part))
            start = end
        tokens.append(tokens_L)
        segments.append(segments_L)
        positions.append(positions_L)
        row.clear()

    room = length
    for document in documents:
        rest = np.append(document, eos_id)
        while len(rest):
            if room < 2:  # BOS alone would score nothing
                close_row()
                room = length
            part, rest = rest[: room - 1], rest[room - 1 :]
            row.append(np.insert(part, 0, bos_id))
            room -= len(part) + 1
    if row:
        close_row()
    empty = np.zeros((0, length), np.int32)
    return Rows(*(np.stack(x) if x else empty for x in (tokens, segments, positions)))
