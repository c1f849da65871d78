"""The files of an exported tokenizer give our ids and our text in `transformers`."""

import io
import json
import struct

from hypothesis import given, settings, strategies as st
import pytest
from tokenizer_families import SPACE, TEXTS, gpt2, llama2, qwen
import tokenizers

from dlms_jax.conversion import tokenizer_files
from dlms_jax.conversion.tokenizer_files import write_tokenizer
from dlms_jax.data.chat.template import load_template, render_template
from dlms_jax.data.tokenizers import (
    ROLES,
    BPETokenizer,
    ByteTokenizer,
    SentencePieceTokenizer,
    from_dict,
)
from dlms_jax.data.tokenizers.hugging_face import load_hugging_face
from dlms_jax.errors import UserError

transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")

MORE = ("<|turn|>", "<|turn|><2>")
REPEATS = ["abababaab aabaababaaab bbabab", "aaa aaaa aaaaaaa abab aabb", "--- ----- -- - ==="] * 9
# User-defined pieces. The last is never found, because its space is not written as U+2581.
LIKE_GEMMA = ("<tag>", SPACE * 2, SPACE * 3, "\n\n", "est", "the times")


def model(*defined, kind="bpe") -> bytes:
    """Returns a .model with its own pieces for BOS and EOS, and user-defined pieces."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(TEXTS).splitlines()),
        model_writer=written,
        minloglevel=2,
        model_type=kind,
        vocab_size=320,
        byte_fallback=True,
        user_defined_symbols=list(defined),
        normalization_rule_name="identity",
        hard_vocab_limit=False,
    )
    return written.getvalue()


def made_by_hand(scores: dict[str, float], algorithm: int) -> bytes:
    """Returns a .model with these pieces (U+2581 for a space). algorithm: 1 Unigram, 2 BPE."""

    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    def piece(text, score, kind):
        score = bytes([2 << 3 | 5]) + struct.pack("<f", score)
        return field(1, field(1, text.encode()) + score + bytes([3 << 3, kind]))

    byte_fallback = bytes([0x98, 0x02, 1])  # field 35
    return b"".join(
        [
            piece("<unk>", 0, 2),
            piece("<▁>", 0, 3),
            *(piece(f"<0x{byte:02X}>", 0, 6) for byte in range(256)),
            *(piece(text, score, 1) for text, score in scores.items()),
            field(2, bytes([3 << 3, algorithm]) + byte_fallback),
            field(3, field(1, b"identity")),
        ]
    )


def piece_tokenizer(kind, texts=TEXTS, size=330):
    return SentencePieceTokenizer.train(texts, size, kind, special_tokens=MORE)


KINDS = {
    "bytes": lambda: ByteTokenizer(special_tokens=MORE),
    "bpe": lambda: BPETokenizer.train(TEXTS, 320, special_tokens=MORE),
    "qwen": lambda: BPETokenizer(qwen()[0].to_str()),
    "llama2": lambda: BPETokenizer(llama2()[0].to_str()),
    "unigram": lambda: piece_tokenizer("unigram", size=309),
    "unigram of repeats": lambda: piece_tokenizer("unigram", REPEATS, 280),
    "bpe pieces": lambda: piece_tokenizer("bpe"),
    "bpe pieces of repeats": lambda: piece_tokenizer("bpe", REPEATS, 310),
    "gemma": lambda: SentencePieceTokenizer.load(model(*LIKE_GEMMA), {}, MORE),
    # It learns no piece for a space, which becomes a byte.
    "spaceless": lambda: piece_tokenizer("bpe", ["abcabcabdabd"], 271),
    "spaceless unigram": lambda: piece_tokenizer("unigram", ["abcabcabdabd"], 269),
}
WORDS = [
    "the times", "wisdom", "worst", "café", "e\u0301", "日本", "\U0001f468\u200d\U0001f469", "123",
    " ", "   ", "\t", "\n", "\n\n", "\r\n", "\0", SPACE, "▁▁▂", "\ufeff", "<0x41>", "<unk>", "</s>",
    "a", "aa", "aaaa", "ab", "ba", "b", "-", "---", "<", "|>",
]  # fmt: skip
PLAIN = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=5)), max_size=12).map("".join)
SPELLED = st.lists(
    st.one_of(st.sampled_from([*WORDS, "<|mask|>", "<|turn|>", "<|turn|><2>", "<|bos|>", "<s>"])),
    max_size=12,
).map("".join)
TEMPLATE = (
    "{%- for m in messages %}{{ '<|turn|>' + m['role'] + '\\n' + m['content'] }}{% endfor -%}\n"
    "{% if add_generation_prompt %}{{ eos_token }}{% endif %}\n"
)


@pytest.fixture(params=KINDS, scope="module")
def release(request, tmp_path_factory):
    """Returns (kind, our tokenizer, the folder of its files, the tokenizer of transformers)."""
    tokenizer = KINDS[request.param]()
    folder = tmp_path_factory.mktemp("release")
    write_tokenizer(tokenizer, folder, 77, TEMPLATE)
    return request.param, tokenizer, folder, load(folder)


def load(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def one_line(error) -> str:
    text = str(error.value)
    assert text.strip() and "\n" not in text
    return text


def expressible(name, text):
    """Returns a text without the character that a llama2 tokenizer.json takes for a space."""
    return text.replace(SPACE, "") if name == "llama2" else text


def scored(folder, ids) -> float:
    """Returns the sum of the Unigram scores of ids; special tokens have none."""
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return sum(vocab[i][1] for i in ids if i < len(vocab))


def assert_same(release, theirs, ours):
    """Two segmentations of Unigram may score the same: see tokenizer_files.py."""
    name, tokenizer, folder, _ = release
    ours = ours.tolist()
    if "unigram" in name and theirs != ours:
        assert scored(folder, theirs) == pytest.approx(scored(folder, ours), rel=1e-6)
        assert tokenizer.decode_bytes(theirs) == tokenizer.decode_bytes(ours)
    else:
        assert theirs == ours


@settings(deadline=None, max_examples=80)
@given(text=st.one_of(PLAIN, SPELLED))
def test_ids_and_text_are_ours(release, text):
    name, tokenizer, _, theirs = release
    text = expressible(name, text)
    ids = theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert_same(release, ids, tokenizer.encode(text))
    assert theirs.decode(ids) == text


@settings(deadline=None, max_examples=40)
@given(text=SPELLED)
def test_special_tokens_are_their_ids_unless_split(release, text):
    name, tokenizer, _, theirs = release
    text = expressible(name, text)
    bos, *ids = theirs(text).input_ids
    assert bos == tokenizer.bos_id
    assert_same(release, ids, tokenizer.encode(text, special=True))
    assert theirs.decode(ids) == text


LETTERS = "aé日" + SPACE
PIECES = st.lists(st.text(LETTERS, min_size=2, max_size=6), unique=True, max_size=14)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), pieces=PIECES, some=st.sets(st.sampled_from(LETTERS), min_size=1))
def test_any_unigram(data, pieces, some, tmp_path_factory):
    """Pieces with any scores, of letters that are pieces themselves and of letters that are not."""
    pieces = [*pieces, *some, SPACE]
    scores = {piece: data.draw(st.integers(-2000, -1)) / 128 for piece in dict.fromkeys(pieces)}
    compare_with_sentencepiece(data, made_by_hand(scores, 1), tmp_path_factory, pieces, True)


@pytest.mark.parametrize("score, is_unknown", [(-11.5, True), (-10.5, False)])
def test_an_unknown_character_scores_as_in_sentencepiece(score, is_unknown, tmp_path):
    """10 below the worst piece, whatever its number of bytes: here -25, and -1 for "aaa"."""
    scores = {"日a": -15, "aa": score, "aaa": -1, "a": -15, SPACE: -15}
    tokenizer = SentencePieceTokenizer.load(made_by_hand(scores, 1), {})
    write_tokenizer(tokenizer, tmp_path, 8)
    ids = load(tmp_path)("日aaa", add_special_tokens=False).input_ids
    assert ids == tokenizer.encode("日aaa").tolist()
    assert len(ids) == (4 if is_unknown else 2)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), pieces=PIECES)
def test_any_bpe(data, pieces, tmp_path_factory):
    """Pieces in any order, merged from any others."""
    order = [*pieces, *LETTERS]
    scores = {piece: -float(rank) for rank, piece in enumerate(order)}
    compare_with_sentencepiece(data, made_by_hand(scores, 2), tmp_path_factory, pieces, False)


def compare_with_sentencepiece(data, serialized, tmp_path_factory, pieces, ties):
    """Sums of these scores are exact in float32, so ties are exact."""
    parts = [piece.replace(SPACE, " ") for piece in [*pieces, *LETTERS]]
    texts = st.lists(st.sampled_from([*parts, SPACE, "<", ">", "b"]), max_size=8).map("".join)
    tokenizer = SentencePieceTokenizer.load(serialized, {})
    folder = tmp_path_factory.mktemp("made")
    write_tokenizer(tokenizer, folder, 8)
    file = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    file.encode_special_tokens = True
    for text in data.draw(st.lists(texts, min_size=5, max_size=20)):
        theirs, ours = file.encode(text).ids[1:], tokenizer.encode(text).tolist()
        assert theirs == ours or ties and scored(folder, theirs) == scored(folder, ours)
        assert file.decode(theirs) == text


def test_words_are_learned(release):
    """Otherwise the tests above would compare single characters only."""
    name, tokenizer, *_ = release
    text = "abababcab" if "repeats" in name or "spaceless" in name else " the times"
    assert name == "bytes" or len(tokenizer.encode(text)) < len(text) - 1


def test_roles_and_settings(release):
    _, tokenizer, _, theirs = release
    assert theirs.is_fast and len(theirs) == tokenizer.size
    assert [getattr(theirs, f"{role}_token_id") for role in ROLES] == [
        getattr(tokenizer, f"{role}_id") for role in ROLES
    ]
    every = list(range(tokenizer.size))
    assert theirs.convert_tokens_to_ids(theirs.convert_ids_to_tokens(every)) == every
    assert [theirs.decode([i], skip_special_tokens=True) for i in every] == [
        tokenizer.decode([i]) for i in every
    ]
    assert set(theirs.all_special_ids) == set(tokenizer.special_ids.values())
    assert theirs.model_max_length == 77
    assert not theirs.clean_up_tokenization_spaces
    assert theirs.decode([tokenizer.bos_id, *tokenizer.encode("a , b")], True) == "a , b"


def test_batches_are_padded_on_the_left(release):
    _, tokenizer, _, theirs = release
    batch = theirs(["times", ""], padding=True)
    assert set(batch) == {"input_ids", "attention_mask"}  # the inputs of models
    ids, length = tokenizer.encode("times").tolist(), len(tokenizer.encode("times"))
    pad, bos = tokenizer.pad_id, tokenizer.bos_id
    assert batch["input_ids"] == [[bos, *ids], [pad] * length + [bos]]
    assert batch["attention_mask"] == [[1] * (length + 1), [0] * length + [1]]
    assert theirs("times", "times").input_ids == [bos, *ids, *ids]


def test_saved_again_and_loaded(release, tmp_path):
    *_, theirs = release
    theirs.save_pretrained(tmp_path)
    again = load(tmp_path)
    text = "the times\n  of <|mask|> wisdom, 日本" + TEXTS[1]
    assert again(text).input_ids == theirs(text).input_ids
    assert again.special_tokens_map == theirs.special_tokens_map
    assert set(again.all_special_ids) == set(theirs.all_special_ids)
    assert again.chat_template == theirs.chat_template


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_the_config_of_a_model_changes_nothing(release, kind):
    """An autoregressive export is a stock Qwen3, whose own tokenizer gives other ids."""
    _, _, folder, theirs = release
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    assert load(folder)(TEXTS[1]).input_ids == theirs(TEXTS[1]).input_ids


def test_chat_template(release):
    _, tokenizer, folder, theirs = release
    assert load_template(folder) == TEMPLATE
    messages = [{"role": "user", "content": "the times?"}, {"role": "x", "content": " of wisdom"}]
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    eos = tokenizer.roles["eos"]
    assert text == "<|turn|>user\nthe times?<|turn|>x\n of wisdom" + eos
    assert text == render_template(TEMPLATE, messages, add_generation_prompt=True, eos_token=eos)
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids[-1] == tokenizer.eos_id  # without BOS: templates write it themselves
    assert theirs.decode(ids) == text


def test_without_a_template_there_is_no_file_for_it(tmp_path):
    write_tokenizer(ByteTokenizer(), tmp_path, 8)
    assert {p.name for p in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert load(tmp_path).chat_template is None


def test_the_same_tokenizer_gives_the_same_bytes(release, tmp_path):
    _, tokenizer, folder, _ = release
    write_tokenizer(from_dict(json.loads(json.dumps(tokenizer.to_dict()))), tmp_path, 77, TEMPLATE)
    for path in tmp_path.iterdir():
        written = path.read_bytes()
        assert written == (folder / path.name).read_bytes()
        assert written.endswith(b"\n")


def test_load_hugging_face_reads_it(release, tmp_path):
    """Except for Unigram, which it does not read from any files."""
    name, tokenizer, folder, _ = release
    if "unigram" in name:
        with pytest.raises(UserError, match="its model is Unigram"):  # the files name the roles
            load_hugging_face(folder, {}, ())
        return
    back = load_hugging_face(folder, {}, ())
    assert back.special_ids == tokenizer.special_ids and back.roles == tokenizer.roles
    text = "  the times\n café <0x41> ▁ 日本"
    assert back.decode(back.encode(text)) == text
    assert back.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_one_token_with_two_roles_becomes_two(tmp_path):
    """GPT-2's files have one token for BOS and EOS; our tokenizer and its files have two."""
    raw, stated = gpt2()
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    tokenizer = load_hugging_face(tmp_path, {"mask": "[MASK]"}, ())
    write_tokenizer(tokenizer, tmp_path, 8)
    theirs = load(tmp_path)
    assert (theirs.eos_token, theirs.bos_token) == ("<|endoftext|>", "<|bos|>")
    assert (theirs.bos_token_id, theirs.mask_token_id) == (tokenizer.bos_id, tokenizer.mask_id)


@pytest.mark.parametrize(
    "make",
    [
        lambda *a: ByteTokenizer(*a),
        lambda *a: BPETokenizer.train(TEXTS, 300, *a),
        lambda *a: SentencePieceTokenizer.train(TEXTS, 309, "unigram", *a),
        lambda *a: SentencePieceTokenizer.train(TEXTS, 320, "bpe", *a),
    ],
    ids=["bytes", "bpe", "unigram", "bpe pieces"],
)
def test_odd_special_tokens(make, tmp_path):
    """BOS looks like the syntax of a post-processor; others have spaces, quotes, line ends."""
    roles = {"pad": "\u2581pad\u2581", "bos": "$A:1 b", "eos": '"\\"', "mask": "<｜mask｜>"}
    tokenizer = make(roles, ("two words", "line\nend", "日本語", "<0x00>>"))
    write_tokenizer(tokenizer, tmp_path, 8)
    theirs = load(tmp_path)
    for token, i in tokenizer.special_ids.items():
        assert theirs.convert_tokens_to_ids(token) == i
        assert theirs("a" + token).input_ids == [
            tokenizer.bos_id,
            *tokenizer.encode("a").tolist(),
            i,
        ]
        ids = theirs("a" + token, split_special_tokens=True).input_ids
        assert ids == [tokenizer.bos_id, *tokenizer.encode("a" + token).tolist()]


@pytest.mark.parametrize(
    "make",
    [
        lambda names: ByteTokenizer(special_tokens=names),
        lambda names: BPETokenizer(qwen()[0].to_str(), special_tokens=names),
        lambda names: BPETokenizer(llama2()[0].to_str(), special_tokens=names),
        lambda names: SentencePieceTokenizer.train(TEXTS, 309, "unigram", special_tokens=names),
        lambda names: SentencePieceTokenizer.train(TEXTS, 330, "bpe", special_tokens=names),
    ],
    ids=["bytes", "qwen", "llama2", "unigram", "bpe pieces"],
)
def test_special_tokens_with_letters_of_the_byte_alphabet(make, tmp_path):
    """The byte-level decoder takes "«" and "Ü" for the bytes that they stand for."""
    names = ("«user»", "<|Übersetzung|>", "ñ.*|", "<é日>")
    tokenizer = make(names)
    write_tokenizer(tokenizer, tmp_path, 8)
    theirs = load(tmp_path)
    for name in names:
        i = tokenizer.special_ids[name]
        assert theirs.decode([i]) == name and theirs.convert_tokens_to_ids(name) == i
        text = "Ü «" + name + "user» é" + name
        ids = theirs(text).input_ids[1:]
        assert ids.count(i) == 2 and theirs.decode(ids) == text
        assert theirs.decode(ids, skip_special_tokens=True) == text.replace(name, "")
    if '"Unigram"' not in (tmp_path / "tokenizer.json").read_text():  # which it does not read
        assert load_hugging_face(tmp_path, {}, ()).special_ids == tokenizer.special_ids


def test_a_special_token_that_does_not_come_back_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_files, "_with_names", lambda described: described)
    with pytest.raises(UserError, match="encodes the special token '«user»', .* decodes it") as e:
        write_tokenizer(ByteTokenizer(special_tokens=("«user»",)), tmp_path, 8)
    one_line(e)


def test_an_added_token_that_is_text_decodes_as_itself(tmp_path):
    raw, _ = gpt2()
    raw.add_tokens(["«text»"])
    tokenizer = BPETokenizer(raw.to_str())
    assert "«text»" not in tokenizer.special_ids
    write_tokenizer(tokenizer, tmp_path, 8)
    text = "a«text»b"
    assert load(tmp_path).decode(tokenizer.encode(text).tolist()) == text


@pytest.mark.parametrize("token", ["a", "é", "Ġ"])
def test_a_special_token_named_as_a_byte_is_refused(token, tmp_path):
    """The token "a" and the byte "a" have different ids here; the library has one id per name."""
    tokenizer = ByteTokenizer(special_tokens=(token,))
    with pytest.raises(UserError, match=f"special token '{token}' has the id 260") as error:
        write_tokenizer(tokenizer, tmp_path, 8)
    one_line(error)


def test_user_defined_pieces_of_unigram_are_refused(tmp_path):
    tokenizer = SentencePieceTokenizer.load(model("<tag>", kind="unigram"), {})
    with pytest.raises(UserError, match="the user-defined piece '<tag>'") as error:
        write_tokenizer(tokenizer, tmp_path, 8)
    one_line(error)


def test_what_the_library_cannot_do(tmp_path):
    """Bytes that are not UTF-8; U+2581 in the files of other programs."""
    tokenizer = KINDS["llama2"]()
    write_tokenizer(tokenizer, tmp_path, 8)
    theirs = load(tmp_path)
    assert theirs.decode(theirs("a▁b", add_special_tokens=False).input_ids) == "a b"
    assert tokenizer.decode(tokenizer.encode("a▁b")) == "a▁b"
    with pytest.raises((TypeError, UnicodeEncodeError)):
        theirs("a\udcff")


def test_ties_of_unigram(tmp_path):
    """Of two segmentations that score the same, float32 takes one and float64 the other."""
    tokenizer = KINDS["unigram of repeats"]()
    write_tokenizer(tokenizer, tmp_path, 8)
    theirs = load(tmp_path)
    texts = [before + letter * n for before in WORDS for letter in "ab-=" for n in range(1, 20)]
    differ = 0
    for text, ours in zip(texts, tokenizer.encode_batch(texts), strict=True):
        ids = theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert theirs.decode(ids) == text
        differ += ids != ours.tolist()
        assert scored(tmp_path, ids) == pytest.approx(scored(tmp_path, ours), rel=1e-6)
    assert 0 < differ < len(texts) / 2


def broken(part, change):
    """Returns a function that makes a part of the file wrong."""

    def apply(monkeypatch):
        right = getattr(tokenizer_files, part)
        monkeypatch.setattr(tokenizer_files, part, lambda *a, **k: change(right(*a, **k)))

    return apply


BROKEN = {
    "merges": broken(
        "_described",
        lambda tree: tree | {"model": tree["model"] | {"merges": tree["model"]["merges"][1:]}},
    ),
    "decoder": broken("_described", lambda tree: tree | {"decoder": None}),
    "prefix space": broken(
        "_described", lambda tree: tree | {"normalizer": {"type": "Prepend", "prepend": " "}}
    ),
    "Lowercase": broken("_described", lambda tree: tree | {"normalizer": {"type": "Lowercase"}}),
    "BOS": broken("_begins_with_bos", lambda tree: tree | {"single": tree["single"][1:]}),
}


@pytest.mark.parametrize("kind", ["bpe", "bpe pieces"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_wrong_file_is_noticed(kind, case, tmp_path, monkeypatch):
    tokenizer = KINDS[kind]()
    write_tokenizer(tokenizer, tmp_path, 8)
    BROKEN[case](monkeypatch)
    with pytest.raises(UserError, match="encodes the text '") as error:
        write_tokenizer(tokenizer, tmp_path, 8)
    assert str(tmp_path) in one_line(error)


def test_wrong_scores_are_noticed(tmp_path, monkeypatch):
    """A tie is not an error, but a segmentation with another score is."""

    def worse(tree):
        vocab = [
            (piece, score if score < -1e6 else -float(len(piece) ** 2))
            for piece, score in tree["model"]["vocab"]
        ]
        return tree | {"model": tree["model"] | {"vocab": vocab}}

    broken("_described", worse)(monkeypatch)
    with pytest.raises(UserError, match="encodes the text '"):
        write_tokenizer(KINDS["unigram"](), tmp_path, 8)
