"""A `tokenizer.json` without the steps that lose, change or add text.

Two families of BPE can encode any text. Byte-level: text becomes bytes, each written as one
character of GPT-2's alphabet (GPT-2, GPT-NeoX, Qwen, Llama 3). Byte fallback: text becomes
characters with U+2581 for a space, and a character that the vocabulary lacks becomes the tokens
<0x00>..<0xFF> (Llama 2, Mistral, Gemma). The functions here take and return the file's JSON as a
dict, in the form in which the `tokenizers` library writes it.
"""

from collections.abc import Sequence
import re
from typing import Any

from dlms_jax.errors import UserError

SPACE = "\u2581"  # how sentencepiece and similar tokenizers write a space
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")
# Tokenizer decodes with its table of bytes; with these, other programs decode the same way.
_BYTE_LEVEL_DECODER = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_FALLBACK_DECODER = {
    "type": "Sequence",
    "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ],
}
_KEEP_TEXT = ("Split", "Digits", "Punctuation")  # pre-tokenizers that keep text if not "Removed"


def is_byte_level(described: dict[str, Any]) -> bool:
    """Returns whether the tokenizer is byte-level; if not, it has byte fallback."""
    steps = _steps(described["pre_tokenizer"], "pretokenizers")
    return any(step["type"] == "ByteLevel" for step in steps)


def lossless(described: dict[str, Any]) -> dict[str, Any]:
    """Returns the tokenizer without the steps that change text.

    These are: NFC normalisation; a space put before a text; truncation, padding, and special tokens
    around a text; the white space that some added tokens remove; dropout.

    Raises:
      UserError: it changes text in another way.
    """
    model = described["model"]
    if model["type"] != "BPE":
        raise UserError(f"its model is {model['type']}, which loses text; only BPE is read here")
    if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise UserError("its tokens carry a prefix or suffix for words, so it loses spaces")
    byte_level = is_byte_level(described)
    if not byte_level and not model["byte_fallback"]:
        raise UserError("it is not byte-level and has no byte fallback, so it loses text")
    normalizers = [
        step
        for step in _steps(described["normalizer"], "normalizers")
        if step["type"] not in ("NFC", "Prepend")
    ]
    for step in normalizers:
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        if byte_level or step != spaces:
            raise UserError(f"its normalizer {step['type']} changes text")
    cuts = [
        _keeping(step, byte_level) for step in _steps(described["pre_tokenizer"], "pretokenizers")
    ]
    if sum(step["type"] == "ByteLevel" for step in cuts) > 1:
        raise UserError("it turns text into bytes twice")
    return described | {
        "truncation": None,
        "padding": None,
        "post_processor": None,
        "normalizer": _sequence(normalizers, "normalizers"),
        "pre_tokenizer": _sequence(cuts, "pretokenizers"),
        "decoder": _BYTE_LEVEL_DECODER if byte_level else _FALLBACK_DECODER,
        "added_tokens": [t | {"lstrip": False, "rstrip": False} for t in described["added_tokens"]],
        "model": model | {"dropout": None},
    }


def ordinary_tokens(described: dict[str, Any]) -> set[str]:
    """Returns the tokens that represent text: the vocabulary without the added tokens."""
    added = {token["content"] for token in described["added_tokens"]}
    return set(described["model"]["vocab"]) - added


def with_special(described: dict[str, Any], special: Sequence[str]) -> dict[str, Any]:
    """Returns the tokenizer with these special tokens; new ones get the next ids."""
    vocab, added = described["model"]["vocab"], described["added_tokens"]
    ids = vocab | {token["content"]: token["id"] for token in added}
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f"its {len(ids)} ids are not 0..{len(ids) - 1}, each once")
    ordinary = ordinary_tokens(described)
    for token in special:
        if token in ordinary:
            raise UserError(
                f"{token!r} stands for text in it, so it cannot be a special token; name another"
            )
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    missing = [token for token in special if token not in ids]
    added = [t | {"special": t["special"] or t["content"] in special} for t in added]
    added += [
        {"id": len(ids) + i, "content": token, **flags, "special": True}
        for i, token in enumerate(missing)
    ]
    described = described | {"added_tokens": added}
    # Some files have merges that make "<s>" from text: without them no text becomes that token.
    apart = set(not_text(described))
    merges = [pair for pair in described["model"]["merges"] if "".join(pair) not in apart]
    return described | {"model": described["model"] | {"merges": merges}}


def special_ids(described: dict[str, Any]) -> dict[str, int]:
    """Returns the ids of the special tokens by their spelling."""
    return {t["content"]: t["id"] for t in described["added_tokens"] if t["special"]}


def not_text(described: dict[str, Any]) -> list[str]:
    """Returns the tokens whose name is not their text: special ones, and <0x00>..<0xFF>."""
    vocab = () if is_byte_level(described) else described["model"]["vocab"]
    return [*special_ids(described), *(token for token in vocab if _BYTE_TOKEN.fullmatch(token))]


def misread(described: dict[str, Any]) -> str:
    """Returns the characters that the library would take for others."""
    vocab = described["model"]["vocab"]
    plain = not described["normalizer"] and not described["pre_tokenizer"]
    if is_byte_level(described) or (plain and " " in vocab):  # a space stays a space
        return ""
    # A space becomes U+2581. Without a token for that, it would become the three bytes of U+2581.
    return SPACE if SPACE in vocab else SPACE + " "


def byte_table(described: dict[str, Any]) -> list[bytes]:
    """Returns the bytes of each id; b"" for a special one."""
    vocab, added = described["model"]["vocab"], described["added_tokens"]
    bytes_of = _alphabet_bytes if is_byte_level(described) else _fallback_bytes
    table = {i: bytes_of(token) for token, i in vocab.items()}
    for token in added:
        # An added token is found in the original text, before it is written in the alphabet.
        text = token["content"]
        literal = text.encode() if is_byte_level(described) else _fallback_bytes(text)
        if not token["special"] and table.get(token["id"], literal) != literal:
            raise UserError(f"its token {text!r} means two different texts")
        table[token["id"]] = b"" if token["special"] else literal
    return [table[i] for i in range(len(table))]


def _alphabet() -> dict[str, int]:
    """Returns the byte of each character of GPT-2's alphabet.

    Visible characters of Latin-1 stand for their own byte, and the characters from U+0100 on, in
    order, for the other bytes.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(b): b for b in visible} | {chr(0x100 + i): b for i, b in enumerate(others)}


ALPHABET = _alphabet()


def _alphabet_bytes(token: str) -> bytes:
    try:
        return bytes(ALPHABET[c] for c in token)
    except KeyError:  # no text gives such a token, but a model can sample it
        return token.encode()


def _fallback_bytes(token: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()


def _keeping(step: dict[str, Any], byte_level: bool) -> dict[str, Any]:
    """Returns a pre-tokenizer that adds no space; raises UserError if it drops or changes text."""
    kind = step["type"]
    if kind == "ByteLevel":
        return step | {"add_prefix_space": False}
    if kind == "Metaspace" and not byte_level and step["replacement"] == SPACE:
        return step | {"prepend_scheme": "never"}
    if kind in _KEEP_TEXT and step.get("behavior") != "Removed":
        return step
    raise UserError(f"its pre-tokenizer {kind} drops or changes text")


def _steps(described: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Returns the steps of a normalizer or pre-tokenizer, with nested sequences flattened."""
    if described is None:
        return []
    if described["type"] == "Sequence":
        return [step for inner in described[name] for step in _steps(inner, name)]
    return [described]


def _sequence(steps: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    return {"type": "Sequence", name: steps} if steps else None
