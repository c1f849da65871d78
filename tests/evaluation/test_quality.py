"""Measures of samples against values known by hand, brute force, and the chain rule."""

from collections import Counter
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.data.packing import join, pack
from dlms_jax.data.tokenizers import BPETokenizer, ByteTokenizer
from dlms_jax.denoiser import initial_params, make_network, vocabulary_of
from dlms_jax.diffusion import make_batch, make_objective
from dlms_jax.errors import UserError
from dlms_jax.evaluation.quality import (
    GenerativePerplexity,
    Sample,
    SampleMetrics,
    byte_ngrams,
    distinct,
    heldout_samples,
    known_words,
    overlap,
    rows_of,
    sample_of,
    samples_of,
    texts_of,
    tokens_of,
    unigram_samples,
)
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.testing import small_config

BYTES = ByteTokenizer()
RNG = np.random.default_rng(0)
TEXTS = ["the cat sat on the mat", "a", "é and \udcff\udc80 are no ASCII", "on " * 40, "the end"]


def whole(*texts: str) -> list[Sample]:
    return [Sample(text.encode("utf-8", "surrogateescape"), False) for text in texts]


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    return BPETokenizer.train(["the cat sat on the mat on the mat"] * 5, 300)


def packed(tokenizer, texts, length):
    ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    return join(pack(map(tokenizer.encode, texts), length, *ids), length)


# Measures


def test_entropy_repetition_and_length_are_means_over_pieces():
    judge = SampleMetrics(BYTES, [b"ab"], [])
    same, even = judge(whole("aaaaaaaa")), judge(whole("abcd"))
    assert (same.entropy, same.repetition, same.tokens) == (0, 1, 8)
    assert even.entropy == pytest.approx(math.log(4))
    assert even.repetition == 1 / 4
    both = judge(whole("aaaaaaaa", "abcd"))
    assert both.entropy == pytest.approx(math.log(4) / 2)
    assert (both.repetition, both.tokens) == (5 / 8, 6)


def test_an_eos_is_a_token_so_that_an_empty_piece_repeats_one():
    quality = SampleMetrics(BYTES, [b"ab"], [])([Sample(b"", True)])
    assert (quality.tokens, quality.entropy, quality.repetition) == (1, 0, 1)
    assert (quality.bigram_agreement, quality.distinct_2, quality.known_words) == (0, 0, 0)


def test_pieces_without_a_token_are_measured_too():
    quality = SampleMetrics(BYTES, [b"ab"], [])([Sample(b"", False)])
    assert (quality.tokens, quality.entropy, quality.repetition, quality.distinct_1) == (0, 0, 0, 0)


def test_distinct_counts_within_pieces():
    tokens = [np.array([1, 1, 1, 1]), np.array([1, 2])]
    assert distinct(tokens, 1) == 2 / 6
    assert distinct(tokens, 2) == 2 / 4  # (1, 1) three times and (1, 2): none across samples
    assert distinct(tokens, 3) == 1 / 2
    assert distinct(tokens, 5) == 0


def test_distinct_equals_a_count_by_strings():
    tokens = [RNG.integers(0, 9, n) for n in (0, 1, 5, 60)]
    for n in (1, 2, 3):
        grams = [",".join(map(str, t[i : i + n])) for t in tokens for i in range(len(t) - n + 1)]
        assert distinct(tokens, n) == len(set(grams)) / len(grams)


@pytest.mark.parametrize("n", [1, 2])
def test_byte_ngrams_equal_a_count_by_slices(n):
    texts = [RNG.integers(0, 256, size, np.uint8).tobytes() for size in (0, 1, 2, 500)]
    counted = Counter(text[i : i + n] for text in texts for i in range(len(text) - n + 1))
    counts = byte_ngrams(texts, n)
    assert counts.sum() == sum(counted.values())
    for gram, count in counted.items():
        assert counts[int.from_bytes(gram, "big")] == count


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1, 1, 0], [0, 7, 7], 0.5), ([2, 4], [1, 2], 1), ([3, 0], [0, 1], 0), ([0, 0], [1, 1], 0),
     ([9, 1], [1, 9], 0.2)],
)  # fmt: skip
def test_overlap_by_hand(one, other, expected):
    assert overlap(np.array(one), np.array(other)) == pytest.approx(expected)


def test_overlap_is_1_less_the_total_variation():
    one, other = RNG.integers(0, 9, (2, 50))
    variation = 0.5 * np.abs(one / one.sum() - other / other.sum()).sum()
    assert overlap(one, other) == pytest.approx(1 - variation)


def test_agreement_is_1_with_the_same_text_and_0_with_none_of_its_bytes():
    judge = SampleMetrics(BYTES, [b"abab"], [])
    same, other, swapped = judge(whole("abababab")), judge(whole("xyz")), judge(whole("aabb"))
    assert same.unigram_agreement == pytest.approx(1)
    assert (other.unigram_agreement, other.bigram_agreement) == (0, 0)
    assert swapped.unigram_agreement == pytest.approx(1)
    assert swapped.bigram_agreement == pytest.approx(1 / 3)  # ab of aa, ab, bb; held-out has 2/3


def test_known_words_leaves_out_what_may_be_cut():
    words = frozenset([b"cat", b"sat"])
    assert known_words(whole("cat cat sat xat cat"), words) == 2 / 3
    assert known_words(whole("cat cat"), words) == 0
    assert known_words(whole("x cat x", "x\nsat\t\tdog x"), words) == 2 / 3
    judged = SampleMetrics(BYTES, [b"x"], [b"a cat", b"that sat"])
    assert judged(whole("x cat that dog x")).known_words == 2 / 3


# Pieces


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_a_piece_keeps_its_bytes(tokenizer, ended, bpe):
    """Bytes that are no UTF-8 among them: a model may write any."""
    tokenizer = bpe if tokenizer == "bpe" else BYTES
    for text in TEXTS:
        ids = np.append(tokenizer.encode(text), [tokenizer.eos_id] * ended).astype(int)
        after = tokenizer.encode("after the end") if ended else []
        sample = sample_of(np.append(ids, after), tokenizer)
        assert sample == Sample(text.encode("utf-8", "surrogateescape"), ended)
        np.testing.assert_array_equal(tokens_of(sample, tokenizer), ids)


def test_tokens_of_another_segmentation_are_those_of_the_text(bpe):
    spelled = np.concatenate([bpe.encode(c) for c in "the cat"])
    assert len(spelled) > len(bpe.encode("the cat"))
    np.testing.assert_array_equal(tokens_of(sample_of(spelled, bpe), bpe), bpe.encode("the cat"))


def test_sampled_pieces_are_what_the_holes_hold():
    ids = [BYTES.bos_id, *b"in", *b"to", BYTES.eos_id, *b"x"]
    tokens = np.array([ids, [BYTES.bos_id, *b"abcde", BYTES.pad_id]])
    holes = np.array([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0]], bool)
    canvas = SimpleNamespace(tokens_BxL=tokens[:, :7], holes_BxL=holes)
    assert samples_of(canvas, BYTES) == [Sample(b"to", True), Sample(b"abcde", False)]


def test_rows_of_samples():
    samples = [
        Sample(b"ab", True),
        Sample(b"ab", False),
        Sample(b"abcdefg", True),
        Sample(b"", False),
    ]
    rows = rows_of(samples, BYTES, 5)
    bos, eos, pad = BYTES.bos_id, BYTES.eos_id, BYTES.pad_id
    a, b, c, d = b"abcd"
    np.testing.assert_array_equal(
        rows.tokens_RxL,
        [[bos, a, b, eos, pad], [bos, a, b, pad, pad], [bos, a, b, c, d], [bos] + [pad] * 4],
    )
    np.testing.assert_array_equal(rows.loss_mask_RxL.sum(axis=1), [3, 2, 4, 0])
    assert not rows.loss_mask_RxL[:, 0].any()
    np.testing.assert_array_equal(rows.segments_RxL, rows.tokens_RxL != pad)
    np.testing.assert_array_equal(rows.positions_RxL[0], [0, 1, 2, 3, 0])


@pytest.mark.parametrize("length", [2, 7, 64])
def test_texts_of_rows_are_the_texts_that_were_packed(length, bpe):
    for tokenizer in (BYTES, bpe):
        texts = texts_of(packed(tokenizer, TEXTS, length), tokenizer)
        assert [text for text in texts if text] == [p.text for p in whole(*TEXTS)]


def test_spread_pieces_are_not_among_the_other_rows():
    texts = [f"{n:02}" * 7 for n in range(40)]  # with BOS and EOS a row each
    rows = packed(BYTES, texts, 16)
    assert rows.number == 40
    samples, others = heldout_samples(rows, 4, 6, BYTES)
    assert samples == [Sample(text[:6].encode(), False) for text in texts[::10]]
    rest = [text.encode() for n, text in enumerate(texts) if n % 10]
    assert [text for text in texts_of(others, BYTES) if text] == rest
    few, others = heldout_samples(rows, 1000, 16, BYTES)
    assert few == [Sample(text.encode(), True) for text in texts[::2]]
    assert others.number == 20


def test_one_row_cannot_be_compared_with_itself():
    with pytest.raises(UserError, match="one row"):
        heldout_samples(packed(BYTES, ["short"], 16), 4, 6, BYTES)


def test_a_piece_of_held_out_text_is_of_one_document():
    rows = packed(BYTES, ["ab", "cdefghijklm"] * 3, 16)
    samples, _ = heldout_samples(rows, 1, 10, BYTES)
    assert samples == [Sample(b"ab", True)]


def test_unigram_pieces_have_the_frequencies_of_the_rows():
    rows = packed(BYTES, ["aaab"] * 50, 16)
    samples = unigram_samples(rows, 1000, 20, BYTES)
    ended = np.mean([sample.ended for sample in samples])
    assert ended == pytest.approx(1 - 0.8**20, abs=0.01)  # an EOS after every four bytes
    text = b"".join(sample.text for sample in samples)
    assert text.count(b"a") / len(text) == pytest.approx(3 / 4, abs=0.03)
    assert set(text) == set(b"ab")


# The twin


def twin_of(params_from=lambda params: params, objective="autoregressive"):
    """Returns what GenerativePerplexity takes: an untrained model, its parameters changed."""
    config = small_config(objective__name=objective)
    mesh = make_mesh(devices=jax.devices()[:1])
    vocabulary = vocabulary_of(BYTES)
    network = make_network(config, vocabulary.padded_size, mesh)
    params = params_from(jax.jit(lambda: initial_params(network, jax.random.key(1)))())
    objective = make_objective(config, vocabulary)
    return SimpleNamespace(
        config=config,
        objective=objective,
        params=params,
        tokenizer=BYTES,
        network=network,
        mesh=mesh,
    )


SAMPLES = [
    Sample(b"to be", True),
    Sample(b"or not to be", False),
    Sample(b"", True),
    Sample(b"a" * 99, True),
]


def test_a_twin_that_knows_nothing_needs_the_logarithm_of_its_symbols():
    def flat(params):
        return params | {"lm_head": jax.tree.map(jnp.zeros_like, params["lm_head"])}

    report = GenerativePerplexity(twin_of(flat))(SAMPLES)
    assert report.nats_per_token == pytest.approx(math.log(BYTES.size), rel=1e-5)
    # 5 bytes and EOS, 12, EOS, and as much of 99 as fits 32 places with BOS.
    assert (report.tokens, report.bytes) == (6 + 12 + 1 + 31, 5 + 12 + 31)
    nats = report.tokens * math.log(BYTES.size)
    assert report.bits_per_byte == pytest.approx(nats / math.log(2) / report.bytes, rel=1e-5)


def test_the_twins_loss_is_the_chain_rule():
    """Sharp logits, so that a target one place off would show."""
    twin = twin_of(lambda params: jax.tree.map(lambda x: 3 * x, params))
    report = GenerativePerplexity(twin)(SAMPLES)

    @jax.jit
    def log_p_of(tokens_1xL):
        rows = rows_of([Sample(b"a" * 31, False)], BYTES, 32)
        batch = make_batch(*rows.cells, jnp.arange(1))
        zeros = jnp.zeros(tokens_1xL.shape, jnp.float32)
        logits = twin.network.apply(
            {"params": twin.params}, tokens_1xL, zeros, batch.layout, "causal"
        )[0, :, : BYTES.size]
        return jax.nn.log_softmax(logits)

    nats = 0.0
    for sample in SAMPLES:
        ids = [BYTES.bos_id, *tokens_of(sample, BYTES)][:32]
        # What stands after a token does not matter to what comes before it.
        log_p = np.asarray(log_p_of(np.array([ids + [65] * (32 - len(ids))])))
        nats -= sum(log_p[i, ids[i + 1]] for i in range(len(ids) - 1))
    assert report.nats_per_token * report.tokens == pytest.approx(nats, rel=1e-4)
    assert report.nats_per_token != pytest.approx(math.log(BYTES.size), rel=0.005)


def test_a_diffusion_model_is_no_twin():
    with pytest.raises(UserError, match="masked model gives a bound"):
        GenerativePerplexity(twin_of(objective="masked"))
