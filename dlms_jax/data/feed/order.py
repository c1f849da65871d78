"""The order of rows: stateless shuffles and mixtures, both functions of the index.

grain's index_shuffle has the same idea, but takes 3 ms whenever the seed changes: at each epoch of
a small corpus, and at each row of a mixture.
"""

import functools

import numpy as np

_IN_MEMORY = 1 << 20  # the most rows whose permutation is kept in memory
_ROUNDS = 6
_PERIOD = 10_000  # weights of a mixture are exact to this many parts


def shuffled(index: np.ndarray, number: int, key: tuple[int, ...]) -> np.ndarray:
    """Returns the images of indices under a permutation of 0..number-1 that depends on `key`.

    Up to a million rows it is uniform over all permutations. Beyond that it is a keyed Feistel
    network (Luby and Rackoff 1988) on the next power of four, iterated until the image is in range,
    so nothing is stored.
    """
    if number <= _IN_MEMORY:
        return _permutation(number, key)[index]
    half = -(-(number - 1).bit_length() // 2)
    position = _feistel(np.asarray(index, np.uint64), half, key)
    while (outside := position >= number).any():
        position[outside] = _feistel(position[outside], half, key)
    return position.astype(np.int64)


@functools.lru_cache(maxsize=32)
def _permutation(number, key):
    return np.random.default_rng(key).permutation(number)


@functools.lru_cache(maxsize=32)
def _round_keys(key):
    return np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)


def _feistel(x, half, key):
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = x >> shift, x & mask
    for round_key in _round_keys(key):
        left, right = right, left ^ (_mix(right ^ round_key) & mask)
    return (left << shift) | right


def _mix(x):
    """Returns bits that depend on all bits of x: the end of splitmix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Interleave:
    """Corpora taken in turns in proportion to their weights, as evenly as whole rows allow."""

    def __init__(self, weights: list[float]):
        shares = np.array(weights) / sum(weights)
        # Whole parts of a period: each at least one; the largest takes the rounding error.
        parts = np.maximum(np.round(shares * _PERIOD).astype(int), 1)
        parts[np.argmax(parts)] += _PERIOD - parts.sum()
        turns, taken = np.zeros(_PERIOD, int), np.zeros(len(parts))
        for turn in range(_PERIOD):
            turns[turn] = np.argmax(parts * (turn + 1) / _PERIOD - taken)
            taken[turns[turn]] += 1
        self._corpus_of_turn = turns
        # How often each corpus has been taken before each turn, and in a whole period.
        had = np.cumsum(turns[:, None] == np.arange(len(parts)), axis=0)
        self._taken_before = np.vstack([np.zeros(len(parts), int), had])

    def corpus(self, index: np.ndarray) -> np.ndarray:
        """Returns the corpus that each index is taken from."""
        return self._corpus_of_turn[index % _PERIOD]

    def taken(self, index) -> np.ndarray:
        """Returns how often each corpus was taken before an index; shape [..., corpora]."""
        periods, turn = np.divmod(index, _PERIOD)
        return np.multiply.outer(periods, self._taken_before[-1]) + self._taken_before[turn]
