"""Our tokenizers as the files of a Hugging Face fast tokenizer.

`data.tokenizers.hugging_face.load_hugging_face` reads such files, if the model is BPE.

A text has the same ids in both libraries, except where `tokenizers` cannot do what ours does:

- It does not accept bytes that are not UTF-8 (lone surrogates in our texts).
- Unigram: sentencepiece adds scores in float32, `tokenizers` in float64. If the scores of two
  segmentations differ only by float32's rounding, the two may choose differently. An example is
  "---" as "--", "-" or as "-", "--"; in a text of 10^5 characters the rounding reaches 0.01.
- A BPE with byte fallback that was read from other files keeps their way of writing a space, so
  U+2581 becomes a space. Exports of sentencepiece models write a space as itself, so U+2581 becomes
  its three bytes.
- Two pieces of a sentencepiece BPE with the same score: `tokenizers` merges the one with the lower
  id first, sentencepiece the one further left. Sentencepiece's trainer gives each merged piece a
  score of its own.

A special token that is spelled out in a text is plain text to us, but its id to `transformers`
(chat templates need that). `tokenizer(text, split_special_tokens=True)` treats it as we do.
"""

from collections.abc import Iterable, Mapping
import json
import math
import pathlib
import re
from typing import Any

import numpy as np

from dlms_jax.conversion.folder import writable
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
# Prefix of the second name of a byte that has two ids, such as "a" and "<0x61>". ALPHABET does not
# have it, so no text is encoded as the second id. It is a private-use character of Unicode, so
# special tokens hardly contain it.
_SECOND = "\ue000"
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}
_NEVER = -1e9  # less than the score of any segmentation of a text as long as a token's name
_UNKNOWN = 10  # sentencepiece scores an unknown character this much below its worst piece
# Texts that tokenizers often disagree on: empty, spaces, control characters, combining characters,
# names of tokens.
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

    `transformers.AutoTokenizer.from_pretrained(folder)` then encodes a text as BOS and our ids, and
    pads batches on the left, as generation needs. The same tokenizer always gives the same bytes.
    The files are read again and compared with the tokenizer on all its symbols and on hard texts.

    Args:
      tokenizer: the tokenizer to write.
      folder: an existing folder.
      context: the longest sequence that the model was trained on, in tokens.
      chat_template: a Jinja template; "" writes none.

    Raises:
      UserError: `tokenizers` cannot represent the tokenizer, or the files cannot be written.
    """
    import tokenizers

    described = _with_names(_described(tokenizer))
    described |= {"post_processor": _begins_with_bos(tokenizer)}
    written = tokenizers.Tokenizer.from_str(json.dumps(described)).to_str(pretty=True)
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
    files = {"tokenizer.json": written + "\n", "tokenizer_config.json": serialized + "\n"}
    if chat_template:
        files["chat_template.jinja"] = chat_template
    with writable(folder):
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
    _check(tokenizer, folder / "tokenizer.json")


def _described(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the tokenizer.json of a tokenizer, without the post-processor that adds BOS."""
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
    try:  # no method names the algorithm, but only Unigram has this one
        pieces.nbest_encode_as_ids("a", 2)
    except RuntimeError:
        return _sentencepiece_bpe(tokenizer, pieces)
    return _unigram(tokenizer, pieces)


def _unigram(tokenizer: SentencePieceTokenizer, pieces) -> dict[str, Any]:
    """Returns a Unigram over bytes that segments text like sentencepiece's over characters.

    Sentencepiece segments the text first, and then writes unknown characters as bytes. Here the
    first byte of a character has the score of an unknown character and the other bytes score 0:
    the sum is the same, and a piece for that character, if there is one, has a higher score. (The
    usual converters use the names U+2581 and <0x41>, so that the texts U+2581 and "<0x41>" become a
    space and the byte A.)
    """
    every = range(pieces.get_piece_size())
    names = [pieces.id_to_piece(i) for i in every]
    if users := _user_defined(tokenizer.file()):
        raise UserError(
            f"cannot write tokenizer.json: the sentencepiece model has the user-defined piece "
            f"{names[min(users)]!r}, which Unigram treats differently in different versions of "
            "sentencepiece; use BPE, or a model without such pieces"
        )
    ordinary = [i for i in every if _is_ordinary(pieces, i)]
    unknown = float(np.float32(min(map(pieces.get_score, ordinary)) - _UNKNOWN))
    whole = {i: "".join(_LETTERS[byte] for byte in tokenizer.decode_bytes([i])) for i in every}
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
    """Returns a BPE over characters with byte fallback, in which a space is itself.

    Sentencepiece merges any two symbols that form a piece, best score first, then leftmost. The
    merges here list every way to form a piece. A text uses only one of them: the characters of a
    piece are merged among themselves before it is formed, in the same order wherever it occurs.
    """
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    # Sentencepiece finds a user-defined piece only if its spaces are written as U+2581.
    users = {i for i in _user_defined(tokenizer.file()) if " " not in names[i]}
    ordinary = {i for i in range(len(names)) if _is_ordinary(pieces, i)}
    names = [n.replace(SPACE, " ") if i in ordinary else n for i, n in enumerate(names)]
    mergeable = {names[i]: pieces.get_score(i) for i in sorted(ordinary - users)}
    merges = [
        (name[:cut], name[cut:])
        for name in sorted(mergeable, key=mergeable.__getitem__, reverse=True)
        for cut in range(1, len(name))
        if name[:cut] in mergeable and name[cut:] in mergeable
    ]
    whole = {names[i]: i for i in users}  # matched before anything is merged
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
    """Returns whether a piece can be found in a text."""
    return not (pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i))


def _user_defined(model: bytes) -> set[int]:
    """Returns the ids of user-defined pieces, which no method of sentencepiece reports.

    In a .model, the message of a piece (field 1) ends with its type (field 3; USER_DEFINED = 4).
    """
    messages = [message for number, message in protobuf_fields(model) if number == 1]
    return {i for i, message in enumerate(messages) if message.endswith(bytes([3 << 3, 4]))}


def _added(ids: Mapping[str, int], special: bool = True) -> list[dict[str, Any]]:
    """Returns the `added_tokens` entries of tokens, which are matched in the unchanged text."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": i, "content": token, **flags, "special": special} for token, i in ids.items()]


def _with_names(described: dict[str, Any]) -> dict[str, Any]:
    """Returns a byte-level tokenizer.json that decodes an added token as its name.

    The byte-level decoder reads a token whose characters all stand for bytes as these bytes: in
    "«user»", "«" stands for the byte 0xAB. A step before it writes the UTF-8 of such a name in that
    alphabet.
    """
    if not tokenizer_json.is_byte_level({"pre_tokenizer": None} | described):
        return described
    names = [token["content"] for token in described["added_tokens"]]
    steps = [
        {
            "type": "Replace",
            "pattern": {"Regex": rf"\A{re.escape(name)}\z"},
            "content": "".join(_LETTERS[byte] for byte in name.encode()),
        }
        for name in names
        if set(name) <= set(ALPHABET) and not name.isascii()
    ]
    if not steps:
        return described
    decoder = {"type": "Sequence", "decoders": [*steps, described["decoder"]]}
    return described | {"decoder": decoder}


def _begins_with_bos(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the post-processor that puts BOS before a text."""
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
    """Raises UserError if a tokenizer.json encodes or decodes a text differently from ours."""
    import tokenizers

    described = json.loads(path.read_text(encoding="utf-8"))
    file = tokenizers.Tokenizer.from_file(str(path))
    for token, i in tokenizer.special_ids.items():
        if file.token_to_id(token) != i:
            raise UserError(
                f"{path}: the special token {token!r} has the id {i}, but `tokenizers` finds "
                f"{file.token_to_id(token)}, because two tokens have this name; rename one of them"
            )
        ids = file.encode(token, add_special_tokens=False).ids
        spelled = file.decode([i], skip_special_tokens=False)
        if ids != [i] or spelled != token:
            raise UserError(
                f"{path}: `tokenizers` encodes the special token {token!r}, whose id is {i}, as "
                f"{ids} and decodes it as {spelled!r}; give it another name"
            )
    file.encode_special_tokens = True  # as text, which they are to our tokenizer
    texts = list(_probes(tokenizer))
    if isinstance(tokenizer, BPETokenizer) and not tokenizer_json.is_byte_level(described):
        texts = [text for text in texts if SPACE not in text]
    cuts = [encoding.ids for encoding in file.encode_batch_fast(texts)]
    unigram = described["model"]["type"] == "Unigram"
    scores = [score for _, score in described["model"]["vocab"]] if unigram else []
    compared = zip(texts, tokenizer.encode_batch(texts), cuts, file.decode_batch(cuts), strict=True)
    for text, ours, theirs, spelled in compared:
        ids = theirs[1:]
        same = ids == ours.tolist() or unigram and _tied(ids, ours, scores)
        if not same or theirs[:1] != [tokenizer.bos_id] or spelled != text:
            raise UserError(
                f"{path}: `tokenizers` encodes the text {text!r} as {theirs} and decodes "
                f"that to {spelled!r}, but our tokenizer encodes the text as "
                f"{[tokenizer.bos_id, *ours.tolist()]}; use another tokenizer for a release"
            )


def _probes(tokenizer: Tokenizer) -> Iterable[str]:
    """Returns hard texts, the names of special tokens, and the text of each id that has one."""
    spelled = (tokenizer.decode([i]) for i in range(tokenizer.size))
    whole = (text for text in spelled if "\N{REPLACEMENT CHARACTER}" not in text)
    return dict.fromkeys([*_HARD, *tokenizer.special_ids, *whole])


def _tied(ids, others, scores: list[float]) -> bool:
    """Returns whether two segmentations of a text have the same score, up to float32's rounding."""
    first, second = (sum(scores[i] for i in encoded) for encoded in (ids, others))
    return math.isclose(first, second, rel_tol=1e-6)
