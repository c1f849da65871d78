"""Tokenizer files made elsewhere: read exactly, with the ids that their own library gives."""

import json
import pickle
import unicodedata

from hypothesis import given, settings, strategies as st
import pytest
from tokenizer_families import FAMILIES, SPACE, TEXTS, gpt2, llama2, llama3, qwen, with_fallback
import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from dlms_jax.config import TokenizerConfig
from dlms_jax.data.corpora.document import to_bytes
from dlms_jax.data.tokenizers import (
    BPETokenizer,
    choose_roles,
    fingerprint,
    from_dict,
    make_tokenizer,
)
from dlms_jax.errors import UserError

WORDS = st.sampled_from([
    "the", "times", " wisdom", "  ", "        ", "\n\n", "café", "e\u0301", "日本", "12345", "'s",
    "<|endoftext|>", "<|im_start|>", "<s>", "</s>", "<0x41>", "<tool_call>", "<|pad|>", "[MASK]",
    SPACE, "\0", "\udcff", "\udce9", " ", "x",
])  # fmt: skip
ANY_TEXT = st.lists(st.one_of(WORDS, st.text(max_size=6)), max_size=10).map("".join)
# What the file's own library reads without loss, and without special tokens or normalisation.
PLAIN = ANY_TEXT.map(
    lambda text: unicodedata.normalize(
        "NFC", text.encode("utf-8", "ignore").decode().replace(SPACE, "").replace("<", "")
    )
)
# pad, bos, eos, mask: the file's own where that is one token for one role, else ours.
ROLES = {
    "gpt2": ("<|pad|>", "<|bos|>", "<|endoftext|>", "<|mask|>"),
    "neox": ("<|pad|>", "<|bos|>", "<|endoftext|>", "<|mask|>"),
    "qwen": ("<|endoftext|>", "<|bos|>", "<|im_end|>", "<|mask|>"),
    "llama3": ("<|pad|>", "<|begin_of_text|>", "<|end_of_text|>", "<|mask|>"),
    **dict.fromkeys(("llama2", "mistral", "gemma"), ("<|pad|>", "<s>", "</s>", "<|mask|>")),
}


@pytest.fixture(params=FAMILIES, scope="module")
def family(request, tmp_path_factory):
    """Returns the name, the folder of files, the library's own tokenizer, and ours."""
    folder = tmp_path_factory.mktemp(request.param)
    raw, stated = FAMILIES[request.param]()
    raw.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return request.param, folder, raw, make_tokenizer(hf(folder), [])


def hf(path, **settings) -> TokenizerConfig:
    return TokenizerConfig(name="hf", path=str(path), **settings)


def one_line(error) -> str:
    text = str(error.value)
    assert text.strip() and "\n" not in text
    return text


@settings(deadline=None, max_examples=100)
@given(text=ANY_TEXT)
def test_round_trip_is_exact(family, text):
    tokenizer = family[3]
    ids = tokenizer.encode(text)
    assert tokenizer.decode_bytes(ids) == to_bytes(text)
    assert tokenizer.bytes_of_ids()[ids].sum() == len(to_bytes(text))
    assert not set(tokenizer.special_ids.values()) & set(ids.tolist())


def as_the_library_sees(name: str, text: str) -> str:
    """Returns the text with the space that the family's own library puts before it."""
    if name == "llama2" or name == "mistral" and not text.startswith(" "):
        return text and " " + text
    return text


@settings(deadline=None, max_examples=100)
@given(text=PLAIN)
def test_ids_are_those_of_the_library(family, text):
    name, _, raw, tokenizer = family
    expected = raw.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(as_the_library_sees(name, text)).tolist() == expected


def test_ids_are_those_of_transformers(family):
    transformers = pytest.importorskip("transformers")
    name, folder, _, tokenizer = family
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    for text in (*TEXTS, "times  of\twisdom\n", "Ångström's 日本"):
        ours = tokenizer.encode(as_the_library_sees(name, text)).tolist()
        assert ours == theirs(text, add_special_tokens=False)["input_ids"]


def test_merges_cannot_make_a_special():
    """The library alone, told to take specials for text, makes <s> of it; ours does not."""
    raw = llama2()[0]
    raw.encode_special_tokens = True
    assert raw.token_to_id("<s>") in raw.encode("a<s>").ids
    tokenizer = BPETokenizer(raw.to_str())
    assert raw.token_to_id("<s>") not in tokenizer.encode("a<s>")


def test_words_are_learned(family):
    """Otherwise the equalities above would be of single characters."""
    assert len(family[3].encode(" the times")) < len(" the times") - 3


def test_roles_and_ids(family):
    name, _, raw, tokenizer = family
    ids = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id)
    assert tuple(tokenizer.special_ids[token] for token in ROLES[name]) == ids
    kept = {token: i for token, i in tokenizer.special_ids.items() if raw.token_to_id(token)}
    assert all(raw.token_to_id(token) == i for token, i in kept.items())
    size = raw.get_vocab_size()
    added = [token for token in ROLES[name] if raw.token_to_id(token) is None]
    assert [tokenizer.special_ids[token] for token in added] == list(range(size, tokenizer.size))


def test_saved_and_pickled(family):
    tokenizer = family[3]
    for copy in (from_dict(json.loads(json.dumps(tokenizer.to_dict()))),
                 pickle.loads(pickle.dumps(tokenizer))):  # fmt: skip
        assert fingerprint(copy) == fingerprint(tokenizer)
        assert copy.special_ids == tokenizer.special_ids
        assert copy.encode(TEXTS[1]).tolist() == tokenizer.encode(TEXTS[1]).tolist()


@settings(deadline=None, max_examples=30)
@given(text=PLAIN)
def test_what_is_saved_reads_alike_elsewhere(family, text):
    """A release has this tokenizer.json: the library alone gives the same ids and text."""
    tokenizer = family[3]
    alone = tokenizers.Tokenizer.from_str(tokenizer.to_dict()["tokenizer_json"])
    ids = tokenizer.encode(text).tolist()
    assert alone.encode(text).ids == ids
    assert alone.decode(ids) == text


def test_the_file_alone_and_the_folder_agree(family):
    _, folder, _, tokenizer = family
    for path in (folder / "tokenizer.json", str(folder) + "/"):
        for name in ("hf", "bpe"):
            again = make_tokenizer(TokenizerConfig(name=name, path=str(path)), [])
            assert fingerprint(again) == fingerprint(tokenizer)


def test_special_tokens_map_is_read_too(tmp_path):
    raw, stated = qwen()
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(
        {"eos_token": "<|im_start|>", "pad_token": {"content": "<|endoftext|>"}}))  # fmt: skip
    tokenizer = make_tokenizer(hf(tmp_path), [])
    assert tokenizer.eos_id == raw.token_to_id("<|im_end|>")
    assert tokenizer.pad_id == raw.token_to_id("<|endoftext|>")


def test_the_config_has_the_last_word(tmp_path):
    """A token that it takes from a role leaves that role to ours; a plain one becomes special."""
    raw, stated = qwen()
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    config = hf(
        tmp_path, pad_token="<|im_end|>", mask_token="<tool_call>", special_tokens=("<|task|>",)
    )
    tokenizer = make_tokenizer(config, [])
    assert tokenizer.pad_id == raw.token_to_id("<|im_end|>")
    assert tokenizer.mask_id == raw.token_to_id("<tool_call>")
    assert tokenizer.eos_id == tokenizer.special_ids["<|eos|>"] >= raw.get_vocab_size()
    assert "<|task|>" in tokenizer.special_ids and "<|mask|>" not in tokenizer.special_ids
    assert tokenizer.decode(tokenizer.encode("<tool_call>")) == "<tool_call>"
    assert tokenizer.mask_id not in tokenizer.encode("<tool_call>")


def test_a_stated_role_that_is_text_is_not_taken(tmp_path):
    """Some files say that padding is "!"; then ours is added. To name it in the config is wrong."""
    gpt2()[0].save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "!"}))
    assert "<|pad|>" in make_tokenizer(hf(tmp_path), []).special_ids
    with pytest.raises(UserError, match="'!' stands for text") as error:
        make_tokenizer(hf(tmp_path, pad_token="!"), [])
    assert str(tmp_path) in one_line(error)


@given(own=st.dictionaries(st.sampled_from(["pad", "bos", "eos", "mask"]), st.sampled_from("abc")))
def test_roles_are_always_four_tokens(own):
    roles = choose_roles({}, own)
    assert len(set(roles.values())) == 4
    assert roles["eos"] == own.get("eos", "<|eos|>")
    assert set(own.values()) <= set(roles.values())


@pytest.mark.parametrize("change", [
    lambda raw: raw.enable_truncation(4),
    lambda raw: raw.enable_padding(length=8),
    lambda raw: setattr(raw, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
    lambda raw: setattr(raw, "post_processor", processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", 320)])),
    lambda raw: setattr(raw, "normalizer", normalizers.Sequence([normalizers.NFC()])),
    lambda raw: setattr(raw.model, "dropout", 0.9),
], ids=["truncation", "padding", "prefix space", "template", "NFC", "dropout"])  # fmt: skip
def test_what_adds_or_drops_is_left_out(change):
    plain, changed = gpt2()[0], gpt2()[0]
    change(changed)
    assert changed.to_str() != plain.to_str()
    assert fingerprint(BPETokenizer(changed.to_str())) == fingerprint(BPETokenizer(plain.to_str()))


def test_a_vocabulary_without_a_space_spells_it_as_a_byte():
    """Byte fallback would spell U+2581, which stands for the space, by its own three bytes."""

    def change(tree):
        model = tree["model"]
        model["vocab"] = {"Ω" if t == SPACE else t: i for t, i in model["vocab"].items()}
        model["merges"] = [pair for pair in model["merges"] if SPACE not in pair]

    tokenizer = BPETokenizer(with_fallback(change).to_str())
    assert tokenizer.decode_bytes(tokenizer.encode(" a ")) == b" a "


def test_added_tokens_swallow_no_space():
    raw = gpt2()[0]
    raw.add_tokens([AddedToken("<tag>", lstrip=True, rstrip=True)])
    tokenizer = BPETokenizer(raw.to_str())
    assert raw.token_to_id("<tag>") in tokenizer.encode("a <tag> b")
    assert tokenizer.decode(tokenizer.encode("a <tag> b")) == "a <tag> b"


def described(raw, change) -> str:
    tree = json.loads(raw.to_str())
    change(tree)
    return json.dumps(tree)


def wordless(model):
    return lambda: tokenizers.Tokenizer(model).to_str()


def without_byte(tree):
    letters = [t for t in tree["model"]["vocab"] if len(t) == 1 and t != "ÿ"]
    tree["model"] |= {"vocab": {t: i for i, t in enumerate(letters)}, "merges": []}
    tree["added_tokens"] = []


def set_(part, value):
    return lambda: described(gpt2()[0], lambda tree: tree.update({part: value}))


REFUSED = {
    "WordPiece": (wordless(models.WordPiece({"a": 0, "?": 1}, unk_token="?")), "is WordPiece"),
    "WordLevel": (wordless(models.WordLevel({"a": 0, "?": 1}, unk_token="?")), "is WordLevel"),
    "Unigram": (wordless(models.Unigram([("a", 0.0)], 0, True)), "is Unigram"),
    "no fallback": (wordless(models.BPE()), "no byte fallback"),
    "suffix": (lambda: described(gpt2()[0], lambda tree: tree["model"].update(
        end_of_word_suffix="</w>")), "prefix or suffix"),
    "Lowercase": (set_("normalizer", {"type": "Lowercase"}), "normalizer Lowercase"),
    "NFKC": (set_("normalizer", {"type": "NFKC"}), "normalizer NFKC"),
    "Replace": (set_("normalizer", {"type": "Replace", "pattern": {"String": " "},
                                    "content": SPACE}), "normalizer Replace"),
    "Whitespace": (set_("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
        {"type": "Whitespace"}, {"type": "ByteLevel", "add_prefix_space": False,
                                 "trim_offsets": True, "use_regex": True}]}), "Whitespace drops"),
    "Removed": (set_("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
         "use_regex": True}]}), "Split drops"),
    "twice": (set_("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
         "use_regex": True}] * 2}), "bytes twice"),
    "a byte lacks": (lambda: described(gpt2()[0], without_byte), "1 of the 256 bytes .0xFF"),
    "holes": (lambda: described(gpt2()[0], lambda tree: tree["model"]["vocab"].update(far=999)),
              r"ids are not 0\.\.321"),
    "two texts": (lambda: described(gpt2()[0], lambda tree: tree["added_tokens"].append(
        tree["added_tokens"][0] | {"id": tree["model"]["vocab"]["Ġ"], "content": "Ġ",
                                   "special": False})), "'Ġ' means two"),
    "whole word": (lambda: described(llama3()[0], lambda tree: tree["added_tokens"].append(
        tree["added_tokens"][0] | {"id": tree["model"]["vocab"]["ngst"], "content": "ngst"})),
        "the text 'ngst' becomes"),
    "special by name": (lambda: with_fallback(lambda tree: tree["model"].update(
        ignore_merges=True)).to_str(), "the text '<unk>' becomes"),
    "empty": (lambda: "", "not a tokenizer.json that"),
    "cut": (lambda: "{", "not a tokenizer.json that"),
    "no keys": (lambda: "{}", "not a tokenizer.json that"),
    "a list": (lambda: "[1, 2]", "not a tokenizer.json that"),
    "zeros": (lambda: "\0" * 100, "not a tokenizer.json that"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_loses_text_is_refused(case, tmp_path):
    make, what = REFUSED[case]
    path = tmp_path / "tokenizer.json"
    path.write_text(make(), encoding="utf-8")
    with pytest.raises(UserError, match=what) as error:
        make_tokenizer(hf(path), [])
    assert one_line(error).startswith(f"config.tokenizer.path={path}: ")


def test_wrong_files(tmp_path):
    for path, what in ((tmp_path / "nowhere", "no such file"), (tmp_path, "no tokenizer.json")):
        with pytest.raises(UserError, match=what) as error:
            make_tokenizer(hf(path), [])
        assert one_line(error).startswith(f"config.tokenizer.path={path}: ")
    gpt2()[0].save(str(tmp_path / "tokenizer.json"))
    for name, content in (
        ("tokenizer_config.json", b"{"),
        ("special_tokens_map.json", b"[]"),
        ("tokenizer_config.json", b"\xff"),
        ("tokenizer.json", b"\xff"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{tmp_path}: {name} is not ") as error:
            make_tokenizer(hf(tmp_path), [])
        one_line(error)
        (tmp_path / name).write_text("{}")


def test_byte_order_mark_is_no_part_of_a_file(tmp_path):
    whole = BPETokenizer.train(["some text"], 270)
    (tmp_path / "tokenizer.json").write_text("\ufeff" + whole.file().decode())
    config = TokenizerConfig("hf", path=str(tmp_path))
    assert fingerprint(make_tokenizer(config, ())) == fingerprint(whole)
