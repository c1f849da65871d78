"""Sentencepiece models made elsewhere: read exactly, with the ids that sentencepiece gives."""

import base64
import io

from hypothesis import given, settings, strategies as st
import pytest
import sentencepiece

from dlms_jax.config import TokenizerConfig
from dlms_jax.data.corpora.document import to_bytes
from dlms_jax.data.tokenizers import fingerprint, make_tokenizer
from dlms_jax.errors import UserError

LINES = ["It was the best of times, it was the worst of times.", "the age of wisdom: café 日本"] * 9
SPACE = "\u2581"
# Llama 2's .model puts a space before a text; spm_train's default drops those it finds too many.
LIKE = {
    "llama2": {"remove_extra_whitespaces": False},
    "gemma": {"remove_extra_whitespaces": False, "add_dummy_prefix": False},
    "spm_train": {},
    "all roles": {"pad_id": 3, "control_symbols": "<mask>", "user_defined_symbols": "<tag>"},
    "suffix": {"treat_whitespace_as_suffix": True, "model_type": "bpe"},
}


def trained(**settings) -> bytes:
    """Returns the bytes of a .model, by default as `spm_train --byte_fallback` writes it."""
    written = io.BytesIO()
    settings = {
        "normalization_rule_name": "identity", "byte_fallback": True, "vocab_size": 303,
        "model_type": "bpe", **settings,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=written, minloglevel=2, **settings
    )
    return written.getvalue()


def load(path, **settings):
    return make_tokenizer(TokenizerConfig(name="sentencepiece", path=str(path), **settings), [])


def one_line(error) -> str:
    text = str(error.value)
    assert text.strip() and "\n" not in text
    return text


@pytest.fixture(params=LIKE, scope="module")
def model(request, tmp_path_factory):
    """Returns the kind, sentencepiece's own tokenizer, and ours."""
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(trained(**LIKE[request.param]))
    raw = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return request.param, raw, load(path)


@settings(deadline=None, max_examples=100)
@given(text=st.lists(st.one_of(st.text(max_size=8), st.sampled_from([
    " ", "  ", "the", "<s>", "</s>", "<unk>", "<mask>", "<tag>", "<0x41>", SPACE, "\0", "\n",
    "\udcff", "<|pad|>",
])), max_size=8).map("".join))  # fmt: skip
def test_round_trip_is_exact(model, text):
    tokenizer = model[2]
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == to_bytes(text)
    assert tokenizer.bytes_of_ids()[ids].sum() == len(to_bytes(text))
    assert not set(tokenizer.special_ids.values()) & set(ids.tolist())


@settings(deadline=None, max_examples=50)
@given(words=st.lists(st.sampled_from(["the", "times,", "café", "日本", "it", "ñ"]), min_size=1))
def test_ids_are_those_of_sentencepiece(model, words):
    name, raw, tokenizer = model
    text = " ".join(words)
    seen = {"gemma": text, "suffix": text + " "}.get(name, " " + text)
    assert tokenizer.encode(seen).tolist() == raw.encode(text)


def test_words_are_learned(model):
    assert len(model[2].encode("the times")) < len("the times") - 2


def test_roles_and_ids(model):
    """The model's own control pieces where it has them, else ours behind its pieces."""
    name, raw, tokenizer = model
    assert (tokenizer.bos_id, tokenizer.eos_id) == (raw.bos_id(), raw.eos_id()) == (1, 2)
    size = raw.get_piece_size()
    if name == "all roles":
        assert (tokenizer.pad_id, tokenizer.mask_id) == (3, raw.piece_to_id("<mask>"))
        assert tokenizer.size == size
    else:
        assert (tokenizer.pad_id, tokenizer.mask_id, tokenizer.size) == (size, size + 1, size + 2)
    assert tokenizer.special_ids["<unk>"] == 0


def test_what_is_saved_reads_alike_elsewhere(model):
    """A release has this .model: sentencepiece alone gives the same ids."""
    tokenizer = model[2]
    alone = sentencepiece.SentencePieceProcessor(
        model_proto=base64.b64decode(tokenizer.to_dict()["model"])
    )
    for text in ("the times", "  the  times  "):
        assert alone.encode(text) == tokenizer.encode(text).tolist()


def test_a_saved_model_loads_as_what_it_was(tmp_path):
    config = TokenizerConfig(name="sentencepiece", vocab_size=288)
    tokenizer = make_tokenizer(config, LINES)
    path = tmp_path / "own.model"
    path.write_bytes(base64.b64decode(tokenizer.to_dict()["model"]))
    assert fingerprint(load(path)) == fingerprint(tokenizer)


def test_the_config_has_the_last_word(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(trained(**LIKE["all roles"]))
    tokenizer = load(path, pad_token="</s>", special_tokens=("<|task|>",))
    assert (tokenizer.pad_id, tokenizer.eos_id) == (2, tokenizer.special_ids["<|eos|>"])
    assert "<pad>" in tokenizer.special_ids and "<|task|>" in tokenizer.special_ids


REFUSED = {
    "normalised": (lambda: trained(normalization_rule_name="nmt_nfkc"), {}, "normalises text"),
    "no bytes": (lambda: trained(byte_fallback=False, vocab_size=60), {}, "of the 256 bytes"),
    "text as special": (lambda: trained(user_defined_symbols="<tag>"), {"mask_token": "<tag>"},
                        "'<tag>' stands for text"),
    "empty": (lambda: b"", {}, "not a .model"),
    "words": (lambda: b"not a model", {}, "not a .model"),
    "cut": (lambda: trained()[:1000], {}, "not a .model"),
    "json": (lambda: b"{}", {}, "not a .model"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_loses_text_is_refused(case, tmp_path):
    make, settings, what = REFUSED[case]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(make())
    with pytest.raises(UserError, match=what) as error:
        load(path, **settings)
    assert one_line(error).startswith(f"config.tokenizer.path={path}: ")


def test_wrong_paths(tmp_path):
    for path, what in ((tmp_path / "nowhere", "no such file"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=what) as error:
            load(path)
        assert one_line(error).startswith(f"config.tokenizer.path={path}: ")
