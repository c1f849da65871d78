"""The loader: the batch of a step is a function of the seed and the step alone."""

from collections import Counter

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.data.loader import TrainBatches, eval_batches
from dlms_jax.data.packing import Rows

PAD = 99


def rows_of(n: int, length: int = 3) -> Rows:
    """Returns n rows whose every cell tells which row, which column and which array it is of."""
    cells = np.arange(n * length, dtype=np.int32).reshape(n, length)
    return Rows(cells + 1000, cells + 2000, cells + 3000)


def batches_of(n: int, batch_size: int, seed: int = 0, local_rows=None) -> TrainBatches:
    local_rows = np.arange(batch_size) if local_rows is None else np.asarray(local_rows)
    return TrainBatches(rows_of(n), batch_size, seed, local_rows)


def assert_same(left: Rows, right: Rows):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def order_of(batches: TrainBatches, steps: int) -> list[int]:
    return np.concatenate([batches.rows_of(step) for step in range(steps)]).tolist()


@settings(deadline=None, max_examples=15)
@given(n=st.integers(1, 12), batch_size=st.integers(1, 15), seed=st.integers(0, 2**32 - 1))
def test_each_epoch_visits_every_row_once(n, batch_size, seed):
    """Also where a batch straddles two epochs, or holds several."""
    epochs = 3
    order = order_of(batches_of(n, batch_size, seed), -(-epochs * n // batch_size))
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_differ():
    n, epochs = 50, 4
    order = order_of(batches_of(n, 10), epochs * 5)
    orders = {tuple(order[epoch * n : (epoch + 1) * n]) for epoch in range(epochs)}
    assert len(orders) == epochs
    assert tuple(range(n)) not in orders  # shuffled from the first one on


def test_shuffle_reaches_everywhere():
    """A shuffle within a window, or of whole blocks, would leave rows near where they were."""
    n, blocks = 2000, 5
    order = np.array(order_of(batches_of(n, n), 1))
    counts = np.histogram2d(np.arange(n), order, bins=blocks)[0]
    deviation = (n / blocks**2 * (1 - 1 / blocks)) ** 0.5
    assert np.abs(counts - n / blocks**2).max() < 4.5 * deviation
    assert (np.abs(np.diff(order)) == 1).mean() < 0.02


def test_same_seed_same_order_and_other_seed_another():
    orders = [order_of(batches_of(40, 8, seed), 5) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert len(set(map(tuple, orders))) == 3


def test_batch_holds_the_rows_that_rows_of_names():
    batches, rows = batches_of(11, 4), rows_of(11)
    for step in (0, 2, 7):  # 2 straddles the first epoch's end
        indices = batches.rows_of(step)
        assert len(indices) == 4
        assert_same(batches[step], Rows(*(array[indices] for array in rows)))


@pytest.mark.parametrize("first", [0, 1, 7])
def test_iterating_is_indexing(first):
    """A resume at any step goes on with the batches that would have come."""
    batches = batches_of(11, 4)
    iterator = batches.iterate(first, prefetch=3)
    for step in range(first, first + 8):
        assert_same(next(iterator), batches[step])


def test_batch_does_not_depend_on_what_was_read_before():
    fresh, used = batches_of(11, 4), batches_of(11, 4)
    for step in (9, 3, 3, 0):
        used[step]
    assert_same(used[5], fresh[5])


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_the_global_batch(processes):
    whole = batches_of(19, 8, seed=3)
    parts = [
        batches_of(19, 8, seed=3, local_rows=np.split(np.arange(8), processes)[process])
        for process in range(processes)
    ]
    for step in (0, 2, 13):
        read = [part[step] for part in parts]
        assert all(rows.number == 8 // processes for rows in read)
        assert_same(Rows(*map(np.concatenate, zip(*read, strict=True))), whole[step])
        for part in parts:
            np.testing.assert_array_equal(part.rows_of(step), whole.rows_of(step))


def test_local_rows_need_not_be_neighbours():
    """A mesh may give a process any rows of the batch."""
    whole, odd = batches_of(19, 8), batches_of(19, 8, local_rows=[5, 1, 7])
    assert_same(odd[2], Rows(*(array[[5, 1, 7]] for array in whole[2])))


def test_training_set_smaller_than_a_batch():
    batches = batches_of(3, 8)
    counts = Counter(order_of(batches, 3))  # 24 rows: eight epochs
    assert counts == {0: 8, 1: 8, 2: 8}
    assert batches[0].number == 8
    assert Counter(order_of(batches_of(1, 4), 2)) == {0: 8}


def test_epochs_counts_rows_seen():
    batches = batches_of(12, 8)
    assert [batches.epochs(step) for step in (0, 3, 6)] == [0, 2, 4]
    assert batches.epochs(1) == pytest.approx(2 / 3)
    assert batches_of(3, 8, local_rows=[0]).epochs(3) == 8  # of the global batch


def test_late_steps_are_found():
    """Past 2^31 rows, which a long run reads."""
    batches = batches_of(7, 7)
    for step in (2**31 // 7 + 1, 2**40):
        assert sorted(batches.rows_of(step).tolist()) == list(range(7))


@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 14), batch_size=st.integers(1, 6))
def test_evaluation_loses_nothing_and_fills_up_with_empty_rows(n, batch_size):
    rows = rows_of(n)
    batches = list(eval_batches(rows, batch_size, PAD, np.arange(batch_size)))
    assert len(batches) == -(-n // batch_size)
    assert all(array.shape == (batch_size, 3) for batch in batches for array in batch)
    if not batches:
        return
    joined = Rows(*map(np.concatenate, zip(*batches, strict=True)))
    assert_same(Rows(*(array[:n] for array in joined)), rows)
    assert (joined.tokens_RxL[n:] == PAD).all()
    assert not joined.segments_RxL[n:].any() and not joined.scored_RxL[n:].any()
    assert all(array.dtype == np.int32 for array in joined)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_an_evaluation(processes):
    """They also agree on how many batches there are, or the last one would wait for ever."""
    rows, all_rows = rows_of(9), np.arange(4)
    whole = list(eval_batches(rows, 4, PAD, all_rows))
    parts = [
        list(eval_batches(rows, 4, PAD, local_rows)) for local_rows in np.split(all_rows, processes)
    ]
    assert {len(part) for part in parts} == {len(whole)} == {3}
    for batch, *read in zip(whole, *parts, strict=True):
        assert_same(Rows(*map(np.concatenate, zip(*read, strict=True))), batch)
