"""TEXT <-> TOKEN IDS: raw bytes, byte-level BPE, sentencepiece, and Hugging Face's files.

Every kind is exact: the ids of any text, including invalid bytes and NUL, give that text back, and
text that happens to spell a special token stays text. A step of a file that would lose, change or
add text is left out if the tokenizer works without it; otherwise the file is refused.

`Tokenizer` is the interface of all kinds. `make_tokenizer` makes the one that a config names.
`to_dict` and `from_dict` keep it in checkpoints and datasets. `fingerprint` identifies it.
"""

from dlms_jax.data.tokenizers.byte_level import BPETokenizer
from dlms_jax.data.tokenizers.make import (
    check_tokenizer_config,
    fingerprint,
    from_dict,
    make_tokenizer,
)
from dlms_jax.data.tokenizers.raw_bytes import ByteTokenizer
from dlms_jax.data.tokenizers.sentence_piece import SentencePieceTokenizer
from dlms_jax.data.tokenizers.special import ROLES, SPECIAL_TOKENS, choose_roles
from dlms_jax.data.tokenizers.tokenizer import Tokenizer

__all__ = [
    "ROLES",
    "SPECIAL_TOKENS",
    "BPETokenizer",
    "ByteTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "check_tokenizer_config",
    "choose_roles",
    "fingerprint",
    "from_dict",
    "make_tokenizer",
]
