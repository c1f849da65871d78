"""The loader: the batch of a step is a function of the seed and the step alone."""

from collections import Counter
import itertools

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.data.feed.loader import TrainBatches, eval_batches
from dlms_jax.data.feed.order import Interleave
from dlms_jax.data.packing import Rows

PAD = 99


def numbered(n: int, length: int = 3, store: int = 0) -> Rows:
    """Returns n full rows whose every cell tells which store, row and column it is of."""
    cells = np.arange(n * length, dtype=np.int32).reshape(n, length) + 1000 + 100_000 * store
    return Rows(cells, cells + 2000, cells + 4000, cells % 3 > 0, np.full(n, store + 1, np.int32))


def batches_of(n: int, batch_size: int, seed: int = 0, local_rows=None, **settings) -> TrainBatches:
    return mixture_of([numbered(n)], [1.0], batch_size, seed, local_rows, **settings)


def mixture_of(stores, weights, batch_size, seed=0, local_rows=None, **settings) -> TrainBatches:
    local_rows = np.arange(batch_size) if local_rows is None else np.asarray(local_rows)
    return TrainBatches(stores, weights, batch_size, seed, local_rows, PAD, **settings)


def assert_same(left: Rows, right: Rows):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def joined(parts) -> Rows:
    return Rows(*map(np.concatenate, zip(*parts, strict=True)))


def order_of(batches: TrainBatches, steps: int) -> list[tuple[int, int]]:
    return sum((batches.rows_of(step) for step in range(steps)), [])


def rows_in_order(batches: TrainBatches, steps: int, store: int = 0) -> list[int]:
    """Returns the rows of a store as they come."""
    return [row for source, row in order_of(batches, steps) if source == store]


# One corpus


@settings(deadline=None, max_examples=10)
@given(n=st.integers(1, 12), batch_size=st.integers(1, 15), seed=st.integers(0, 2**32 - 1))
def test_each_epoch_visits_every_row_once(n, batch_size, seed):
    """Also where a batch straddles two epochs, or holds several."""
    epochs = 3
    order = rows_in_order(batches_of(n, batch_size, seed), -(-epochs * n // batch_size))
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_differ():
    n, epochs = 50, 4
    order = rows_in_order(batches_of(n, 10), epochs * 5)
    orders = {tuple(order[epoch * n : (epoch + 1) * n]) for epoch in range(epochs)}
    assert len(orders) == epochs
    assert tuple(range(n)) not in orders  # shuffled from the first one on


def test_shuffle_reaches_everywhere():
    """A shuffle within a window, or of whole blocks, would leave rows near where they were."""
    n, blocks = 2000, 5
    order = np.array(rows_in_order(batches_of(n, n), 1))
    counts = np.histogram2d(np.arange(n), order, bins=blocks)[0]
    deviation = (n / blocks**2 * (1 - 1 / blocks)) ** 0.5
    assert np.abs(counts - n / blocks**2).max() < 4.5 * deviation
    assert (np.abs(np.diff(order)) == 1).mean() < 0.02


def test_same_seed_same_order_and_other_seed_another():
    orders = [rows_in_order(batches_of(40, 8, seed), 5) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert len(set(map(tuple, orders))) == 3


def test_order_does_not_depend_on_the_batch_size():
    """Only where it is cut does: the sequence of rows is one."""
    assert rows_in_order(batches_of(17, 6), 4) == rows_in_order(batches_of(17, 8), 3)


def test_training_set_smaller_than_a_batch():
    batches = batches_of(3, 8)
    counts = Counter(rows_in_order(batches, 3))  # 24 rows: eight epochs
    assert counts == {0: 8, 1: 8, 2: 8}
    assert batches[0].number == 8
    assert Counter(rows_in_order(batches_of(1, 4), 2)) == {0: 8}


def test_epochs_counts_rows_seen():
    batches = batches_of(12, 8)
    assert [batches.epochs(step) for step in (0, 3, 6)] == [[0], [2], [4]]
    assert batches.epochs(1) == [pytest.approx(2 / 3)]
    assert batches_of(3, 8, local_rows=[0]).epochs(3) == [8]  # of the global batch


def test_late_steps_are_found():
    """Past 2^31 rows, which a long run reads."""
    batches = batches_of(7, 7)
    for step in (2**31 // 7 + 1, 2**40):
        assert sorted(batches.rows_of(step)) == [(0, row) for row in range(7)]


# Mixtures


@settings(deadline=None, max_examples=12)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    batch_size=st.integers(1, 12),
    data=st.data(),
)
def test_mixture_visits_every_row_of_each_corpus_once_an_epoch(sizes, batch_size, data):
    """In proportion to the weights, whatever the sizes, and says how often."""
    weights = [data.draw(st.floats(0.1, 1)) for _ in sizes]
    stores = [numbered(n, store=store) for store, n in enumerate(sizes)]
    batches = mixture_of(stores, weights, batch_size, seed=5)
    steps = 60 // batch_size + 1
    taken = Interleave(weights).taken(steps * batch_size)
    for store, n in enumerate(sizes):
        order = rows_in_order(batches, steps, store)
        assert len(order) == taken[store]
        assert batches.epochs(steps)[store] == len(order) / n
        for epoch in range(len(order) // n):
            assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))
        rest = order[len(order) // n * n :]
        assert len(set(rest)) == len(rest)


def test_mixture_matches_its_weights_exactly():
    weights = [0.5, 0.3, 0.2]
    batches = mixture_of([numbered(7), numbered(5), numbered(9)], weights, 10)
    for step in range(20):
        counts = Counter(source for source, _ in batches.rows_of(step))
        assert counts == {0: 5, 1: 3, 2: 2}
    assert batches.epochs(70) == [350 / 7, 210 / 5, 140 / 9]


def test_corpora_of_equal_size_have_orders_of_their_own():
    batches = mixture_of([numbered(50), numbered(50)], [1, 1], 100)
    assert rows_in_order(batches, 1, 0) != rows_in_order(batches, 1, 1)


def test_order_of_a_corpus_does_not_depend_on_what_is_mixed_in_after_it():
    alone = rows_in_order(batches_of(11, 4), 11)
    mixed = rows_in_order(mixture_of([numbered(11), numbered(3)], [1, 1], 4), 22)
    assert mixed == alone


# Reading


def test_batch_holds_the_rows_that_rows_of_names():
    stores = [numbered(11), numbered(4, store=1)]
    batches = mixture_of(stores, [2, 1], 4)
    for step in (0, 2, 7):  # straddles ends of epochs of both
        rows = [stores[source].take(slice(row, row + 1)) for source, row in batches.rows_of(step)]
        assert len(rows) == 4
        assert_same(batches[step], joined(rows))


@pytest.mark.parametrize("first", [0, 1, 7])
def test_iterating_is_indexing(first):
    """A resume at any step goes on with the batches that would have come."""
    batches = mixture_of([numbered(11), numbered(4)], [2, 1], 4, short_rows=0.5)
    iterator = batches.iterate(first, prefetch=3)
    for step in range(first, first + 8):
        assert_same(next(iterator), batches[step])


def test_worker_processes_give_the_same_batches():
    """Any number of them; outside a program that parsed absl's flags, too, as here."""
    batches = mixture_of([numbered(11), numbered(4)], [2, 1], 4, short_rows=0.5)
    for workers in (1, 2):
        iterator = batches.iterate(3, prefetch=2, workers=workers)
        for step in range(3, 8):
            assert_same(next(iterator), batches[step])


def test_batch_does_not_depend_on_what_was_read_before():
    fresh, used = batches_of(11, 4), batches_of(11, 4)
    for step in (9, 3, 3, 0):
        used[step]
    assert_same(used[5], fresh[5])


# Processes


class Counting:
    """A store that notes which rows were read."""

    def __init__(self, rows: Rows):
        self._rows, self.number, self.length, self.read = rows, rows.number, rows.length, []

    def take(self, indices) -> Rows:
        self.read += np.arange(self.number)[indices].tolist()
        return self._rows.take(indices)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_the_global_batch_and_read_their_own_rows(processes):
    """A resume on another number of processes thus goes on with the same batches."""
    rows = [numbered(19), numbered(6, store=1)]
    whole = mixture_of(rows, [2, 1], 8, seed=3, short_rows=0.3)
    shares = np.split(np.arange(8), processes)
    stores = [[Counting(r) for r in rows] for _ in shares]
    parts = [
        mixture_of(mine, [2, 1], 8, seed=3, local_rows=share, short_rows=0.3)
        for mine, share in zip(stores, shares, strict=True)
    ]
    for step in (0, 2, 13):
        read = [part[step] for part in parts]
        assert all(rows.number == 8 // processes for rows in read)
        assert_same(joined(read), whole[step])
        for part, mine, share in zip(parts, stores, shares, strict=True):
            assert part.rows_of(step) == whole.rows_of(step)
            own = [whole.rows_of(step)[row] for row in share]
            for number, store in enumerate(mine):
                assert sorted(store.read) == sorted(row for s, row in own if s == number)
                store.read.clear()


def test_local_rows_need_not_be_neighbours():
    """A mesh may give a process any rows of the batch."""
    whole = batches_of(19, 8, short_rows=0.5)
    odd = batches_of(19, 8, local_rows=[5, 1, 7], short_rows=0.5)
    assert_same(odd[2], whole[2].take([5, 1, 7]))


# Short rows

LENGTH = 9


def lengths_of(batch: Rows) -> np.ndarray:
    return (batch.segments_RxL > 0).sum(axis=1)


def test_short_rows_are_as_frequent_as_asked_and_as_long_as_any():
    """A share p is cut to 2, ..., L places, each as often; L is not to be told from not cut."""
    n, p = 6000, 0.5
    lengths = lengths_of(mixture_of([numbered(n, LENGTH)], [1], n, short_rows=p)[0])
    counts = np.bincount(lengths, minlength=LENGTH + 1)
    assert len(counts) == LENGTH + 1 and not counts[:2].any()
    each = n * p / (LENGTH - 1)
    expected = np.array([each] * (LENGTH - 2) + [n * (1 - p) + each])
    statistic = ((counts[2:] - expected) ** 2 / expected).sum()
    assert statistic < LENGTH - 2 + 4 * (2 * (LENGTH - 2)) ** 0.5


@pytest.mark.parametrize("p", [0.01, 1.0, 0.0])
def test_share_of_short_rows(p):
    n, length = 3000, 100
    lengths = lengths_of(mixture_of([numbered(n, length)], [1], n, short_rows=p)[0])
    share = p * (1 - 1 / (length - 1))
    deviation = (n * share * (1 - share)) ** 0.5
    assert abs((lengths < length).sum() - n * share) <= 4.5 * deviation


def test_short_rows_are_beginnings_followed_by_padding():
    cut = mixture_of([numbered(50, LENGTH)], [1], 20, short_rows=0.8)
    full = mixture_of([numbered(50, LENGTH)], [1], 20)
    for step in (0, 3):
        assert cut.rows_of(step) == full.rows_of(step)
        lengths_R = lengths_of(cut[step])
        assert len(set(lengths_R)) > 3
        kept_RxL = np.arange(LENGTH)[None, :] < lengths_R[:, None]
        for array, whole, filler in zip(
            cut[step].cells, full[step].cells, (PAD, 0, 0, False), strict=True
        ):
            np.testing.assert_array_equal(array, np.where(kept_RxL, whole, filler))
            assert array.dtype == whole.dtype


def test_which_rows_are_short_is_told_by_seed_and_index_alone():
    """Not by the rows, the size of the batches or what was read before."""

    def lengths(n, batch_size, seed=4):
        batches = mixture_of([numbered(n, LENGTH)], [1], batch_size, seed, short_rows=0.5)
        return np.concatenate([lengths_of(batches[s]) for s in range(240 // batch_size)]).tolist()

    assert lengths(50, 24) == lengths(50, 40) == lengths(1, 240)
    assert lengths(50, 24) != lengths(50, 24, seed=5)
    first, *others = np.array(lengths(50, 24)).reshape(-1, 24).tolist()
    assert all(first != other for other in others)  # each step draws anew


# Evaluation


@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 14), asked=st.integers(0, 14), batch_size=st.integers(1, 6))
def test_evaluation_loses_nothing_and_fills_up_with_empty_rows(n, asked, batch_size):
    rows, asked = numbered(n), min(n, asked)
    batches = list(eval_batches(rows, asked, batch_size, PAD, np.arange(batch_size)))
    assert len(batches) == -(-asked // batch_size)
    assert all(array.shape == (batch_size, 3) for batch in batches for array in batch.cells)
    assert all(batch.class_R.shape == (batch_size,) for batch in batches)
    if not batches:
        return
    read = joined(batches)
    assert_same(read.take(slice(asked)), rows.take(slice(asked)))
    assert (read.tokens_RxL[asked:] == PAD).all()
    for array in (read.segments_RxL, read.positions_RxL, read.loss_mask_RxL):
        assert not array[asked:].any()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_an_evaluation(processes):
    """They also agree on how many batches there are, or the last one would wait for ever."""
    rows, all_rows = numbered(9), np.arange(4)
    whole = list(eval_batches(rows, 9, 4, PAD, all_rows))
    stores = [Counting(rows) for _ in range(processes)]
    parts = [
        list(eval_batches(store, 9, 4, PAD, local_rows))
        for store, local_rows in zip(stores, np.split(all_rows, processes), strict=True)
    ]
    assert {len(part) for part in parts} == {len(whole)} == {3}
    for batch, *read in zip(whole, *parts, strict=True):
        assert_same(joined(read), batch)
    read = [store.read for store in stores]
    assert sorted(itertools.chain(*read)) == list(range(9))  # each row by one process


def test_local_rows_of_an_evaluation_need_not_be_neighbours():
    rows = numbered(6)
    whole = list(eval_batches(rows, 6, 4, PAD, np.arange(4)))
    odd = list(eval_batches(rows, 6, 4, PAD, np.array([0, 3])))
    for batch, part in zip(whole, odd, strict=True):
        assert_same(part, batch.take([0, 3]))
