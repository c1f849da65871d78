"""A part of a corpus -> its shards: what the local builder and the Beam pipeline both call.

Documents are sorted by a hash of (seed, text), and a bucket is a range of that hash. So a bucket's
documents, and with them its shards' bytes, do not depend on files, workers or machines.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import hashlib
import pathlib
from typing import Any, NamedTuple

from dlms_jax.data.corpora.document import is_heldout
from dlms_jax.data.packing import Method, Rows, pack
from dlms_jax.data.store.shards import Shard, token_type, write_shard
from dlms_jax.data.tokenizers import Tokenizer

SPLITS = ("train", "heldout")
_ENCODED = 1 << 20  # bytes of text that are tokenized at a time


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a corpus is cut into buckets, splits and rows."""

    buckets: int
    sequence_length: int
    packing: Method = "concat"
    heldout_fraction: float = 0.05
    seed: int = 0

    def bucket_of(self, key: bytes) -> int:
        """Returns the bucket of an order key (document.order_key)."""
        return (int.from_bytes(key[:8], "big") * self.buckets) >> 64


class Part(NamedTuple):
    """A split's share of one bucket. sha256: of the texts in order."""

    shard: Shard
    documents: int
    bytes: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        return self._asdict() | {"shard": self.shard._asdict()}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Part":
        return cls(**saved | {"shard": Shard(**saved["shard"])})


def unique_in_order(keyed: Iterable[tuple[bytes, bytes]]) -> tuple[list[bytes], int]:
    """Returns the texts of (order key, text) pairs by key, and how many were exact duplicates."""
    keyed = sorted(keyed)
    texts = [text for i, (key, text) in enumerate(keyed) if not i or key != keyed[i - 1][0]]
    return texts, len(keyed) - len(texts)


def write_bucket(
    folder: pathlib.Path, bucket: int, texts: list[bytes], layout: Layout, tokenizer: Tokenizer,
    advance=id,
) -> dict[str, Any]:  # fmt: skip
    """Writes the shards of a bucket's texts and returns what dataset.json says of it: the Part of
    each split, and the tokens of the longest document.

    texts: unique and in order. advance: told the bytes that were tokenized.
    """
    sides = {split: [] for split in SPLITS}
    for text in texts:
        sides[SPLITS[is_heldout(text, layout.heldout_fraction)]].append(text)
    described, longest = {}, [0]
    for split, side in sides.items():
        path = folder / f"{split}-{bucket:05d}-of-{layout.buckets:05d}.array_record"
        rows = pack_texts(side, layout.sequence_length, layout.packing, tokenizer, advance, longest)
        shard = write_shard(path, rows, token_type(tokenizer.size))
        part = Part(shard, len(side), sum(map(len, side)), sha256_of_texts(side))
        described[split] = part.to_dict()
    return described | {"longest": longest[0]}


def sha256_of_texts(texts: Iterable[bytes]) -> str:
    """Returns a sha256 that tells where one text ends and the next begins."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()


def pack_texts(
    texts: list[bytes], length: int, method: Method, tokenizer: Tokenizer, advance=id, longest=None
) -> Iterator[Rows]:
    """Yields blocks of packed rows of texts.

    longest: a list of one number, which is raised to the tokens of the longest text.
    """
    ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    documents = _encoded(texts, tokenizer, advance, longest)
    return pack(documents, length, *ids, method)


def _encoded(texts, tokenizer, advance, longest):
    """Yields the ids of each text; keeps the length of the longest."""
    for batch in _batches(texts):
        for ids in tokenizer.encode_batch([t.decode("utf-8", "surrogateescape") for t in batch]):
            if longest:
                longest[0] = max(longest[0], len(ids))
            yield ids
        advance(sum(map(len, batch)))


def _batches(texts):
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _ENCODED:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
