"""The report: what it counts, and that neither batches nor devices change it."""

import math

import jax
import numpy as np
import pytest

from dlms_jax.config import MeshConfig
from dlms_jax.data.packing import join, pack
from dlms_jax.data.tokenizers import BPETokenizer, ByteTokenizer
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.evaluation.bound import BoundEvaluator, BoundReport
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.testing import small_config
from dlms_jax.training.assembly import assemble

TEXTS = [f"text {n}: " + "abcdefgh"[n % 8] * (3 + 5 * n) for n in range(13)]


def evaluator(tokenizer=None, mesh=None, objective="masked", **settings):
    """Returns a function from texts to the report of an untrained network on them."""
    tokenizer = tokenizer or ByteTokenizer()
    mesh = mesh or make_mesh(devices=jax.devices()[:1])
    config = small_config(objective__name=objective, **settings)
    assembly = assemble(config, vocabulary_of(tokenizer), mesh)
    state = assembly.initial_state()
    evaluate = BoundEvaluator(config, assembly.network, assembly.objective, tokenizer, mesh)

    def report_on(texts):
        length = config.data.sequence_length
        ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
        rows = join(pack(map(tokenizer.encode, texts), length, *ids), length)
        return evaluate(state.params, rows)

    return report_on


def report(*arguments, **settings):
    return evaluator(*arguments, **settings)(TEXTS)


@pytest.fixture(scope="module")
def reference():
    return report()


def test_every_byte_and_every_eos_is_counted_once(reference):
    size = sum(len(text) for text in TEXTS)
    assert reference.bytes == size
    assert reference.tokens == size + len(TEXTS)


def test_units(reference):
    nats = reference.nats_per_token * reference.tokens
    assert reference.bits_per_byte == pytest.approx(nats / math.log(2) / reference.bytes)
    assert reference.perplexity == pytest.approx(math.exp(reference.nats_per_token))
    # An untrained network is uniform over the 257 symbols that text holds (bytes and EOS).
    assert reference.nats_per_token == pytest.approx(math.log(257), rel=0.02)


@pytest.mark.parametrize("batch_size", [16, 24])
def test_the_size_of_evaluation_batches_changes_nothing(reference, batch_size):
    other = report(evaluation__batch_size=batch_size)
    assert other.nats_per_token == pytest.approx(reference.nats_per_token, rel=1e-5)


def test_devices_change_nothing(reference):
    other = report(mesh=make_mesh(MeshConfig(2, 2, 2)))
    assert other.nats_per_token == pytest.approx(reference.nats_per_token, rel=1e-5)


def test_bytes_of_a_bpe_are_the_texts():
    tokenizer = BPETokenizer.train(TEXTS, 300)
    r = report(tokenizer)
    assert r.bytes == sum(len(text) for text in TEXTS) and r.tokens < r.bytes


def test_the_standard_error_is_the_spread_over_drawn_texts():
    """Against many sets of texts drawn from one source, evaluated by one network."""
    rng = np.random.default_rng(0)

    def texts():
        return ["".join(rng.choice(list("ab"), rng.integers(5, 60))) for _ in range(20)]

    report_on = evaluator(objective="autoregressive")
    reports = [report_on(texts()) for _ in range(12)]
    spread = np.std([r.bits_per_byte for r in reports], ddof=1)
    assert spread == pytest.approx(np.mean([r.stderr for r in reports]), rel=0.75)


def test_masked_and_autoregressive_score_the_same_tokens(reference):
    other = report(objective="autoregressive")
    assert (other.tokens, other.bytes, other.rows) == (
        reference.tokens, reference.bytes, reference.rows,
    )  # fmt: skip
    assert "exact likelihood" in other.protocol and "Monte-Carlo" in reference.protocol
    # The head normalises over every exported symbol, the special ones too (DESIGN section 3).
    assert other.nats_per_token == pytest.approx(math.log(260), rel=0.02)


@pytest.mark.parametrize(
    "nats, text", [(1.5, "25.0% below"), (2.0, "0.0% below"), (2.1, "5.0% above")]
)
def test_beside_the_unigram_entropy(nats, text):
    report = BoundReport(nats, 1.0, 0.1, 5.0, 2.0, 10, 10, 1, "")
    assert report.beside_unigram == text
