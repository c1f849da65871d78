"""A bucket of documents -> its shards: what the local builder and the Beam pipeline both call.

Documents are sorted by a hash of (seed, text), and a bucket is a range of that hash. So a bucket's
documents, and the bytes of its shards, do not depend on files, workers or machines.
"""

from collections.abc import Iterable
import pathlib
from typing import Any

from dlms_jax.data.corpora.document import is_heldout, sha256_of_texts
from dlms_jax.data.packing import pack, tokenize
from dlms_jax.data.store.card import SPLITS, Part, ShardPlan
from dlms_jax.data.store.shards import token_type, write_shard
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.data.worker_pool import advance


def unique_in_order(keyed: Iterable[tuple[bytes, ...]]) -> tuple[list[bytes], int]:
    """Returns the texts of (order key, text) pairs by key, and how many were exact duplicates."""
    keyed = sorted(keyed)
    texts = [text for i, (key, text) in enumerate(keyed) if not i or key != keyed[i - 1][0]]
    return texts, len(keyed) - len(texts)


def write_bucket(
    folder: pathlib.Path, bucket: int, texts: list[bytes], plan: ShardPlan, tokenizer: Tokenizer
) -> dict[str, Any]:
    """Writes the shards of a bucket and returns what dataset.json says of it.

    Args:
      folder: where the shards are written.
      bucket: the number of the bucket, 0..plan.buckets-1.
      texts: its texts, unique and in order.
      plan: how the corpus is divided.
      tokenizer: the tokenizer of the rows.

    Returns:
      The Part of each split by its name, and "longest": the tokens of the longest document.
    """
    sides: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for text in texts:
        sides[SPLITS[is_heldout(text, plan.heldout_fraction)]].append(text)
    described, longest = {}, 0
    for split, side in sides.items():
        path = folder / f"{split}-{bucket:05d}-of-{plan.buckets:05d}.array_record"
        part, tokens = _write_part(path, side, plan, tokenizer)
        described[split] = part.to_dict()
        longest = max(longest, tokens)
    return described | {"longest": longest}


def _write_part(path, texts, plan, tokenizer) -> tuple[Part, int]:
    """Writes a shard; returns its Part, and the tokens of its longest text."""
    lengths = []

    def documents():
        for text, ids in zip(texts, tokenize(texts, tokenizer), strict=True):
            lengths.append(len(ids))
            advance(len(text))
            yield ids

    special = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    rows = pack(documents(), plan.sequence_length, *special, plan.packing)
    shard = write_shard(path, rows, token_type(tokenizer.size))
    part = Part(shard, len(texts), sum(map(len, texts)), sha256_of_texts(texts))
    return part, max(lengths, default=0)
