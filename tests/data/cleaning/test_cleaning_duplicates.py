"""Near duplicates by known similarity, evaluation texts by known overlap."""

import itertools
import random

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.data.cleaning.contamination import (
    check_evaluation,
    is_contaminated,
    ngrams,
    union,
)
from dlms_jax.data.cleaning.duplicates import (
    bands,
    has_words,
    keep_smallest,
    near_in_bucket,
    near_of_all,
    rank,
    signature,
)
from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.record import Record, identity
from dlms_jax.data.cleaning.report import Count
from dlms_jax.errors import UserError

OPTIONS = CleaningOptions(near_duplicates=0.8)


def text_of(numbers) -> str:
    return " ".join(f"w{number}" for number in numbers)


def pair(shared: int, own: int) -> tuple[str, str, float]:
    """Returns two texts and the Jaccard similarity of their shingles of 5 words.

    `shared` words at the start are the same, `own` at the end are not: s - 4 shingles in common,
    and s - 4 + 2 * own in all.
    """
    start = list(range(shared))
    a, b = start + list(range(10**6, 10**6 + own)), start + list(range(2 * 10**6, 2 * 10**6 + own))
    return text_of(a), text_of(b), (shared - 4) / (shared - 4 + 2 * own)


def dropped(texts, options=OPTIONS) -> list[bool]:
    """Returns what near_of_all says of each text."""
    ranks = b"".join(rank(identity(text.encode())) for text in texts)
    signatures = np.array([signature(text, options) for text in texts], np.uint32)
    return near_of_all(
        np.frombuffer(ranks, np.uint8).reshape(-1, 16),
        signatures.reshape(-1, options.num_perm), options,
    ).tolist()  # fmt: skip


# Exact duplicates


@given(st.permutations(["b", "a", "c", "a"]), st.integers(1, 3))
def test_the_smallest_name_is_kept_and_the_others_counted(names, cut):
    """However the records are put together: associative and commutative."""
    single = [(Record.of(name, b"text", 4), Count()) for name in names]
    expected = (Record.of("a", b"text", 4), Count(3, 12, "a"))
    assert keep_smallest(single) == expected
    parts = [keep_smallest(part) for part in (single[:cut], single[cut:])]
    assert keep_smallest(parts[::-1]) == expected


# Signatures


@pytest.mark.parametrize(("shared", "own"), [(1004, 500), (804, 100), (904, 50), (504, 2000)])
def test_the_share_of_equal_minima_is_the_similarity(shared, own):
    """Within 4 standard deviations of 512 draws."""
    a, b, jaccard = pair(shared, own)
    options = CleaningOptions(near_duplicates=0.8, num_perm=512)
    estimate = (signature(a, options) == signature(b, options)).mean()
    assert abs(estimate - jaccard) < 4 * (jaccard * (1 - jaccard) / 512) ** 0.5


def test_a_signature_is_of_the_set_of_shingles():
    same = signature("A b, c d e f!", OPTIONS)
    assert (same == signature("a B c. D E f a b c d e f", CleaningOptions(shingle=5))).mean() < 1
    assert (same == signature("a  b c d e\nF", OPTIONS)).all()
    assert not (same == signature("f e d c b a", OPTIONS)).any()  # the order counts
    one = CleaningOptions(near_duplicates=0.8, shingle=1)
    assert (signature("a b c b", one) == signature("c b a", one)).all()
    # A text longer than what is hashed at once: the minimum over its parts.
    long = text_of(range(20000))
    parts = [text_of(range(0, 10000)), text_of(range(9996, 20000))]
    both = np.minimum(*(signature(part, OPTIONS) for part in parts))
    assert (signature(long, OPTIONS) == both).all()


def test_short_texts_and_texts_without_words():
    assert has_words(signature("a", OPTIONS)) and has_words(signature("a b c d", OPTIONS))
    assert not has_words(signature(" .,", OPTIONS))
    # A text of few words is one shingle: near only to the same words.
    assert sum(dropped(["a b c", "A, b, c!", "a b", "a b d"])) == 1
    assert dropped([" .,", "!", "", "?"]) == [False] * 4
    assert dropped([]) == []


# Near duplicates


def test_recall_and_precision():
    """Of pairs well above the threshold nearly all are found, of pairs well below none."""
    random_pairs = random.Random(0)
    found = {}
    for shared, own in ((404, 10), (404, 100)):  # similarity 0.95, 0.67
        texts = []
        for _ in range(60):
            words = random_pairs.sample(range(10**9), shared + 2 * own)
            start = words[:shared]
            texts += [text_of(start + words[shared::2]), text_of(start + words[shared + 1 :: 2])]
        drops = np.array(dropped(texts)).reshape(-1, 2)
        assert not drops.all(1).any()  # one of each pair stays
        found[shared, own] = drops.any(1).sum()
    assert found[404, 10] >= 58
    assert found[404, 100] == 0


def test_the_threshold_is_of_the_estimate():
    """Texts that agree in a band are dropped just where the signatures agree often enough."""
    options = CleaningOptions(near_duplicates=0.5, num_perm=16)
    size = bands(options)[0].stop
    first = np.arange(16, dtype=np.uint32)
    for equal, drop in ((8, True), (7, False)):
        assert equal >= size
        other = np.where(np.arange(16) < equal, first, first + 1000).astype(np.uint32)
        ranks = np.array([[0] * 16, [1] * 16], np.uint8)
        assert near_of_all(ranks, np.stack([first, other]), options).tolist() == [False, drop]
        bucket = [(bytes([1] * 16), other.tobytes()), (bytes(16), first.tobytes())]
        assert list(near_in_bucket(bucket, options)) == [bytes([1] * 16)] * drop


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_sorting_finds_what_buckets_find(data):
    """On random signatures of few values: near_of_all is near_in_bucket on every bucket."""
    options = CleaningOptions(
        near_duplicates=data.draw(st.sampled_from([0.3, 0.5, 0.7])), num_perm=16
    )
    number = data.draw(st.integers(0, 12))
    random_values = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    signatures = random_values.choice([1, 2], p=[0.8, 0.2], size=(number, 16)).astype(np.uint32)
    signatures[random_values.random(number) < 0.2] = 2**32 - 1  # no words
    names = [bytes(random_values.integers(0, 256, 16, np.uint8)) for _ in range(number)]
    expected, buckets = set(), {}
    for name, values in zip(names, signatures, strict=True):
        for j, band in enumerate(bands(options)):
            if has_words(values):
                buckets.setdefault((j, values[band].tobytes()), []).append((name, values.tobytes()))
    for bucket in buckets.values():
        expected |= set(near_in_bucket(bucket, options))
    ranks = np.frombuffer(b"".join(map(rank, names)), np.uint8).reshape(-1, 16)
    drops = near_of_all(ranks, signatures, options)
    assert {name for name, drop in zip(names, drops, strict=True) if drop} == expected


def test_of_similar_texts_the_first_ranked_stays_whatever_the_order():
    words = list(range(400))
    texts = [text_of([*words[:200], 1000 + i, *words[200:]]) for i in range(4)]
    first = min(texts, key=lambda text: rank(identity(text.encode())))
    for order in itertools.permutations(texts):
        assert [t for t, drop in zip(order, dropped(order), strict=True) if not drop] == [first]


def test_rank_is_not_the_order_of_identities():
    """Else what is kept of many similar texts would be early in the corpus."""
    names = [identity(bytes([i])) for i in range(200)]
    order = np.argsort(np.argsort([rank(name) for name in names]))
    place = np.argsort(np.argsort(names))
    assert abs(np.corrcoef(order, place)[0, 1]) < 0.25


@pytest.mark.parametrize(("threshold", "num_perm"), [(1.0, 128), (0.95, 16)])
def test_a_threshold_too_fine_for_num_perm(threshold, num_perm):
    with pytest.raises(UserError) as error:
        bands(CleaningOptions(near_duplicates=threshold, num_perm=num_perm))
    assert f"cleaning.near_duplicates={threshold} cannot be estimated" in str(error.value)
    assert f"num_perm={num_perm}" in str(error.value) and "\n" not in str(error.value)


# Contamination


def evaluation(*texts, options: CleaningOptions | None = None) -> np.ndarray:
    options = options or CleaningOptions()
    return union(ngrams(text, options) for text in texts)


def test_thirteen_words_in_a_row_are_contamination():
    known = evaluation(text_of(range(20)))
    options = CleaningOptions()
    inside = [*range(100, 150), *range(3, 16), *range(200, 250)]
    assert is_contaminated(text_of(inside), known, options)
    assert is_contaminated(text_of(inside).upper().replace(" ", ", "), known, options)
    for start in range(8):  # each of the eight runs of thirteen
        assert is_contaminated(text_of(range(start, start + 13)), known, options)
    inside.remove(15)  # twelve
    assert not is_contaminated(text_of(inside), known, options)
    assert is_contaminated(text_of(inside), evaluation(text_of(range(20)), options=(
        twelve := CleaningOptions(ngram=12))), twelve)  # fmt: skip
    assert not is_contaminated("", known, options)
    assert not is_contaminated(text_of(range(12)), known, options)


@settings(deadline=None)
@given(st.lists(st.text("ab ", max_size=20), max_size=4), st.text("ab ", max_size=20))
def test_contamination_is_a_shared_ngram(texts, text):
    options = CleaningOptions(ngram=3)
    grams = {tuple(t.split()[i : i + 3]) for t in texts for i in range(len(t.split()) - 2)}
    own = {tuple(text.split()[i : i + 3]) for i in range(len(text.split()) - 2)}
    assert is_contaminated(text, evaluation(*texts, options=options), options) == bool(grams & own)


def test_evaluation_texts_in_which_nothing_is_found():
    options = CleaningOptions(decontaminate=("quiz.txt",))
    check_evaluation(evaluation(text_of(range(13))), options)
    check_evaluation(evaluation(), CleaningOptions())
    with pytest.raises(UserError, match=r"\(quiz.txt\) has 13 words: lower cleaning.ngram"):
        check_evaluation(evaluation(text_of(range(12))), options)
