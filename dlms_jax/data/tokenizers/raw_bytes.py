"""The tokenizer that needs no training: every byte is a token."""

from collections.abc import Iterable, Mapping

import numpy as np

from dlms_jax.data.tokenizers.special import OURS, all_special
from dlms_jax.data.tokenizers.tokenizer import Tokenizer


class ByteTokenizer(Tokenizer):
    """The ids 0..255 are the bytes; the special tokens follow."""

    def __init__(self, roles: Mapping[str, str] = OURS, special_tokens: Iterable[str] = ()):
        special = all_special(roles, tuple(special_tokens))
        table = [bytes([i]) for i in range(256)] + [b""] * len(special)
        super().__init__(table, {token: 256 + i for i, token in enumerate(special)}, roles)

    def to_dict(self):
        return {"name": "bytes", "roles": self.roles, "special_tokens": list(self.special_ids)}

    @classmethod
    def from_dict(cls, saved):
        return cls(saved.get("roles", OURS), saved.get("special_tokens", ()))

    def _encode_plain(self, texts):
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts]
