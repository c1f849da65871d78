"""Datasets: what a fingerprint tells, and the unigram floor."""

import math

import numpy as np
import pytest

from dlms_jax.config import Config, from_dict
from dlms_jax.data.corpora import Document
from dlms_jax.data.dataset import Split, build_dataset, make_split, unigram_entropy
from dlms_jax.data.packing import Rows
from dlms_jax.data.tokenizers import ByteTokenizer, fingerprint
from dlms_jax.errors import UserError

TEXTS = ("first text", "second, é\U0001f600", "third")


def split_of(texts, length: int = 8) -> Split:
    documents = [Document(f"{number}", text) for number, text in enumerate(texts)]
    return make_split("test", documents, ByteTokenizer(), length)


def config_of(corpus, **settings) -> Config:
    data = {"corpus": str(corpus), "sequence_length": 8, "heldout_fraction": 0.3}
    return from_dict({"data": data} | settings)


@pytest.fixture
def folder(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"This is the text of document {number}. " * 5)
    return tmp_path


def test_fingerprint_counts_what_is_there():
    prints = split_of(TEXTS).fingerprint
    size = sum(len(text.encode()) for text in TEXTS)
    assert prints["documents"] == 3
    assert prints["bytes"] == size
    assert prints["tokens"] == size + 3  # each byte, and EOS
    assert all(isinstance(value, int | str) for value in prints.values())  # kept as JSON


@pytest.mark.parametrize(
    "changed",
    [
        ("first texT", *TEXTS[1:]),
        ("first text ", *TEXTS[1:]),
        TEXTS[::-1],
        TEXTS[:2],
        ("first", " text", *TEXTS[1:]),
        ("first textsecond, é\U0001f600", "third"),
        ("first textsecond, ", "é\U0001f600", "third"),
        (*TEXTS, ""),
    ],
    ids=["letter", "space", "order", "fewer", "cut", "joined", "moved", "empty"],
)
def test_fingerprint_changes_with_the_text(changed):
    assert split_of(changed).fingerprint["sha256"] != split_of(TEXTS).fingerprint["sha256"]


def test_fingerprint_is_of_the_text_alone():
    """Not of file names, rows or Python's hashes: a resume on another machine compares it."""
    documents = [Document(f"other/{text}", text) for text in TEXTS]
    other = make_split("another name", documents, ByteTokenizer(), length=5)
    assert other.fingerprint == split_of(TEXTS).fingerprint
    assert other.fingerprint["sha256"].startswith("aaaf25d1c99f1d2c")


def test_fingerprint_sees_bytes_that_are_no_utf8():
    def sha256(raw):
        return split_of([raw.decode("utf-8", "surrogateescape")]).fingerprint["sha256"]

    assert len({sha256(b"\xff"), sha256(b"\xfe"), sha256(b"?")}) == 3


def test_dataset_scores_every_byte_of_its_side(folder):
    dataset = build_dataset(config_of(folder))
    for split, other in ((dataset.train, dataset.heldout), (dataset.heldout, dataset.train)):
        texts = dataset.tokenizer.decode(split.rows.tokens_RxL[split.rows.scored_RxL])
        numbers = set(texts.replace(".", " ").split()) & set(map(str, range(30)))
        assert len(numbers) == split.fingerprint["documents"]
        assert len(texts.encode()) == split.fingerprint["bytes"]
        assert not numbers & set(
            dataset.tokenizer.decode(other.rows.tokens_RxL.ravel()).replace(".", " ").split()
        )
    assert dataset.train.fingerprint["documents"] + dataset.heldout.fingerprint["documents"] == 30


def test_tokenizer_is_trained_on_the_training_side_alone(folder):
    """Held-out text must not shape the symbols that it is scored with."""
    settings = {"tokenizer": {"name": "bpe", "vocab_size": 300}}
    first = build_dataset(config_of(folder, **settings))
    held = first.tokenizer.decode(first.heldout.rows.tokens_RxL.ravel())
    number = next(n for n in range(30) if f"document {n}." in held)
    text = "zqxj zqxj zqxj " * 50
    (folder / f"{number}.txt").write_text(_held_out_variant(text))
    second = build_dataset(config_of(folder, **settings))
    assert second.train.fingerprint == first.train.fingerprint
    assert second.heldout.fingerprint != first.heldout.fingerprint
    assert fingerprint(second.tokenizer) == fingerprint(first.tokenizer)


def _held_out_variant(text: str) -> str:
    """Returns the text with an ending that the split holds out."""
    from dlms_jax.data.corpora import split_corpus

    documents = [Document("", f"{text}{ending}") for ending in range(50)]
    return split_corpus(documents, 0.3)[1][0].text


def test_given_tokenizer_is_used(folder):
    """A resume brings the checkpoint's tokenizer."""
    given = ByteTokenizer()
    settings = {"tokenizer": {"name": "bpe", "vocab_size": 300}}
    assert build_dataset(config_of(folder, **settings), given).tokenizer is given


def rows_of(tokens, positions) -> Rows:
    tokens, positions = np.array([tokens], np.int32), np.array([positions], np.int32)
    return Rows(tokens, np.ones_like(tokens), positions)


def test_unigram_entropy_of_a_hand_computed_case():
    """Symbols 3, 3, 5, 7 are scored; BOS (9) and padding (0) are not."""
    rows = rows_of([9, 3, 3, 9, 5, 7, 0, 0], [0, 1, 2, 0, 1, 2, 0, 0])
    expected = 0.5 * math.log(2) + 2 * 0.25 * math.log(4)
    assert unigram_entropy(rows) == pytest.approx(expected, rel=1e-12)


def test_unigram_entropy_ends():
    assert unigram_entropy(rows_of([9, 4, 4, 4], [0, 1, 2, 3])) == 0
    uniform = rows_of(range(17), range(17))
    assert unigram_entropy(uniform) == pytest.approx(math.log(16), rel=1e-12)


def test_single_document_cannot_be_split(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("the only document\n")
    for fraction in (0.001, 0.999):  # neither side may be empty
        config = from_dict({"data": {"corpus": str(path), "heldout_fraction": fraction}})
        with pytest.raises(UserError, match="one.txt") as error:
            build_dataset(config)
        assert "heldout_fraction" in str(error.value) and "\n" not in str(error.value)
