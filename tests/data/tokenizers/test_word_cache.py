"""Words cut once each give the ids that the library gives the whole text."""

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest
import tokenizers

from dlms_jax.data.tokenizers import BPETokenizer
from dlms_jax.data.tokenizers.word_cache import splits_as_gpt2

TEXTS = ["It's what they'd say: we'll see, I'm 12 years old,\n\n  they've 3.14 (and more)...  "] * 3
ASCII = st.text(st.characters(max_codepoint=127), max_size=80)
# What the pattern's parts fight over.
EDGES = st.lists(
    st.sampled_from(
        ["'s", "'S", "'", "'ll", " ", "  ", "\t", "\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x1f",
         "a", "B9", "9", "_", "-", ".", "\0", "\x7f", "é", "\u00a0", "\U0001f600"]
    ),
    max_size=14,
).map("".join)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(TEXTS, 330)


@pytest.fixture(scope="module")
def library(tokenizer):
    library = tokenizers.Tokenizer.from_str(tokenizer.to_dict()["tokenizer_json"])
    library.encode_special_tokens = True
    return lambda text: library.encode(text, add_special_tokens=False).ids


def test_the_cache_is_used(tokenizer):
    assert tokenizer._words is not None


@settings(deadline=None, max_examples=300)
@given(text=ASCII | EDGES)
def test_ids_are_the_librarys(tokenizer, library, text):
    assert tokenizer.encode(text).tolist() == library(text)


@settings(deadline=None, max_examples=100)
@given(texts=st.lists(EDGES, max_size=6))
def test_batches_of_ascii_and_other_texts(tokenizer, library, texts):
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == list(map(library, texts))
    assert all(ids.dtype == np.int32 for ids in batch)


def test_every_single_and_pair_of_ascii_characters(tokenizer, library):
    characters = list(map(chr, range(128)))
    texts = [a + b for a in characters for b in characters]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.tolist() == library(text), repr(text)


def test_a_full_cache_is_emptied_and_goes_on(tokenizer, library, monkeypatch):
    monkeypatch.setattr("dlms_jax.data.tokenizers.word_cache._LARGEST", 3)
    for text in ("one two three four five", "six seven", "one eight"):
        assert tokenizer.encode(text).tolist() == library(text)
    assert len(tokenizer._words._ids) <= 8


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, False),
        ({"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}}, False),
        ({"pre_tokenizer": {"type": "Metaspace"}}, False),
        ({"pre_tokenizer": None}, False),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]}}, True),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"},
          {"type": "ByteLevel"}]}}, False),
        ({"added_tokens": [{"content": "word", "special": False}]}, False),
        ({"added_tokens": [{"content": "<|mask|>", "special": True}]}, True),
    ],
)  # fmt: skip
def test_only_gpt2s_splitting_is_cached(changes, expected):
    plain = {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}, "added_tokens": []}
    assert splits_as_gpt2(plain | changes) is expected
