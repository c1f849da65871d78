"""Views of packed rows: the first tokens of a corpus, shortened rows, several corpora as one."""

import numpy as np

from dlms_jax.data.packing import Rows


def cut_rows(rows: Rows, columns_R: np.ndarray, pad_id: int) -> Rows:
    """Returns rows that keep only their first `columns_R` columns; the rest is padding."""
    kept_RxL = np.arange(rows.length)[None, :] < columns_R[:, None]
    return Rows(
        np.where(kept_RxL, rows.tokens_RxL, pad_id).astype(np.int32),
        rows.segments_RxL * kept_RxL,
        rows.positions_RxL * kept_RxL,
        rows.loss_mask_RxL & kept_RxL,
        rows.class_R,
    )


class FirstTokens:
    """The rows with exactly the first `tokens` scored tokens of other rows; the last row is cut.

    These views are nested: the first million tokens contain the first hundred thousand.
    """

    def __init__(self, rows, tokens: int, pad_id: int):
        last, nth = rows.find_token(tokens)
        self._rows, self._pad_id = rows, pad_id
        self.length, self.number = rows.length, last + 1
        places = np.flatnonzero(rows.take(slice(last, last + 1)).loss_mask_RxL[0])
        self._columns = int(places[nth - 1]) + 1  # of the last row

    def take(self, indices) -> Rows:
        """Returns rows by index array or slice."""
        indices = np.arange(self.number)[indices]
        columns_R = np.where(indices == self.number - 1, self._columns, self.length)
        return cut_rows(self._rows.take(indices), columns_R, self._pad_id)

    def find_token(self, n: int) -> tuple[int, int]:
        """Returns (row, k): the n-th scored token is the k-th of its row (n and k from 1)."""
        return self._rows.find_token(n)


class WeightedRows:
    """The rows of several stores of one corpus. An epoch has those of a store several times.

    The rows of the store with the smallest weight are there once, those of another one as often as
    its weight is larger; where that is not a whole number, its first rows are there once more.

    Attributes:
      tokens: the number of scored tokens in an epoch.
    """

    def __init__(self, stores: list[Rows], weights: list[float]):
        self._stores = stores
        self.length = stores[0].length
        times = [weight / min(weights) for weight in weights]
        counts = [round(s.number * t) for s, t in zip(stores, times, strict=True)]
        self._ends = np.cumsum(counts)
        self.number = int(self._ends[-1])
        self.tokens = 0
        for rows, count in zip(stores, counts, strict=True):
            tokens_R = rows.loss_mask_RxL.sum(axis=1)
            whole, more = divmod(count, rows.number)
            self.tokens += whole * int(tokens_R.sum()) + int(tokens_R[:more].sum())

    def take(self, indices) -> Rows:
        """Returns rows by index array or slice."""
        index_R = np.arange(self.number)[indices] if isinstance(indices, slice) else indices
        index_R = np.asarray(index_R, np.int64)
        store_R = np.searchsorted(self._ends, index_R, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        row_R = (index_R - starts[store_R]) % np.array([s.number for s in self._stores])[store_R]
        rows = gather(self._stores, store_R, row_R)
        return rows._replace(class_R=np.zeros_like(rows.class_R))


class MixedRows:
    """All rows of several stores. The first n of them, for any n, have about the given weights."""

    def __init__(self, stores: list, weights: list[float]):
        self._stores = stores
        self.length = stores[0].length
        times = [(np.arange(s.number) + 0.5) / w for s, w in zip(stores, weights, strict=True)]
        order = np.argsort(np.concatenate(times), kind="stable")
        self._corpus = np.repeat(np.arange(len(stores)), [s.number for s in stores])[order]
        self._row = np.concatenate([np.arange(s.number) for s in stores])[order]
        self.number = len(order)

    def take(self, indices) -> Rows:
        """Returns rows by index array or slice."""
        return gather(self._stores, self._corpus[indices], self._row[indices])


def gather(stores: list, corpus_R: np.ndarray, row_R: np.ndarray) -> Rows:
    """Returns rows of several stores in the given order; their class is the store, from 1."""
    if len(stores) == 1:
        return stores[0].take(row_R)
    parts = [store.take(row_R[corpus_R == s]) for s, store in enumerate(stores)]
    back = np.argsort(np.argsort(corpus_R, kind="stable"), kind="stable")
    rows = Rows(*(np.concatenate(arrays)[back] for arrays in zip(*parts, strict=True)))
    return rows._replace(class_R=(corpus_R + 1).astype(np.int32))
