"""The unigram floor: what knowing nothing but the symbols' frequencies would give."""

import math

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.evaluation.bound import unigram_entropy


def test_hand_computed_case():
    """Symbols that come 2, 0, 1 and 1 times."""
    expected = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert unigram_entropy(np.array([2, 0, 1, 1])) == pytest.approx(expected, rel=1e-12)


def test_ends():
    assert unigram_entropy(np.array([0, 3, 0])) == 0
    assert unigram_entropy(np.full(17, 5)) == pytest.approx(math.log(17), rel=1e-12)


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 1000), min_size=1, max_size=20).filter(any))
def test_is_the_cross_entropy_that_no_other_frequencies_beat(counts):
    """Gibbs: -sum p log q is least at q = p, where it is the entropy."""
    counts_V = np.array(counts)
    p_V = counts_V / counts_V.sum()
    q_V = (counts_V + 1) / (counts_V + 1).sum()
    here = unigram_entropy(counts_V)
    assert 0 <= here <= -(p_V * np.log(q_V)).sum() + 1e-12
    assert here <= math.log((counts_V > 0).sum()) + 1e-12
    assert unigram_entropy(counts_V * 7) == pytest.approx(here, abs=1e-12)
