"""Views of rows: exact and nested beginnings, rows cut short, several corpora as one."""

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.data.feed.subset import FirstTokens, MixedRows, cut_rows, gather
from dlms_jax.data.packing import Rows, join, pack

PAD, BOS, EOS = 90, 91, 92
SIZES = st.lists(st.integers(0, 20), min_size=1, max_size=12)
LENGTH = st.integers(2, 12)


def packed(sizes, length: int, method="concat") -> Rows:
    ends = np.cumsum([0, *sizes]) + 1000
    documents = (np.arange(end - size, end) for end, size in zip(ends[1:], sizes, strict=True))
    return join(pack(documents, length, BOS, EOS, PAD, method), length)


def numbered(n: int, store: int = 0, length: int = 3) -> Rows:
    """Returns n rows whose every cell tells which store, row, column and array it is of."""
    cells = store * 10_000 + np.arange(n * length, dtype=np.int32).reshape(n, length)
    return Rows(cells, cells + 2000, cells + 4000, cells % 2 == 0, np.full(n, store + 1, np.int32))


def assert_same(left: Rows, right: Rows):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def scored(rows) -> list[int]:
    rows = rows.take(slice(None))
    return rows.tokens_RxL[rows.loss_mask_RxL].tolist()


# Rows cut short


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, length=LENGTH, data=st.data())
def test_cut_rows_are_the_beginnings_and_padding(sizes, length, data):
    rows = packed(sizes, length)
    columns = st.lists(st.integers(0, length), min_size=rows.number, max_size=rows.number)
    columns_R = np.array(data.draw(columns))
    cut = cut_rows(rows, columns_R, PAD)
    for array, whole, filler in zip(cut.cells, rows.cells, (PAD, 0, 0, False), strict=True):
        assert array.dtype == whole.dtype
        for row, of, columns in zip(array.tolist(), whole.tolist(), columns_R, strict=True):
            assert row == of[:columns] + [filler] * (length - columns)


# The first tokens


@settings(deadline=None, max_examples=40)
@given(sizes=SIZES, length=LENGTH, data=st.data())
def test_first_tokens_are_exact_and_nested(sizes, length, data):
    """Of every number: exactly so many, those that come first, and what is kept is untouched.

    Also where only some of a text is scored, as in chats.
    """
    rows = packed(sizes, length)
    if data.draw(st.booleans()):
        keep = data.draw(st.lists(st.booleans(), min_size=length, max_size=length))
        rows = rows._replace(loss_mask_RxL=rows.loss_mask_RxL & np.array(keep)[None, :])
    everything = scored(rows)
    for n in range(1, len(everything) + 1):
        view = FirstTokens(rows, n, PAD)
        first = view.take(slice(None))
        assert scored(view) == everything[:n]
        assert view.number == first.number and view.length == first.length == length
        assert first.loss_mask_RxL[-1].any()  # no row that teaches nothing at the end
        last = np.flatnonzero(rows.loss_mask_RxL)[n - 1]  # counted through all rows
        kept_RxL = np.arange(first.tokens_RxL.size).reshape(first.tokens_RxL.shape) <= last
        for array, whole, filler in zip(first.cells, rows.cells, (PAD, 0, 0, False), strict=True):
            np.testing.assert_array_equal(array, np.where(kept_RxL, whole[: first.number], filler))


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, length=LENGTH, data=st.data())
def test_rows_of_first_tokens_are_taken_in_any_way(sizes, length, data):
    rows = packed(sizes, length)
    tokens = data.draw(st.integers(1, int(rows.loss_mask_RxL.sum())))
    view = FirstTokens(rows, tokens, PAD)
    whole = view.take(slice(None))
    indices = np.array(data.draw(st.lists(st.integers(0, view.number - 1), max_size=5)), int)
    assert_same(view.take(indices), whole.take(indices))
    first = data.draw(st.integers(0, view.number))
    assert_same(view.take(slice(first, None)), whole.take(slice(first, None)))
    assert_same(view.take(slice(first)), whole.take(slice(first)))
    for n in range(1, tokens + 1):
        assert view.find_token(n) == rows.find_token(n)


def test_first_tokens_of_first_tokens():
    rows = packed([9, 1, 14, 3], 6)
    twice = FirstTokens(FirstTokens(rows, 20, PAD), 11, PAD)
    assert_same(twice.take(slice(None)), FirstTokens(rows, 11, PAD).take(slice(None)))


def test_first_tokens_worked_example():
    """Rows [BOS 0 1 2 3 4], [BOS EOS BOS 5 EOS PAD]: the seventh scored token is 5."""
    view = FirstTokens(packed([5, 1], 6), 7, PAD)
    rows = view.take(np.array([1, 0]))
    assert rows.tokens_RxL.tolist() == [
        [BOS, EOS, BOS, 1005, PAD, PAD],
        [BOS, 1000, 1001, 1002, 1003, 1004],
    ]
    assert rows.segments_RxL.tolist() == [[1, 1, 2, 2, 0, 0], [1] * 6]


class _Refusing:
    """Rows of which only those of a beginning may be read."""

    def __init__(self, rows, allowed):
        self._rows, self._allowed = rows, allowed
        self.length, self.number, self.find_token = rows.length, rows.number, rows.find_token

    def take(self, indices):
        assert (np.arange(self.number)[indices] < self._allowed).all()
        return self._rows.take(indices)


def test_first_tokens_read_no_later_row():
    """Of a large corpus on disk only the beginning is read."""
    rows = packed([4] * 40, 6)
    last, _ = rows.find_token(33)
    view = FirstTokens(_Refusing(rows, last + 1), 33, PAD)
    assert len(scored(view)) == 33


# Several corpora


@settings(deadline=None, max_examples=50)
@given(
    numbers=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    wanted=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=9),
)
def test_gather_gives_rows_in_the_order_they_are_asked_for(numbers, wanted):
    """Also where a store is asked for nothing, or a row twice."""
    stores = [numbered(n, store) for store, n in enumerate(numbers)]
    wanted = [(s, r) for s, r in wanted if s < len(numbers) and r < numbers[s]]
    corpus_R, row_R = np.array(wanted, int).reshape(-1, 2).T
    expected = join([stores[s].take(slice(r, r + 1)) for s, r in wanted], 3)
    assert_same(gather(stores, corpus_R, row_R), expected)


def test_rows_of_a_mixture_are_of_their_corpus_class():
    """Counted from 1, whatever the stores say; of one corpus alone there are no classes."""
    stores = [packed([3, 4], 6), packed([2, 2, 2], 6)]
    taken = gather(stores, np.array([1, 0, 1]), np.array([0, 0, 1]))
    assert taken.class_R.tolist() == [2, 1, 2]
    assert gather(stores[:1], np.array([0, 0]), np.array([0, 1])).class_R.tolist() == [0, 0]


SHARES = st.lists(st.floats(0.05, 10), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(weights=SHARES, data=st.data())
def test_mixed_rows_hold_each_once_in_its_stores_order(weights, data):
    sizes = [data.draw(st.integers(0, 20)) for _ in weights]
    stores = [numbered(n, store) for store, n in enumerate(sizes)]
    mixed = MixedRows(stores, weights)
    assert mixed.number == sum(sizes) and mixed.length == 3
    rows = mixed.take(slice(None))
    store_R = rows.tokens_RxL[:, 0] // 10_000
    for s, store in enumerate(stores):
        assert_same(rows.take(store_R == s), store)
    some = np.array(data.draw(st.permutations(range(mixed.number))), int)
    assert_same(mixed.take(some), rows.take(some))
    assert_same(mixed.take(slice(2, 7)), rows.take(slice(2, 7)))


@settings(deadline=None, max_examples=60)
@given(weights=SHARES, data=st.data())
def test_every_beginning_of_mixed_rows_holds_their_weights(weights, data):
    """As long as each store has rows left: a store's k-th row has its place at (k - 1/2) / weight,
    so a beginning of N is within 1/2 + n/2 of its share of N for n stores."""
    stores = [numbered(data.draw(st.integers(1, 60)), store) for store in range(len(weights))]
    mixed = MixedRows(stores, weights)
    store_R = mixed.take(slice(None)).tokens_RxL[:, 0] // 10_000
    taken = np.cumsum(store_R[:, None] == np.arange(len(stores)), axis=0)
    left = (taken < [store.number for store in stores]).all(axis=1)
    shares = np.array(weights) / sum(weights)
    exact = np.multiply.outer(np.arange(1, len(taken) + 1), shares)
    off = np.abs(taken - exact)[left]
    assert (off <= 0.5 + len(stores) * shares / 2 + 1e-6).all()


@pytest.mark.parametrize("scale", [1, 100])
def test_mixed_rows_worked_example(scale):
    """Three to one; then what is left of the larger."""
    mixed = MixedRows([numbered(5), numbered(1, 1)], [3 * scale, scale])
    rows = mixed.take(slice(None))
    assert (rows.tokens_RxL[:, 0] // 10_000).tolist() == [0, 0, 1, 0, 0, 0]
