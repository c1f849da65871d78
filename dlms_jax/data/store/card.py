"""dataset.json: what a prepared dataset holds, and how it was made.

It has digests of vocab.json and of itself, so that no changed byte of either is read as data.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import pathlib
import types
from typing import Any, Literal, NamedTuple

from dlms_jax import __version__
from dlms_jax.config import upgrade
from dlms_jax.data import tokenizers
from dlms_jax.data.checks import check_fields, check_row
from dlms_jax.data.packing import Method
from dlms_jax.data.store.shards import Shard, token_type
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError
from dlms_jax.files import write_json
from dlms_jax.terminal import note

CARD = "dataset.json"
VOCABULARY = "vocab.json"  # the whole tokenizer
FORMAT = 1
UPGRADES: dict[int, Callable] = {}  # format -> its dataset.json in the next one (config/formats.py)
SPLITS = ("train", "heldout")
DIGESTS = "digests"  # the key of {file: SHA-256}, of dataset.json and vocab.json
_NO_DIGEST = "0" * 64  # stands for the digest of dataset.json while it is computed
PLAN_SETTINGS = types.MappingProxyType(
    {name: f"data.{name}" for name in ("sequence_length", "packing", "heldout_fraction", "seed")}
)
_MOST_BUCKETS = 100_000  # the names of shards have five digits
_KEYS = {
    "format", "kind", "version", "tokenizer", "token_type", "sequence_length", "packing",
    "heldout_fraction", "seed", "read", "duplicates", "longest", "splits", "buckets", "arguments",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """How a corpus is divided into buckets, splits and rows. Raises UserError for what cannot be.

    Attributes:
      buckets: parts of the range of order keys. Each becomes one shard of each split.
      sequence_length, packing: of the rows.
      heldout_fraction: the share of documents that is held out.
      seed: the seed of the order of documents.
    """

    buckets: int
    sequence_length: int
    packing: Method = "concat"
    heldout_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self):
        check_fields(self, PLAN_SETTINGS, {"buckets": 1})
        check_row(self.sequence_length)
        if self.buckets > _MOST_BUCKETS:
            raise UserError(
                f"this makes {self.buckets} shards of each split, more than {_MOST_BUCKETS}; use a "
                "larger shard_bytes (--shard-bytes)"
            )

    def bucket_of(self, key: bytes) -> int:
        """Returns the bucket of an order key (document.order_key)."""
        return (int.from_bytes(key[:8], "big") * self.buckets) >> 64


class Part(NamedTuple):
    """A split's share of one bucket.

    Attributes:
      shard: its rows.
      documents, bytes: how many, and their size as text.
      sha256: of the texts in order (document.sha256_of_texts).
    """

    shard: Shard
    documents: int
    bytes: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the part as JSON data."""
        return self._asdict() | {"shard": self.shard._asdict()}

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Part":
        """Returns the part that `to_dict` described."""
        return cls(**saved | {"shard": Shard(**saved["shard"])})


def describe(
    buckets: list[dict[str, Any]],
    plan: ShardPlan,
    tokenizer: Tokenizer,
    counts: dict[str, int],
    arguments: dict[str, Any],
    kind: Literal["text", "dialogues"] = "text",
) -> dict[str, Any]:
    """Returns dataset.json.

    Args:
      buckets: what build.bucket.write_bucket returned for each bucket, in order, and its number of
        "duplicates".
      plan: how the corpus was divided.
      tokenizer: the tokenizer of the rows.
      counts: what was read, such as "documents" and "bytes".
      arguments: what the dataset was made from and how.
      kind: "dialogues" has a loss mask that is not simply all but BOS.
    """
    splits = {}
    for name in SPLITS:
        parts = [Part.from_dict(bucket[name]) for bucket in buckets]
        joint = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
        splits[name] = {
            "sha256": joint,
            "documents": sum(part.documents for part in parts),
            "bytes": sum(part.bytes for part in parts),
            "tokens": sum(part.shard.tokens for part in parts),
            "rows": sum(part.shard.rows for part in parts),
        }
    return {  # a new key goes into _KEYS
        "format": FORMAT,
        "kind": kind,
        "version": __version__,
        "tokenizer": tokenizers.fingerprint(tokenizer),
        "token_type": token_type(tokenizer.size).name,
        "sequence_length": plan.sequence_length,
        "packing": plan.packing,
        "heldout_fraction": plan.heldout_fraction,
        "seed": plan.seed,
        "read": counts,
        "duplicates": sum(bucket["duplicates"] for bucket in buckets),
        "longest": max(bucket["longest"] for bucket in buckets),
        "splits": splits,
        "buckets": buckets,
        "arguments": arguments,
    }


def why_unusable(card: dict[str, Any]) -> str | None:
    """Returns why a dataset cannot be trained or evaluated on; None if it can."""
    for name in SPLITS:
        if not card["splits"][name]["documents"]:
            number = sum(split["documents"] for split in card["splits"].values())
            return (
                f"has no document for the {name} part, only {number} in all; add text, cut text "
                "files into smaller pieces (--piece-bytes), or change the held-out fraction"
            )
    tokens, length = card["splits"]["train"]["tokens"], card["sequence_length"]
    if tokens < length - 1:
        return f"has {tokens} training tokens, less than one row of {length}; use a shorter length"
    return None


def sealed(card: dict[str, Any], vocabulary: dict[str, Any]) -> dict[str, Any]:
    """Returns dataset.json with its digests, which are of the files that `write_json` writes.

    Args:
      card: what `describe` returned.
      vocabulary: the content of vocab.json.
    """
    digests = {CARD: _NO_DIGEST, VOCABULARY: _sha256(_text(vocabulary))}
    card = card | {DIGESTS: digests}
    return card | {DIGESTS: digests | {CARD: _sha256(_text(card))}}


def write_dataset(folder: pathlib.Path, tokenizer: Tokenizer, card: dict[str, Any]) -> None:
    """Writes the files beside the shards. dataset.json, which comes last, completes it."""
    vocabulary = tokenizer.to_dict()
    write_json(folder / VOCABULARY, vocabulary)
    write_json(folder / CARD, sealed(card, vocabulary))


def read_card(path: pathlib.Path) -> dict[str, Any]:
    """Returns a dataset.json in the current format.

    Raises:
      UserError: it is damaged, or of a newer format.
    """
    raw = path.read_bytes()
    try:
        card = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    card = upgrade(card, FORMAT, UPGRADES, path)
    if DIGESTS not in card:  # those of earlier versions
        if set(card) - {"sources"} != _KEYS:
            raise _damaged(path, f"it lacks {DIGESTS}, or other keys")
        note(
            f"{path} has no digests, so damage in it is not noticed; prepare the dataset with "
            "--overwrite to add them"
        )
        return card
    digests = card[DIGESTS]
    digest = digests.get(CARD) if isinstance(digests, dict) else None
    own = f'"{CARD}": "{digest}"'.encode()
    if digest != _sha256(raw.replace(own, f'"{CARD}": "{_NO_DIGEST}"'.encode(), 1)):
        raise _damaged(path, "its sha256 is not the one in it")
    return card


def _text(data: dict[str, Any]) -> bytes:
    """Returns the bytes that `write_json` writes."""
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _damaged(path: pathlib.Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}); prepare the dataset again (--overwrite)")
