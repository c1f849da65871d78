"""Hugging Face's tokenizer files: tokenizer.json, and the files beside it that name the roles."""

from collections.abc import Iterable, Mapping
import json
import pathlib

from dlms_jax.data.tokenizers.byte_level import BPETokenizer, describe
from dlms_jax.data.tokenizers.special import ROLES, choose_roles
from dlms_jax.data.tokenizers.tokenizer_json import lossless, ordinary_tokens
from dlms_jax.errors import UserError

# The newer file comes first: `transformers` prefers it too if both name a token.
_ROLE_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def load_hugging_face(
    path: pathlib.Path, named: Mapping[str, str], special_tokens: Iterable[str]
) -> BPETokenizer:
    """Returns the tokenizer of a tokenizer.json, or of the folder that holds one.

    Args:
      path: the file or folder.
      named: the special tokens of roles that the user names; the others come from the files beside
        tokenizer.json (see `choose_roles`).
      special_tokens: further special tokens.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise UserError(
            "the folder has no tokenizer.json; save one with transformers' "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder), or give a sentencepiece "
            ".model with config.tokenizer.name=sentencepiece"
        )
    serialized = _read(file)
    own = {}
    if file.name == "tokenizer.json":
        own = file_roles(file.parent)
    ordinary = ordinary_tokens(lossless(describe(serialized))) if own else set()
    roles = choose_roles(named, own, usable=lambda token: token not in ordinary)
    return BPETokenizer(serialized, roles, special_tokens)


def file_roles(folder: pathlib.Path) -> dict[str, str]:
    """Returns the special tokens of the roles that a folder's files name."""
    roles: dict[str, str] = {}
    for name in _ROLE_FILES:
        if not (folder / name).is_file():
            continue
        try:
            stated = json.loads(_read(folder / name))
        except json.JSONDecodeError as error:
            raise UserError(f"{name} is not JSON ({error}); fix or remove it") from None
        if not isinstance(stated, dict):
            raise UserError(f"{name} is not a JSON object; fix or remove it")
        for role in ROLES:
            token = stated.get(f"{role}_token")
            if isinstance(token, dict):  # an added token with its flags
                token = token.get("content")
            if isinstance(token, str) and token:
                roles.setdefault(role, token)
    return roles


def _read(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file.name} is not JSON, since it is not UTF-8 ({error})") from None
