"""The interface of tokenizers: a way to split text into ids, and a table of the bytes of each id.

Every kind decodes with the table, so decoding is exact whichever library encoded the text.
"""

from collections.abc import Iterator, Mapping, Sequence
import re
from typing import Any

import numpy as np

from dlms_jax.data.corpora.document import to_bytes
from dlms_jax.data.tokenizers.special import ROLES
from dlms_jax.errors import UserError


class Tokenizer:
    """A tokenizer with the ids 0..size-1.

    Attributes:
      pad_id, bos_id, eos_id, mask_id: four different ids.
      special_ids: the id of every special token by its spelling, including those of the roles, in
        the order of the ids.
    """

    size: int
    pad_id: int
    bos_id: int
    eos_id: int
    mask_id: int
    special_ids: dict[str, int]

    def __init__(
        self,
        table: Sequence[bytes],
        special_ids: Mapping[str, int],
        roles: Mapping[str, str],
        apart: str = "",
    ):
        """Sets up what all kinds share.

        Args:
          table: the bytes of each id; b"" for a special one.
          special_ids: the ids of the special tokens.
          roles: the special token of each role.
          apart: characters that the library would take for others; they are encoded byte by byte.
        """
        self.size = len(table)
        self.roles = dict(roles)
        self.special_ids = dict(sorted(special_ids.items(), key=lambda item: item[1]))
        self.pad_id, self.bos_id, self.eos_id, self.mask_id = (
            self.special_ids[roles[role]] for role in ROLES
        )
        self._table = list(table)
        # If a byte has two ids (sentencepiece's "a" and "<0x61>"), both are exact.
        ids = {token: i for i, token in enumerate(table) if len(token) == 1}
        missing = [byte for byte in range(256) if bytes([byte]) not in ids]
        if missing:
            raise UserError(
                f"the tokenizer has no token for {len(missing)} of the 256 bytes (0x"
                f"{missing[0]:02X} first), so it cannot encode every text; use one that has all"
            )
        self._id_of_byte = np.array([ids[bytes([byte])] for byte in range(256)], np.int32)
        self._apart = apart
        # Bytes that are not UTF-8 are the lone surrogates U+DC80..U+DCFF, which no library takes.
        self._spelled = re.compile(f"([\udc80-\udcff{re.escape(apart)}]+)")
        longest_first = sorted(self.special_ids, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """Returns the int32 ids of a text, without BOS and EOS.

        Args:
          text: the text.
          special: whether a special token's spelling becomes its id. False for text that is data.
        """
        return self.encode_batch([text], special)[0]

    def encode_batch(self, texts: Sequence[str], special: bool = False) -> list[np.ndarray]:
        """Returns `encode` of each text; faster than one by one."""
        parts = [list(self._parts(text, special)) for text in texts]
        ids = iter(self._encode_plain([p for some in parts for p in some if isinstance(p, str)]))
        return [
            joined([next(ids) if isinstance(part, str) else part for part in some])
            for some in parts
        ]

    def decode_bytes(self, ids: Sequence[int] | np.ndarray) -> bytes:
        """Returns the bytes of ids; special ids, and numbers that are no ids, have none."""
        table, size = self._table, self.size
        return b"".join([table[i] for i in np.asarray(ids, np.int64).tolist() if 0 <= i < size])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of ids; special ids have none, and invalid UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def bytes_of_ids(self) -> np.ndarray:
        """Returns the number of bytes of each id (special ids: 0), as int32."""
        return np.array([len(token) for token in self._table], np.int32)

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` needs, as JSON data."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Tokenizer":
        """Returns the tokenizer that `to_dict` described."""
        raise NotImplementedError

    def __reduce__(self):  # for worker processes: objects of some libraries cannot be pickled
        return type(self).from_dict, (self.to_dict(),)

    def _encode_plain(self, texts: list[str]) -> Sequence[np.ndarray]:
        """Returns the int32 ids, none of them special, of texts that are valid Unicode and have no
        character of `apart`."""
        raise NotImplementedError

    def _parts(self, text: str, special: bool) -> Iterator[str | np.ndarray]:
        """Yields a text's plain parts as they are, and the others as ids."""
        if not special:
            yield from self._plain_parts(text)
            return
        for i, piece in enumerate(self._special.split(text)):
            if i % 2:
                yield np.array([self.special_ids[piece]], np.int32)
            elif piece:
                yield from self._plain_parts(piece)

    def _plain_parts(self, text: str) -> Iterator[str | np.ndarray]:
        if is_unicode(text) and not any(c in text for c in self._apart):
            yield text
            return
        for i, piece in enumerate(self._spelled.split(text)):
            if i % 2:
                yield self._id_of_byte[np.frombuffer(to_bytes(piece), np.uint8)]
            elif piece:
                yield piece


def is_unicode(text: str) -> bool:
    """Returns whether a text has no lone surrogates.

    Raises:
      UserError: a lone surrogate does not represent a byte.
    """
    try:  # encoding is many times as fast as a search by `re`
        text.encode()
    except UnicodeEncodeError:
        stray = re.search("[\ud800-\udc7f\udd00-\udfff]", text)
        if stray is None:
            return False
        raise UserError(
            f"a text has the lone surrogate U+{ord(stray[0]):04X} as character {stray.start()}, "
            "which is half a character and has no bytes; fix the program that made the text"
        ) from None
    return True


def replace_invalid(text: str) -> str:
    """Returns a text with U+FFFD for bytes that are not UTF-8, which no trainer takes."""
    return text if is_unicode(text) else to_bytes(text).decode("utf-8", "replace")


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Returns the parts as one int32 array."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.zeros(0, np.int32), *parts])
