"""Tokenizers: text and ids are one another's image, and specials are nobody's text."""

import json

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from dlms_jax.config import TokenizerConfig
from dlms_jax.data.tokenizers import (
    SPECIAL_TOKENS,
    BPETokenizer,
    ByteTokenizer,
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
# spaces of all kinds, line ends.
HARD = (
    "\0\x07 \t\r\n\r  \u00a0\u3000\u2028 é e\u0301\u0323 \ufeffñ "
    "\U0001f468\u200d\U0001f469\u200d\U0001f467"
)
ANY_TEXT = st.text(max_size=60)
# Specials, whole, cut and nested, among ordinary text.
SPELLED = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "mask", "<|mask", " ", "a", "é", "\n"]),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    return BPETokenizer.train(TEXTS, 300)


@pytest.fixture(params=["bytes", "bpe"], scope="module")
def tokenizer(request, trained):
    return ByteTokenizer() if request.param == "bytes" else trained


def special_ids(tokenizer) -> list[int]:
    return [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id]


def resaved(tokenizer, change) -> BPETokenizer:
    """Returns the tokenizer read from its own JSON after `change` was applied to it, as a user's
    tokenizer.json may have been made by another program."""
    import tokenizers

    other = tokenizers.Tokenizer.from_str(tokenizer.to_dict()["tokenizer_json"])
    change(other)
    return BPETokenizer(other.to_str())


def test_training_merges_and_stops_at_the_size(trained):
    """Otherwise every test of BPE below would be one of single bytes."""
    assert trained.size == 300
    assert len(trained.encode("the times")) < len("the times")


@settings(deadline=None, max_examples=200)
@given(text=ANY_TEXT)
def test_round_trip_is_exact(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.int32
    assert tokenizer.bytes_of_ids()[ids].sum() == len(text.encode())


def test_round_trip_of_hard_text(tokenizer):
    assert tokenizer.decode(tokenizer.encode(HARD)) == HARD


@settings(deadline=None, max_examples=200)
@given(text=SPELLED)
def test_text_that_spells_a_special_is_text(tokenizer, text):
    ids = tokenizer.encode(text)
    assert not set(special_ids(tokenizer)) & set(ids.tolist())
    assert tokenizer.decode(ids) == text


def test_empty_text_has_no_tokens(tokenizer):
    assert tokenizer.encode("").shape == (0,)
    assert tokenizer.decode([]) == ""


def test_special_ids_are_distinct_and_in_range(tokenizer):
    ids = special_ids(tokenizer)
    assert len(set(ids)) == 4
    assert all(0 <= i < tokenizer.size for i in ids)
    assert (tokenizer.bytes_of_ids()[ids] == 0).all()


def test_bytes_of_ids_has_every_id(tokenizer):
    """A symbol that is not special is at least a byte of text; all 256 bytes are symbols."""
    sizes = tokenizer.bytes_of_ids()
    assert sizes.shape == (tokenizer.size,)
    assert (sizes == 0).sum() == len(SPECIAL_TOKENS)
    assert (sizes == 1).sum() == 256


def test_decode_drops_specials_and_padding_rows(tokenizer):
    """The head has more rows than the tokenizer has symbols."""
    ids = tokenizer.encode("héllo")
    mixed = np.concatenate([[special] + list(ids[i : i + 1]) for i, special in enumerate(
        special_ids(tokenizer) + [tokenizer.size, tokenizer.size + 100] * 2)])  # fmt: skip
    assert tokenizer.decode(mixed) == tokenizer.decode(ids) == "héllo"


def test_decode_marks_broken_utf8(tokenizer):
    assert "\N{REPLACEMENT CHARACTER}" in tokenizer.decode(tokenizer.encode("é")[:1])


def test_saved_and_loaded_is_the_same(tokenizer):
    saved = json.loads(json.dumps(tokenizer.to_dict()))  # as a checkpoint keeps it
    loaded = from_dict(saved)
    assert type(loaded) is type(tokenizer)
    text = HARD + TEXTS[0] + "".join(SPECIAL_TOKENS)
    np.testing.assert_array_equal(loaded.encode(text), tokenizer.encode(text))
    np.testing.assert_array_equal(loaded.bytes_of_ids(), tokenizer.bytes_of_ids())
    assert special_ids(loaded) == special_ids(tokenizer)
    assert loaded.size == tokenizer.size
    assert fingerprint(loaded) == fingerprint(tokenizer)


def test_fingerprints_tell_tokenizers_apart(trained):
    other = BPETokenizer.train([t.upper() for t in TEXTS], 300)
    prints = {fingerprint(t) for t in (ByteTokenizer(), trained, other)}
    assert len(prints) == 3


def test_training_is_deterministic(trained):
    """Every host of a run trains its own."""
    assert fingerprint(BPETokenizer.train(iter(TEXTS), 300)) == fingerprint(trained)


def test_bytes_keep_what_is_no_utf8():
    raw = b"caf\xe9 \xff\xfe\x80 ok"
    ids = ByteTokenizer().encode(raw.decode("utf-8", "surrogateescape"))
    assert bytes(ids.tolist()) == raw


def test_bpe_replaces_what_is_no_utf8(trained):
    text = b"a\xffb".decode("utf-8", "surrogateescape")
    assert trained.decode(trained.encode(text)) == "a\N{REPLACEMENT CHARACTER}b"


def test_make_tokenizer_reads_what_was_saved(trained, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(trained.to_dict()["tokenizer_json"], encoding="utf-8")
    config = TokenizerConfig(name="bpe", path=str(path))
    assert fingerprint(make_tokenizer(config, [])) == fingerprint(trained)


def test_make_tokenizer_trains_on_the_texts(trained):
    config = TokenizerConfig(name="bpe", vocab_size=300)
    assert fingerprint(make_tokenizer(config, TEXTS)) == fingerprint(trained)
    assert isinstance(make_tokenizer(TokenizerConfig(name="bytes"), []), ByteTokenizer)


def test_own_tokenizer_with_a_post_processor_adds_nothing(trained):
    """pack() puts BOS and EOS; a template that adds them too would have them scored as text."""
    import tokenizers

    def change(other):
        other.post_processor = tokenizers.processors.TemplateProcessing(
            single="<|bos|> $A <|eos|>",
            special_tokens=[("<|bos|>", trained.bos_id), ("<|eos|>", trained.eos_id)],
        )

    np.testing.assert_array_equal(
        resaved(trained, change).encode("a time"), trained.encode("a time")
    )


def test_own_tokenizer_that_truncates_or_pads_loses_nothing(trained):
    def change(other):
        other.enable_truncation(4)
        other.enable_padding(length=8, pad_id=trained.pad_id, pad_token="<|pad|>")

    for text in ("a", TEXTS[0]):
        np.testing.assert_array_equal(resaved(trained, change).encode(text), trained.encode(text))


def test_own_tokenizers_other_specials_are_no_bytes(trained):
    """Decoding drops them, so bits per byte must not count their spelling."""
    import tokenizers

    other = resaved(trained, lambda t: t.add_special_tokens(["<|endoftext|>"]))
    extra = trained.size
    assert other.size == extra + 1
    assert tokenizers.Tokenizer.from_str(other.to_dict()["tokenizer_json"]).id_to_token(extra)
    assert other.decode([extra]) == ""
    assert other.bytes_of_ids()[extra] == 0
    assert other.decode(other.encode("<|endoftext|>")) == "<|endoftext|>"


def test_own_tokenizer_that_changes_text_is_refused(trained):
    """Lower-casing or Unicode normalisation is no longer the text that the bound is about."""
    import tokenizers

    def change(other):
        other.normalizer = tokenizers.normalizers.Lowercase()

    with pytest.raises(UserError):
        resaved(trained, change)


def test_own_tokenizer_without_byte_level_is_refused():
    """bytes_of_ids would count characters, and unknown ones would be lost."""
    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    words.add_special_tokens(list(SPECIAL_TOKENS))
    with pytest.raises(UserError):
        BPETokenizer(words.to_str())


def one_line(error) -> str:
    text = str(error.value)
    assert text.strip() and "\n" not in text
    return text


@pytest.mark.parametrize("size", [-1, 0, 259])
def test_too_small_vocabulary(size):
    with pytest.raises(UserError, match="config.tokenizer.vocab_size") as error:
        make_tokenizer(TokenizerConfig(name="bpe", vocab_size=size), TEXTS)
    assert "260" in one_line(error)


def test_smallest_vocabulary_is_the_bytes():
    tokenizer = BPETokenizer.train(TEXTS, 260)
    assert tokenizer.size == 260
    assert len(tokenizer.encode(HARD)) == len(HARD.encode())


def test_missing_file():
    with pytest.raises(UserError, match="config.tokenizer.path=/nowhere/tokenizer.json") as error:
        make_tokenizer(TokenizerConfig(name="bpe", path="/nowhere/tokenizer.json"), TEXTS)
    one_line(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"{}", b"[1, 2]", b"not json", b"\xff\xfe\x00binary", b"\0" * 100],
    ids=["empty", "cut", "no keys", "a list", "words", "not utf-8", "zeros"],
)
def test_broken_file(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="tokenizer") as error:
        make_tokenizer(TokenizerConfig(name="bpe", path=str(path)), TEXTS)
    one_line(error)


def test_file_without_the_special_tokens(tmp_path):
    import tokenizers

    bare = tokenizers.Tokenizer(tokenizers.models.BPE())
    bare.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = tokenizers.decoders.ByteLevel()
    path = tmp_path / "tokenizer.json"
    path.write_text(bare.to_str())
    with pytest.raises(UserError, match=r"<\|mask\|>") as error:
        make_tokenizer(TokenizerConfig(name="bpe", path=str(path)), TEXTS)
    one_line(error)
