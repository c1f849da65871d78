"""Tokenizers: text and ids are one another's image, and specials are nobody's text."""

import json
import pickle

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.config import TokenizerConfig
from dlms_jax.data.corpora.document import to_bytes
from dlms_jax.data.tokenizers import (
    SPECIAL_TOKENS,
    BPETokenizer,
    ByteTokenizer,
    SentencePieceTokenizer,
    fingerprint,
    from_dict,
    make_tokenizer,
)
from dlms_jax.errors import UserError

TEXTS = [
    "It was the best of times, it was the worst of times, it was the age of wisdom. " * 3,
    "Call me Ishmael. Some years ago, never mind how long precisely, having little money\n" * 3,
]
# What tokenizers are known to lose: NUL, controls, combining marks, emoji with joiners, a BOM,
# spaces of all kinds, line ends; sentencepiece's own space and bytes; bytes that are no UTF-8.
HARD = (
    "\0\x07 \t\r\n\r  \u00a0\u3000\u2028 é e\u0301\u0323 \ufeffñ \u2581<0x41>\u2047<unk></s> "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\udcff\udc80\udce2\udc96\udc81  "
)
ANY_TEXT = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(["the times", " ", "  ", "\0", "\u2581", "<0x41>", "<unk>", "</s>", "\n"]),
        st.sampled_from([chr(0xDC00 + byte) for byte in range(0x80, 0x100)]),
    ),
    max_size=8,
).map("".join)
# Specials, whole, cut and nested, among ordinary text.
SPELLED = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "<|turn|>", "<|", "|>", "mask", "<|mask", " ", "é", "\n"]),
    max_size=12,
).map("".join)
MORE = ("<|turn|>", "<|turn|><2>")
KINDS = {
    "bytes": lambda: ByteTokenizer(special_tokens=MORE),
    "bpe": lambda: BPETokenizer.train(TEXTS, 302, special_tokens=MORE),
    "unigram": lambda: SentencePieceTokenizer.train(TEXTS, 294, special_tokens=MORE),
    "sentencepiece-bpe": lambda: SentencePieceTokenizer.train(
        TEXTS, 302, "bpe", special_tokens=MORE
    ),
    # No space to learn from: its own bytes must not stand for it.
    "spaceless": lambda: SentencePieceTokenizer.train(["abcabcabdabd"], 269, "bpe"),
}


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request):
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    return BPETokenizer.train(TEXTS, 300)


def role_ids(tokenizer) -> list[int]:
    return [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id]


def one_line(error) -> str:
    text = str(error.value)
    assert text.strip() and "\n" not in text
    return text


@pytest.mark.parametrize("kind", ["bpe", "unigram", "sentencepiece-bpe"])
def test_training_finds_words_and_stops_at_the_size(kind):
    """Otherwise every test of these would be one of single bytes."""
    tokenizer = KINDS[kind]()
    assert tokenizer.size == (294 if kind == "unigram" else 302)
    assert len(tokenizer.encode("the times")) < len("the times")


@settings(deadline=None, max_examples=150)
@given(text=ANY_TEXT)
def test_round_trip_is_exact(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode_bytes(ids) == to_bytes(text)
    assert tokenizer.decode(ids) == to_bytes(text).decode("utf-8", "replace")
    assert tokenizer.bytes_of_ids()[ids].sum() == len(to_bytes(text))
    assert not set(tokenizer.special_ids.values()) & set(ids.tolist())


def test_round_trip_of_hard_text(tokenizer):
    assert tokenizer.decode_bytes(tokenizer.encode(HARD)) == to_bytes(HARD)


@settings(deadline=None, max_examples=100)
@given(text=SPELLED)
def test_text_that_spells_a_special_is_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not set(tokenizer.special_ids.values()) & set(ids.tolist())
    assert tokenizer.decode(ids) == text


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_specials_become_their_ids_when_asked(tokenizer, data):
    """The text between them is encoded as if each piece stood alone."""
    plain = ANY_TEXT.filter(lambda text: "<" not in text)
    specials = st.sampled_from(list(tokenizer.special_ids))
    pieces = data.draw(st.lists(st.tuples(plain, specials), max_size=4))
    expected = [
        np.append(tokenizer.encode(text), tokenizer.special_ids[token]) for text, token in pieces
    ]
    ids = tokenizer.encode("".join(text + token for text, token in pieces), special=True)
    assert ids.dtype == np.int32
    assert ids.tolist() == [i for some in expected for i in some]


def test_longest_special_wins():
    tokenizer = KINDS["bytes"]()
    ids = tokenizer.encode("<|turn|><2><|turn|>", special=True).tolist()
    assert ids == [tokenizer.special_ids["<|turn|><2>"], tokenizer.special_ids["<|turn|>"]]


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.one_of(ANY_TEXT, SPELLED), max_size=6), special=st.booleans())
def test_a_batch_is_its_texts(tokenizer, texts, special):
    batch = tokenizer.encode_batch(texts, special)
    assert [ids.tolist() for ids in batch] == [
        tokenizer.encode(text, special).tolist() for text in texts
    ]
    assert all(ids.dtype == np.int32 for ids in batch)


def test_empty_text_has_no_tokens(tokenizer):
    for special in (False, True):
        assert tokenizer.encode("", special).shape == (0,)
        assert tokenizer.encode("", special).dtype == np.int32
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.decode([]) == ""


def test_half_a_character_is_an_error(tokenizer):
    for stray in ("\ud800", "\udc7f", "\udfff"):
        with pytest.raises(UserError, match=f"U\\+{ord(stray):04X} as character 2") as error:
            tokenizer.encode("é\udc80" + stray)
        one_line(error)


def test_special_ids_are_distinct_and_in_range(tokenizer):
    ids = role_ids(tokenizer)
    assert len(set(ids)) == 4
    every = list(tokenizer.special_ids.values())
    assert set(ids) <= set(every) and every == sorted(set(every))
    assert every[0] >= 0 and every[-1] < tokenizer.size
    assert (tokenizer.bytes_of_ids()[every] == 0).all()


def test_bytes_of_ids_has_every_id(tokenizer):
    """A symbol that is not special is at least a byte of text; all 256 bytes are symbols."""
    sizes = tokenizer.bytes_of_ids()
    assert sizes.shape == (tokenizer.size,) and sizes.dtype == np.int32
    assert (sizes == 0).sum() == len(tokenizer.special_ids)
    assert {tokenizer.decode_bytes([i]) for i in np.flatnonzero(sizes == 1)} == {
        bytes([byte]) for byte in range(256)
    }


def test_decode_drops_specials_and_what_is_no_id(tokenizer):
    """The head has more rows than the tokenizer has symbols."""
    ids = tokenizer.encode("héllo").tolist()
    nothing = [*tokenizer.special_ids.values(), tokenizer.size, tokenizer.size + 100, -1]
    mixed = [i for token in ids for i in (*nothing, token, *nothing)]
    assert tokenizer.decode(mixed) == tokenizer.decode(np.array(mixed)) == "héllo"


def test_decode_marks_broken_utf8(tokenizer):
    assert tokenizer.decode(tokenizer.encode("é\udca9")[:-1]).startswith("é")
    assert tokenizer.decode(tokenizer.encode("a\udcc3b")) == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize("copy", ["json", "pickle"])
def test_saved_and_loaded_is_the_same(tokenizer, copy):
    """As a checkpoint keeps it, and as worker processes get it."""
    if copy == "json":
        loaded = from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    else:
        loaded = pickle.loads(pickle.dumps(tokenizer))
    assert type(loaded) is type(tokenizer)
    text = HARD + TEXTS[0] + "".join(SPECIAL_TOKENS)
    for special in (False, True):
        np.testing.assert_array_equal(loaded.encode(text, special), tokenizer.encode(text, special))
    np.testing.assert_array_equal(loaded.bytes_of_ids(), tokenizer.bytes_of_ids())
    assert role_ids(loaded) == role_ids(tokenizer)
    assert loaded.special_ids == tokenizer.special_ids
    assert loaded.size == tokenizer.size
    assert fingerprint(loaded) == fingerprint(tokenizer)


def test_checkpoints_of_before_the_roles_still_load(trained):
    saved = {"name": "bpe", "tokenizer_json": trained.to_dict()["tokenizer_json"]}
    assert fingerprint(from_dict(saved)) == fingerprint(trained)
    assert fingerprint(from_dict({"name": "bytes"})) == fingerprint(ByteTokenizer())


def test_fingerprints_tell_tokenizers_apart(trained):
    """Their vocabularies, the tokens that are special, and which of these has which role."""
    swapped = {"pad": "<|mask|>", "bos": "<|bos|>", "eos": "<|eos|>", "mask": "<|pad|>"}
    others = [
        ByteTokenizer(),
        ByteTokenizer(swapped),
        ByteTokenizer(special_tokens=["<|turn|>"]),
        trained,
        from_dict(trained.to_dict() | {"roles": swapped}),
        BPETokenizer.train([t.upper() for t in TEXTS], 300),
        *(SentencePieceTokenizer.train(TEXTS, 290, kind) for kind in ("unigram", "bpe")),
    ]
    assert len({fingerprint(t) for t in others}) == len(others)


@pytest.mark.parametrize("name, algorithm", [
    ("bpe", "unigram"), ("sentencepiece", "unigram"), ("sentencepiece", "bpe")
])  # fmt: skip
def test_training_is_deterministic_and_silent(name, algorithm, capfd):
    """Every host of a run trains its own."""
    config = TokenizerConfig(name=name, vocab_size=288, algorithm=algorithm)
    first, second = (make_tokenizer(config, iter(TEXTS)) for _ in range(2))
    assert first.to_dict() == second.to_dict()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["bpe", "sentencepiece"])
def test_training_reads_what_trainers_drop(name):
    """Lines longer than sentencepiece's trainer takes, NUL, and bytes that are no UTF-8."""
    text = "the times of wisdom, " * 300 + "zebra " * 20 + "\n" + "quagga\0\udcff " * 20
    config = TokenizerConfig(name=name, vocab_size=330, algorithm="bpe")
    tokenizer = make_tokenizer(config, [text])
    for word in ("zebra", "quagga"):
        assert len(tokenizer.encode(word)) < len(word) - 2


def test_bytes_keep_what_is_no_utf8():
    raw = b"caf\xe9 \xff\xfe\x80 ok"
    ids = ByteTokenizer().encode(raw.decode("utf-8", "surrogateescape"))
    assert bytes(ids.tolist()) == raw


@pytest.mark.parametrize("name", ["bytes", "bpe", "sentencepiece"])
def test_config_names_the_special_tokens(name):
    config = TokenizerConfig(
        name=name, vocab_size=288, mask_token="[MASK]", special_tokens=("<|turn|>", "<|eos|>")
    )
    tokenizer = make_tokenizer(config, TEXTS)
    expected = {"<|pad|>", "<|bos|>", "<|eos|>", "[MASK]", "<|turn|>"}
    assert set(tokenizer.special_ids) - {"<unk>"} == expected
    assert tokenizer.mask_id == tokenizer.special_ids["[MASK]"]
    assert tokenizer.size == (261 if name == "bytes" else 288)


@pytest.mark.parametrize("wrong, what", [
    ({"mask_token": "<|pad|>"}, r"pad and mask are both '<\|pad\|>'.*config.tokenizer.pad_token"),
    ({"eos_token": "x", "bos_token": "x"}, "bos and eos are both 'x'"),
    ({"special_tokens": ("a", "")}, "config.tokenizer.special_tokens"),
    ({"path": "/dev/null"}, "config.tokenizer.path=/dev/null.*bytes reads no file"),
    ({"name": "hf"}, "hf needs config.tokenizer.path"),
    ({"name": "bpe", "vocab_size": -1}, "config.tokenizer.vocab_size=-1 should be at least 1"),
    ({"name": "bpe", "vocab_size": 259}, "config.tokenizer.vocab_size=259 is too small.*260"),
    ({"name": "bpe", "special_tokens": ("t",)}, "the text 't' becomes"),
    ({"name": "sentencepiece", "special_tokens": ("t",), "vocab_size": 288}, "'t' stands for text"),
])  # fmt: skip
def test_wrong_settings(wrong, what):
    with pytest.raises(UserError, match=what) as error:
        make_tokenizer(TokenizerConfig(**wrong), TEXTS)
    one_line(error)


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_sentencepiece_says_which_sizes_it_can_learn(algorithm):
    """The number in each message is the exact limit."""

    def size_in(size):
        with pytest.raises(UserError, match=f"config.tokenizer.vocab_size={size} is too") as error:
            SentencePieceTokenizer.train(TEXTS, size, algorithm)
        return int(one_line(error).split("use ")[1].split(" or ")[0])

    for limit, beyond in ((size_in(5000), 1), (size_in(0), -1)):
        assert SentencePieceTokenizer.train(TEXTS, limit, algorithm).size == limit
        assert size_in(limit + beyond) == limit


def test_sentencepiece_without_text():
    with pytest.raises(UserError, match="no text") as error:
        SentencePieceTokenizer.train([""], 300)
    one_line(error)


def test_smallest_vocabulary_is_the_bytes():
    tokenizer = BPETokenizer.train(TEXTS, 260)
    assert tokenizer.size == 260
    assert len(tokenizer.encode(HARD)) == len(to_bytes(HARD))
