"""Orders: shuffles that lose nothing and look random, mixtures that keep to their weights."""

from collections import Counter
import itertools
import math

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.data.feed import order
from dlms_jax.data.feed.order import Interleave, shuffled

LARGE = (1 << 20) + 7  # beyond what is kept in memory
PERIOD = 10_000
KEY = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 10**6))


def shuffle(number: int, key=(0, 0, 0)) -> np.ndarray:
    return shuffled(np.arange(number), number, key)


@pytest.fixture
def by_feistel(monkeypatch):
    """Small shuffles made in the way of large ones."""
    monkeypatch.setattr(order, "_IN_MEMORY", 0)


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    """[keys, LARGE]: shuffles by keys that differ in one place."""
    return np.stack([shuffle(LARGE, key) for key in ((0, 0, 0), (0, 0, 1), (1, 0, 0))])


# Shuffles


@settings(deadline=None, max_examples=60)
@given(number=st.integers(1, 300), key=KEY)
def test_shuffle_holds_each_index_once(number, key):
    assert sorted(shuffle(number, key).tolist()) == list(range(number))


@pytest.mark.parametrize("key", [(0, 0, 0), (2**32 - 1, 3, 10**6)])
def test_feistel_shuffle_holds_each_index_once(by_feistel, key):
    """Of any number: below, at and above the powers of four that the network permutes."""
    for number in [*range(1, 70), 255, 256, 257, 1023, 1024, 1025]:
        assert sorted(shuffle(number, key).tolist()) == list(range(number))


@pytest.mark.parametrize("number", [1 << 20, (1 << 20) + 1, 2_000_003, 1 << 22])
def test_large_shuffle_holds_each_index_once(number):
    places = shuffle(number)
    assert places.dtype == np.int64 and places.min() == 0
    assert (np.bincount(places, minlength=number) == 1).all()


def test_every_permutation_is_as_likely():
    """Chi-square over the 24 of four rows, by keys that are epochs."""
    keys = 4800
    counts = Counter(tuple(shuffle(4, (7, 0, epoch))) for epoch in range(keys))
    expected = keys / 24
    statistic = sum(
        (counts[p] - expected) ** 2 / expected for p in itertools.permutations(range(4))
    )
    assert statistic < 23 + 4 * math.sqrt(2 * 23)


def test_large_shuffles_hold_each_index_once(large):
    assert (np.sort(large) == np.arange(LARGE)).all()


def test_large_shuffle_keeps_no_order(large):
    """Where a row goes tells nothing of where it was, nor of where its neighbours go."""
    index = np.arange(LARGE)
    for places in large:
        assert abs(np.corrcoef(index, places)[0, 1]) < 4.5 / math.sqrt(LARGE)
        # Between neighbours, as at any distance that a batch might span.
        for lag in (1, 2, 64, 1 << 10, 1 << 11):
            assert abs(np.corrcoef(places[:-lag], places[lag:])[0, 1]) < 4.5 / math.sqrt(LARGE)
        for bit, other in itertools.product((1, 1 << 10, 1 << 11), repeat=2):
            agree = (places & bit > 0) == (index & other > 0)
            assert abs(agree.mean() - 0.5) < 4.5 * 0.5 / math.sqrt(LARGE) + 1e-5
        assert (np.abs(np.diff(places)) == 1).sum() < 20  # 2 expected
        assert (places == index).sum() < 10  # 1 expected


@pytest.mark.parametrize("blocks", [5, 32])
def test_large_shuffle_fills_every_place_evenly(large, blocks):
    """Chi-square of which part of the rows goes to which part of the order."""
    for places in large:
        cells = np.arange(LARGE) * blocks // LARGE * blocks + places * blocks // LARGE
        expected = LARGE / blocks**2
        statistic = ((np.bincount(cells, minlength=blocks**2) - expected) ** 2 / expected).sum()
        freedom = (blocks - 1) ** 2
        assert abs(statistic - freedom) < 4.5 * math.sqrt(2 * freedom)


def test_keys_give_shuffles_that_know_nothing_of_each_other(large):
    for left, right in itertools.combinations(large, 2):
        assert (left == right).sum() < 10  # 1 expected
        assert abs(np.corrcoef(left, right)[0, 1]) < 4.5 / math.sqrt(LARGE)
        differences = np.bincount((left - right) % LARGE % 101)
        expected = LARGE / 101
        assert ((differences - expected) ** 2 / expected).sum() < 100 + 4.5 * math.sqrt(200)


@pytest.mark.parametrize("number", [1000, LARGE])
def test_one_index_goes_where_it_goes_among_others(number, large):
    whole = large[0] if number == LARGE else shuffle(number)
    some = np.array([0, number - 1, 17, 512, 17])
    np.testing.assert_array_equal(shuffled(some, number, (0, 0, 0)), whole[some])
    for index in some:
        assert shuffled(np.array([index]), number, (0, 0, 0)).tolist() == [whole[index]]
    assert shuffled(np.array([], int), number, (0, 0, 0)).shape == (0,)


def test_shuffle_does_not_change_its_indices():
    some = np.array([3, 1])
    shuffled(some, LARGE, (0, 0, 0))
    assert some.tolist() == [3, 1]


def test_shuffles_are_those_that_runs_were_begun_with():
    """Another order, of another numpy too, would let a resumed run see rows twice in an epoch."""
    assert shuffle(8, (1, 2, 3)).tolist() == [4, 2, 6, 5, 1, 3, 7, 0]
    assert shuffled(np.arange(4), LARGE, (1, 2, 3)).tolist() == [457169, 529, 457089, 1009645]


# Mixtures

WEIGHTS = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


def counts_of(turns: Interleave, number: int) -> np.ndarray:
    """[number + 1, corpora]: how often each was taken in each beginning, counted."""
    corpus_N = turns.corpus(np.arange(number))
    corpora = turns.taken(0).shape[-1]
    taken = np.cumsum(corpus_N[:, None] == np.arange(corpora), axis=0)
    return np.vstack([np.zeros(corpora, int), taken])


@settings(deadline=None, max_examples=12)
@given(weights=WEIGHTS)
def test_every_beginning_holds_the_weights(weights):
    """As evenly as whole rows allow: n corpora are never above their share by more than 1 - 1/n,
    nor below it by more than 1/2 + ... + 1/n (as for the fullest cup in a cup game)."""
    turns, n = Interleave(weights), len(weights)
    taken = counts_of(turns, PERIOD)
    shares = taken[-1] / PERIOD
    above = taken - np.arange(PERIOD + 1)[:, None] * shares
    assert above.max() <= 1 - 1 / n + 1e-6
    assert -above.min() <= sum(1 / k for k in range(2, n + 1)) + 1e-6


@settings(deadline=None, max_examples=8)
@given(weights=WEIGHTS)
def test_shares_are_the_weights(weights):
    """To half a part in 10000; the largest takes what the others' rounding left."""
    parts = Interleave(weights).taken(PERIOD)
    exact = np.array(weights) / sum(weights) * PERIOD
    assert parts.sum() == PERIOD and (parts >= 1).all()
    others = np.arange(len(parts)) != np.argmax(exact)
    assert (np.abs(parts - np.maximum(exact, 1))[others] <= 0.5 + 1e-6).all()
    assert abs(parts - exact).max() <= len(weights)


@settings(deadline=None, max_examples=8)
@given(first=st.integers(1, 999))
def test_two_corpora_are_within_one_row_of_their_weights(first):
    weights = [first / 1000, 1 - first / 1000]
    prefix_N = np.arange(PERIOD + 5)
    taken = Interleave(weights).taken(prefix_N)
    assert np.abs(taken - np.multiply.outer(prefix_N, weights)).max() <= 0.5 + 1e-6


@settings(deadline=None, max_examples=10)
@given(weights=WEIGHTS, late=st.integers(0, 2**40))
def test_taken_counts_what_corpus_gives(weights, late):
    """Also across periods, and late in a run."""
    turns = Interleave(weights)
    np.testing.assert_array_equal(
        turns.taken(np.arange(2 * PERIOD + 6)), counts_of(turns, 2 * PERIOD + 5)
    )
    index = late + np.arange(50)
    taken, corpus = turns.taken(index), turns.corpus(index)
    grown = np.diff(taken, axis=0)
    np.testing.assert_array_equal(grown, corpus[:-1, None] == np.arange(len(weights)))
    np.testing.assert_array_equal(turns.taken(late), taken[0])  # of a plain number
    assert taken[0].sum() == late
    periods, rest = divmod(late, PERIOD)
    np.testing.assert_array_equal(taken[0], periods * turns.taken(PERIOD) + turns.taken(rest))


@pytest.mark.parametrize("weights", [[1, 1e-9], [1e-9, 1], [1e-9, 3, 2, 1e-7]])
def test_tiny_weights_get_a_part(weights):
    parts = Interleave(weights).taken(PERIOD)
    for weight, part in zip(weights, parts, strict=True):
        assert part == 1 if weight < 1e-6 else part > 1000


@pytest.mark.parametrize("weights", [[0.7, 0.3], [7, 3], [70, 30]])
def test_weights_need_not_sum_to_one(weights):
    assert Interleave(weights).taken(PERIOD).tolist() == [7000, 3000]
    assert Interleave(weights).corpus(np.arange(10)).tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 1, 0]


def test_single_corpus_has_every_turn():
    turns = Interleave([0.3])
    assert not turns.corpus(np.arange(PERIOD + 3)).any()
    assert turns.taken(np.array([0, 1, 10**12])).tolist() == [[0], [1], [10**12]]
