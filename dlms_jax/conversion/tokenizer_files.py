"""Our tokenizers as the files of a Hugging Face fast tokenizer, for those who load a release.

The way back is `data.tokenizers.hugging_face.load_hugging_face`, which reads anyone's BPE.

The ids are ours for every text, but for what the `tokenizers` library cannot do:

- It reads no bytes that are no UTF-8 (our lone surrogates).
- Unigram: sentencepiece adds scores up in float32, the library in float64. Where two cuts of a text
  score the same but for float32's rounding ("---" as "--" and "-", or as "-" and "--"; in texts of
  10^5 characters also what is 0.01 apart) the two may choose differently.
- BPE with byte fallback read from others' files keeps their way to write a space, so U+2581 becomes
  a space. Our own exports of sentencepiece write a space as itself, so U+2581 is its three bytes.
- Sentencepiece's BPE, two pieces of one score: the library takes the lower id first, sentencepiece
  the one further left. Its trainer gives no two merged pieces one score.

A text that spells a special token is text to us, and its id to `transformers`, which templates
need; `tokenizer(text, split_special_tokens=True)` takes it as we do.
"""

from collections.abc import Iterable, Mapping
import json
import math
import pathlib
from typing import Any

import numpy as np

from dlms_jax.data.tokenizers import (
    BPETokenizer,
    ByteTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    tokenizer_json,
)
from dlms_jax.data.tokenizers.sentence_piece import protobuf_fields
from dlms_jax.data.tokenizers.tokenizer_json import ALPHABET, SPACE
from dlms_jax.errors import UserError, optional_import

_LETTERS = {byte: letter for letter, byte in ALPHABET.items()}
# Stands before the name of a byte that has two ids, "a" and "<0x61>"; not one of the letters, so
# that no text is cut into the second. For private use in Unicode, so hardly in a special token.
_SECOND = "\ue000"
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}
_NEVER = -1e9  # a score below that of any other way to cut a text as long as the name of a token
_UNKNOWN = 10  # sentencepiece's unknown characters score so much less than its worst piece
# What tokenizers differ in: no text, spaces, NUL, line ends, letters in parts, names of tokens.
_HARD = (
    "",
    " ",
    "  a   b\t\r\n\n ",
    "\0\x7f\u0085",
    "nai\u0308ve caf\u00e9 \u65e5\u672c\u8a9e",
    "\U0001f468\u200d\U0001f469\ufe0f",
    "\ufeff\u00a0\u3000\u2028",
    "<0x41><unk></s>",
)


def write_tokenizer(
    tokenizer: Tokenizer, folder: pathlib.Path, context: int, chat_template: str = ""
) -> None:
    """Writes tokenizer.json, tokenizer_config.json and, given a template, chat_template.jinja.

    With `transformers.AutoTokenizer.from_pretrained(folder)`, then, `tokenizer(text)` is BOS and
    our ids, in batches padded on the left, where generation wants it. The same tokenizer gives the
    same bytes. What was written is read again; a UserError says which text it cuts differently.

    context: the longest sequence that the model was trained on, in tokens.
    """
    import tokenizers

    described = _described(tokenizer) | {"post_processor": _begins_with_bos(tokenizer)}
    written = tokenizers.Tokenizer.from_str(json.dumps(described)).to_str(pretty=True)
    (folder / "tokenizer.json").write_text(written + "\n", encoding="utf-8", newline="\n")
    roles = {f"{role}_token": token for role, token in tokenizer.roles.items()}
    config = roles | {
        "additional_special_tokens": [t for t in tokenizer.special_ids if t not in roles.values()],
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",  # its name in transformers 4 and 5
    }
    serialized = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(serialized + "\n", encoding="utf-8", newline="\n")
    if chat_template:
        template = folder / "chat_template.jinja"
        template.write_text(chat_template, encoding="utf-8", newline="\n")
    _check(tokenizer, folder / "tokenizer.json")


def _described(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the tokenizer.json of a tokenizer, without what it puts around a text."""
    if isinstance(tokenizer, BPETokenizer):
        return json.loads(tokenizer.file())
    if isinstance(tokenizer, SentencePieceTokenizer):
        return _sentencepiece(tokenizer)
    assert isinstance(tokenizer, ByteTokenizer)
    vocab = {_LETTERS[byte]: byte for byte in range(256)}
    return {
        "added_tokens": _added(tokenizer.special_ids),
        "pre_tokenizer": _BYTE_LEVEL,
        "decoder": _BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    sentencepiece = optional_import("sentencepiece", "data")
    pieces = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.file())
    try:  # no method tells the algorithm, but this one is Unigram's alone
        pieces.nbest_encode_as_ids("a", 2)
    except RuntimeError:
        return _sentencepiece_bpe(tokenizer, pieces)
    return _unigram(tokenizer, pieces)


def _unigram(tokenizer: SentencePieceTokenizer, pieces) -> dict[str, Any]:
    """Unigram over bytes, whose best cut is that over characters.

    Sentencepiece spells an unknown character in bytes after it has cut the text. Here its first
    byte has the score of an unknown character and the others score 0: the sum is the same, and a
    piece of that character, where there is one, scores more. (With U+2581 and <0x41> as names, as
    converters write it, the texts U+2581 and "<0x41>" would become a space and the byte A.)
    """
    every = range(pieces.get_piece_size())
    names = [pieces.id_to_piece(i) for i in every]
    if users := _user_defined(tokenizer.file()):
        raise UserError(
            f"the sentencepiece model has {names[min(users)]!r} as a piece that a user defined; "
            "what Unigram makes of these differs between versions of sentencepiece, so there is no "
            "tokenizer.json for it; use BPE, or a model without such pieces"
        )
    ordinary = [i for i in every if _is_ordinary(pieces, i)]
    unknown = float(np.float32(min(map(pieces.get_score, ordinary)) - _UNKNOWN))
    whole = {i: "".join(map(_LETTERS.get, tokenizer.decode_bytes([i]))) for i in every}
    spelled = {whole[i] for i in ordinary}
    vocab = []
    for i in every:
        if pieces.is_byte(i):
            twice = whole[i] in spelled
            continues = 0x80 <= ALPHABET[whole[i]] < 0xC0
            vocab.append((_SECOND * twice + whole[i], 0.0 if continues else unknown))
        elif whole[i]:
            vocab.append((whole[i], pieces.get_score(i)))
        else:  # a special token
            vocab.append((names[i], _NEVER))
    second = {"type": "Replace", "pattern": {"String": _SECOND}, "content": ""}
    return {
        "added_tokens": _added(tokenizer.special_ids),
        "pre_tokenizer": _BYTE_LEVEL,
        "decoder": {"type": "Sequence", "decoders": [second, _BYTE_LEVEL]},
        "model": {"type": "Unigram", "unk_id": pieces.unk_id(), "vocab": vocab},
    }


def _sentencepiece_bpe(tokenizer: SentencePieceTokenizer, pieces) -> dict[str, Any]:
    """BPE over characters, a space being itself, with byte fallback.

    Sentencepiece merges any two symbols that make a piece, best score first, then leftmost. All
    ways to make a piece are listed here, but a text uses one of them: before it becomes the piece,
    its characters have been merged with one another only, as they are when it stands alone.
    """
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    # A piece has spaces as U+2581 to be found.
    users = {i for i in _user_defined(tokenizer.file()) if " " not in names[i]}
    ordinary = {i for i in range(len(names)) if _is_ordinary(pieces, i)}
    names = [n.replace(SPACE, " ") if i in ordinary else n for i, n in enumerate(names)]
    mergeable = {names[i]: pieces.get_score(i) for i in sorted(ordinary - users)}
    merges = [
        (name[:cut], name[cut:])
        for name in sorted(mergeable, key=mergeable.get, reverse=True)
        for cut in range(1, len(name))
        if name[:cut] in mergeable and name[cut:] in mergeable
    ]
    whole = {names[i]: i for i in users}  # found before anything is merged
    added = _added(tokenizer.special_ids) + _added(whole, special=False)
    return {
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "decoder": {"type": "ByteFallback"},
        "model": {
            "type": "BPE",
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": merges,
            "byte_fallback": True,
        },
    }


def _is_ordinary(pieces, i: int) -> bool:
    """Returns whether a piece is found in a text."""
    return not (pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i))


def _user_defined(model: bytes) -> set[int]:
    """Returns the ids of the pieces that a user defined, the one type that no method tells.

    Their messages (field 1 of a .model) end with the type: field 3, USER_DEFINED = 4.
    """
    messages = [message for number, message in protobuf_fields(model) if number == 1]
    return {i for i, message in enumerate(messages) if message.endswith(bytes([3 << 3, 4]))}


def _added(ids: Mapping[str, int], special: bool = True) -> list[dict[str, Any]]:
    """Returns tokens that are looked up in the text as it stands."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": i, "content": token, **flags, "special": special} for token, i in ids.items()]


def _begins_with_bos(tokenizer: Tokenizer) -> dict[str, Any]:
    token = tokenizer.roles["bos"]
    bos = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": which, "type_id": 0}} for which in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {token: {"id": token, "ids": [tokenizer.bos_id], "tokens": [token]}},
    }


def _check(tokenizer: Tokenizer, path: pathlib.Path) -> None:
    """Raises a UserError where a tokenizer.json gives other ids or another text than ours."""
    import tokenizers

    described = json.loads(path.read_text(encoding="utf-8"))
    file = tokenizers.Tokenizer.from_file(str(path))
    for token, i in tokenizer.special_ids.items():
        if file.token_to_id(token) != i:
            raise UserError(
                f"{path}: the special token {token!r} has the id {i}, but for `tokenizers` it is "
                f"{file.token_to_id(token)}, since two tokens share a name; rename one"
            )
    file.encode_special_tokens = True  # are text, as they are to us
    texts = list(_probes(tokenizer))
    if isinstance(tokenizer, BPETokenizer) and not tokenizer_json.is_byte_level(described):
        texts = [text for text in texts if SPACE not in text]
    cuts = [encoding.ids for encoding in file.encode_batch_fast(texts)]
    unigram = described["model"]["type"] == "Unigram"
    scores = [score for _, score in described["model"]["vocab"]] if unigram else []
    compared = zip(texts, tokenizer.encode_batch(texts), cuts, file.decode_batch(cuts), strict=True)
    for text, ours, theirs, spelled in compared:
        bos, *theirs = theirs or [None]
        same = theirs == ours.tolist() or unigram and _tied(theirs, ours, scores)
        if not same or bos != tokenizer.bos_id or spelled != text:
            raise UserError(
                f"{path}: `tokenizers` cuts the text {text!r} into {[bos, *theirs]}, which spell "
                f"{spelled!r}, but ours are {[tokenizer.bos_id, *ours.tolist()]}: this tokenizer "
                "has no form that it reads"
            )


def _probes(tokenizer: Tokenizer) -> Iterable[str]:
    """Returns what each id spells, where that is text, the names of special tokens, hard texts."""
    spelled = (tokenizer.decode([i]) for i in range(tokenizer.size))
    whole = (text for text in spelled if "\N{REPLACEMENT CHARACTER}" not in text)
    return dict.fromkeys([*_HARD, *tokenizer.special_ids, *whole])


def _tied(ids, others, scores: list[float]) -> bool:
    """Returns whether two cuts of a text score the same to float32's rounding."""
    first, second = (sum(scores[i] for i in cut) for cut in (ids, others))
    return math.isclose(first, second, rel_tol=1e-6)
