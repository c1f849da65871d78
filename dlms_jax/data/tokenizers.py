"""Text <-> token ids. A tokenizer owns its special symbols and is saved with every checkpoint."""

from collections.abc import Iterable
import hashlib
import json
import pathlib
from typing import Any, Protocol

import numpy as np

from dlms_jax.errors import UserError

SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|eos|>", "<|mask|>")


class Tokenizer(Protocol):
    """Ids are 0..size-1. Text that happens to spell a special token never becomes its id."""

    size: int
    pad_id: int
    bos_id: int
    eos_id: int
    mask_id: int

    def encode(self, text: str) -> np.ndarray:
        """Returns the int32 ids of a text, without BOS and EOS."""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; special ids give nothing, broken UTF-8 gives U+FFFD."""

    def bytes_of_ids(self) -> np.ndarray:
        """Returns, by id, the number of UTF-8 bytes it stands for (special ids: 0)."""

    def to_dict(self) -> dict[str, Any]:
        """Returns all that `from_dict` needs, as JSON data."""


class ByteTokenizer:
    """One symbol a UTF-8 byte, then the four special ones."""

    size = 256 + len(SPECIAL_TOKENS)
    pad_id, bos_id, eos_id, mask_id = range(256, 260)

    def encode(self, text):
        # surrogateescape: bytes that were no UTF-8 when a file was read come back as they were
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8).astype(np.int32)

    def decode(self, ids):
        return bytes(i for i in map(int, ids) if i < 256).decode("utf-8", "replace")

    def bytes_of_ids(self):
        return (np.arange(self.size) < 256).astype(np.int32)

    def to_dict(self):
        return {"name": "bytes"}


class BPETokenizer:
    """Byte-level BPE (GPT-2's alphabet), on the `tokenizers` library."""

    def __init__(self, serialized: str):
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(serialized)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"this is no tokenizer.json that `tokenizers` reads: {error}") from None
        if self._tokenizer.normalizer or not isinstance(
            self._tokenizer.decoder, tokenizers.decoders.ByteLevel
        ):
            raise UserError(
                "the tokenizer is not byte-level, or has a normalizer, so it loses text"
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        missing = [t for t in SPECIAL_TOKENS if self._tokenizer.token_to_id(t) is None]
        if missing:
            raise UserError(f"the tokenizer lacks the special tokens {', '.join(missing)}")
        # Otherwise a text that spells "<|mask|>" would become the id of the mask.
        self._tokenizer.encode_special_tokens = True
        self._serialized = serialized
        self.size = self._tokenizer.get_vocab_size()
        self.pad_id, self.bos_id, self.eos_id, self.mask_id = map(
            self._tokenizer.token_to_id, SPECIAL_TOKENS
        )

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "BPETokenizer":
        """Returns a tokenizer of `vocab_size` symbols (special ones too) learned from texts."""
        import tokenizers

        smallest = 256 + len(SPECIAL_TOKENS)
        if vocab_size < smallest:
            raise UserError(
                f"config.tokenizer.vocab_size={vocab_size} is too small for byte-level BPE; "
                f"use {smallest} or more"
            )
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer.to_str())

    def encode(self, text):
        # A lone surrogate stands for a byte that is no UTF-8; `tokenizers` takes valid text only.
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, ids):
        ids = [int(i) for i in ids if int(i) < self.size]
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def bytes_of_ids(self):
        tokens = [self._tokenizer.id_to_token(i) for i in range(self.size)]
        # A token's string has one character of the byte-level alphabet for each byte.
        added = self._tokenizer.get_added_tokens_decoder()
        special = {i for i, token in added.items() if token.special}
        return np.array([0 if i in special else len(t) for i, t in enumerate(tokens)], np.int32)

    def to_dict(self):
        return {"name": "bpe", "tokenizer_json": self._serialized}


def make_tokenizer(config, texts: Iterable[str]) -> Tokenizer:
    """Returns the tokenizer that a TokenizerConfig names, trained on `texts` where it must be."""
    if config.name == "bytes":
        return ByteTokenizer()
    if config.path:
        path = pathlib.Path(config.path)
        if not path.is_file():
            raise UserError(f"config.tokenizer.path={config.path}: no such file")
        try:
            return BPETokenizer(path.read_text(encoding="utf-8"))
        except (UserError, UnicodeDecodeError) as error:
            raise UserError(f"config.tokenizer.path={config.path}: {error}") from None
    return BPETokenizer.train(texts, config.vocab_size)


def from_dict(saved: dict[str, Any]) -> Tokenizer:
    """Returns the tokenizer that `to_dict` described."""
    if saved["name"] == "bytes":
        return ByteTokenizer()
    return BPETokenizer(saved["tokenizer_json"])


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a sha256 that two tokenizers share only when they give the same ids."""
    described = json.dumps(tokenizer.to_dict(), sort_keys=True)
    return hashlib.sha256(described.encode()).hexdigest()
