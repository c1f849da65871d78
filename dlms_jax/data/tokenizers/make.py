"""A tokenizer from a config, or from the data of a checkpoint or dataset."""

from collections.abc import Iterable
import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from dlms_jax.config import SETTINGS, TokenizerConfig
from dlms_jax.data.tokenizers.byte_level import BPETokenizer
from dlms_jax.data.tokenizers.hugging_face import load_hugging_face
from dlms_jax.data.tokenizers.raw_bytes import ByteTokenizer
from dlms_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer
from dlms_jax.data.tokenizers.special import ROLES, choose_roles
from dlms_jax.data.tokenizers.tokenizer import Tokenizer
from dlms_jax.errors import UserError

_KINDS: dict[str, type[Tokenizer]] = {
    "bytes": ByteTokenizer,
    "bpe": BPETokenizer,
    "sentencepiece": SentencePieceTokenizer,
}


def make_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """Returns the tokenizer of a config: loaded from its path, else trained on `texts`."""
    check_tokenizer_config(config)
    named = {role: getattr(config, f"{role}_token") for role in ROLES}
    if config.path:
        try:
            return _load(config, named)
        except UserError as error:
            raise UserError(f"config.tokenizer.path={config.path}: {error}") from None
    if config.name == "hf":
        raise UserError(
            "config.tokenizer.name=hf needs config.tokenizer.path: a tokenizer.json, "
            "or a folder that holds one"
        )
    roles = choose_roles(named)
    if config.name == "bytes":
        return ByteTokenizer(roles, config.special_tokens)
    if config.name == "bpe":
        return BPETokenizer.train(texts, config.vocab_size, roles, config.special_tokens)
    return SentencePieceTokenizer.train(
        texts, config.vocab_size, config.algorithm, roles, config.special_tokens
    )


def check_tokenizer_config(config: TokenizerConfig) -> None:
    """Raises UserError for what no recipe can set, and a caller can."""
    for field in dataclasses.fields(config):
        SETTINGS[f"tokenizer.{field.name}"].check(getattr(config, field.name))


def from_dict(saved: dict[str, Any]) -> Tokenizer:
    """Returns the tokenizer that `to_dict` described."""
    return _KINDS[saved["name"]].from_dict(saved)


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a SHA-256 that is equal only for tokenizers with the same ids and the same roles."""
    described = json.dumps(tokenizer.to_dict(), sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()


def _load(config: TokenizerConfig, named: dict[str, str]) -> Tokenizer:
    path = pathlib.Path(config.path)
    if config.name == "bytes":
        raise UserError("config.tokenizer.name=bytes reads no file; leave the path out")
    if not path.exists():
        raise UserError("no such file or folder")
    if config.name != "sentencepiece":
        return load_hugging_face(path, named, config.special_tokens)
    if path.is_dir():
        raise UserError("this is a folder; give the .model file in it")
    return SentencePieceTokenizer.load(path.read_bytes(), named, config.special_tokens)
