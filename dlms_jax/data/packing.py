"""Tokenized documents -> rows of one length: the only place that adds BOS and EOS to text.

There are two methods. "concat" puts documents one after the other and cuts at a row's end: rows are
full and in document order. "best-fit" cuts only documents longer than a row, and puts each part
where it leaves the least room (best-fit decreasing, Ding et al. 2024, arXiv 2404.10830): rows are
nearly as full, and no document that fits is cut.
"""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from dlms_jax.data.corpora.document import to_str
from dlms_jax.data.tokenizers import Tokenizer

Method = Literal["concat", "best-fit"]
_BLOCK = 1024  # rows in a block
_TOKENIZED = 1 << 20  # bytes of text that are tokenized at a time


class Rows(NamedTuple):
    """Packed rows, R of them, L tokens each.

    Attributes:
      tokens_RxL: int32 ids; pad_id in padding.
      segments_RxL: 0 in padding, then 1, 2, ... for the documents of a row.
      positions_RxL: 0, 1, ... within each document's part of the row; BOS has 0.
      loss_mask_RxL: True where a token is learned and scored: in a text, everywhere but at BOS.
      class_R: in a mixture, the corpus of a row, counted from 1; else 0.
    """

    tokens_RxL: np.ndarray
    segments_RxL: np.ndarray
    positions_RxL: np.ndarray
    loss_mask_RxL: np.ndarray
    class_R: np.ndarray

    @property
    def cells(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The arrays with a value for each token: tokens, segments, positions, loss mask."""
        return self[:4]

    @property
    def number(self) -> int:
        """The number of rows."""
        return len(self.tokens_RxL)

    @property
    def length(self) -> int:
        """The number of tokens in a row."""
        return self.tokens_RxL.shape[1]

    def take(self, indices) -> "Rows":
        """Returns the rows of an index array or slice."""
        return Rows(*(array[indices] for array in self))

    def find_token(self, n: int) -> tuple[int, int]:
        """Returns (row, k): the n-th scored token is the k-th of its row (n and k from 1)."""
        ends_R = np.cumsum(self.loss_mask_RxL.sum(axis=1))
        row = int(np.searchsorted(ends_R, n))
        return row, n - (int(ends_R[row - 1]) if row else 0)


def no_rows(length: int) -> Rows:
    """Returns Rows with R = 0."""
    return empty_rows(0, length, 0)


def empty_rows(number: int, length: int, pad_id: int) -> Rows:
    """Returns rows that hold only padding."""
    segments_RxL, positions_RxL = np.zeros((2, number, length), np.int32)
    return Rows(
        np.full((number, length), pad_id, np.int32),
        segments_RxL,
        positions_RxL,
        np.zeros((number, length), bool),
        np.zeros(number, np.int32),
    )


def join(blocks: Iterable[Rows], length: int) -> Rows:
    """Returns the rows of all blocks."""
    blocks = [no_rows(length), *blocks]
    return Rows(*map(np.concatenate, zip(*blocks, strict=True)))


def pack(
    documents: Iterable[np.ndarray],
    length: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    method: Method = "concat",
) -> Iterator[Rows]:
    """Yields blocks of rows that hold the documents.

    Each document ends with EOS. A document that is cut continues in another row. Every part starts
    with BOS, so each token of a document, and its EOS, is scored once.

    Args:
      documents: the ids of each document, without BOS and EOS.
      length: the length of a row.
      bos_id, eos_id, pad_id: ids of the tokenizer.
      method: how documents are laid out in rows.
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


def pack_texts(
    texts: Iterable[bytes], length: int, method: Method, tokenizer: Tokenizer
) -> Iterator[Rows]:
    """Yields blocks of rows that hold the texts, tokenized; see `pack`."""
    ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    return pack(tokenize(texts, tokenizer), length, *ids, method)


def tokenize(texts: Iterable[bytes], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Yields the ids of each text, without BOS and EOS; about 1 MiB of text is read ahead."""
    batch, size = [], 0
    for text in texts:
        batch.append(to_str(text))
        size += len(text)
        if size >= _TOKENIZED:
            yield from tokenizer.encode_batch(batch)
            batch, size = [], 0
    if batch:
        yield from tokenizer.encode_batch(batch)


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Returns rows, as lists of indices of pieces whose sizes add up to at most `capacity`.

    Best-fit decreasing: the largest piece first, each into the row where it leaves the least room.
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
    """Yields rows as lists of parts, without their BOS, in document order."""
    row, room = [], length
    for document in documents:
        start = 0
        while start < len(document):
            if room < 2:  # only BOS would fit
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
    # Ordered by their first document, not by the longest part: the first rows are a fair sample.
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
