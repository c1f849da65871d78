"""Byte-pair encoding with the `tokenizers` library: trained here, or read from a tokenizer.json."""

from collections.abc import Iterable, Mapping
import json
from typing import Any

import numpy as np

from dlms_jax.data.tokenizers import tokenizer_json
from dlms_jax.data.tokenizers.special import OURS, all_special
from dlms_jax.data.tokenizers.tokenizer import Tokenizer, replace_invalid
from dlms_jax.data.tokenizers.word_cache import WordCache, splits_as_gpt2
from dlms_jax.errors import UserError


class BPETokenizer(Tokenizer):
    """BPE that can encode any text: byte-level (GPT-2's alphabet), or with byte fallback.

    To be exact, it differs from the file's own library in three ways. Text is not normalised:
    Qwen's and GPT-NeoX's NFC is left out, so composed and decomposed letters differ. No space is
    put before a text: Llama 2's is left out. In a vocabulary with byte fallback, where U+2581 means
    a space, the character U+2581 itself is encoded as bytes. The file's special tokens stay
    special, and keep their ids.
    """

    def __init__(
        self, serialized: str, roles: Mapping[str, str] = OURS, special_tokens: Iterable[str] = ()
    ):
        """Makes a tokenizer.

        Args:
          serialized: the text of a tokenizer.json.
          roles: the special token of each role.
          special_tokens: further special tokens. Those that the file lacks are added at its end, in
            the order pad, BOS, EOS, mask, then these.
        """
        import tokenizers

        described = tokenizer_json.lossless(describe(serialized))
        described = tokenizer_json.with_special(
            described, all_special(roles, tuple(special_tokens))
        )
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(described))
        # Otherwise a text that contains "<|mask|>" would get the id of the mask.
        self._tokenizer.encode_special_tokens = True
        self._words = WordCache(self._library_ids) if splits_as_gpt2(described) else None
        table, apart = tokenizer_json.byte_table(described), tokenizer_json.misread(described)
        # Tokens with a character of `apart` never reach the library whole.
        risky = [t for t in tokenizer_json.not_text(described) if not set(t) & set(apart)]
        for token, ids in zip(risky, self._encode_plain(risky), strict=True):
            if (
                b"".join(table[i] for i in ids) != token.encode()
            ):  # the library looks a word up whole
                raise UserError(f"the text {token!r} becomes its token of that name; rename it")
        super().__init__(table, tokenizer_json.special_ids(described), roles, apart)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        roles: Mapping[str, str] = OURS,
        special_tokens: Iterable[str] = (),
    ) -> "BPETokenizer":
        """Returns a byte-level tokenizer with `vocab_size` tokens, including the special ones."""
        import tokenizers

        special = all_special(roles, tuple(special_tokens))
        smallest = 256 + len(special)
        if vocab_size < smallest:
            raise UserError(
                f"config.tokenizer.vocab_size={vocab_size} is too small for byte-level BPE; "
                f"use {smallest} or more"
            )
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(replace_invalid, texts), trainer)
        return cls(tokenizer.to_str(), roles)

    def file(self) -> bytes:
        """Returns the contents of a tokenizer.json."""
        return self._tokenizer.to_str(pretty=True).encode()

    def to_dict(self):
        return {
            "name": "bpe",
            "roles": self.roles,
            "tokenizer_json": self._tokenizer.to_str(),
        }

    @classmethod
    def from_dict(cls, saved):
        return cls(saved["tokenizer_json"], saved.get("roles", OURS))

    def _encode_plain(self, texts):
        if self._words:
            return self._words(texts)
        return [np.array(ids, np.int32) for ids in self._library_ids(texts)]

    def _library_ids(self, texts: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def describe(serialized: str) -> dict[str, Any]:
    """Returns a tokenizer.json as the library writes it, with no default left out."""
    import tokenizers

    try:
        return json.loads(tokenizers.Tokenizer.from_str(serialized).to_str())
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"this is not a tokenizer.json that `tokenizers` reads: {error}") from None
