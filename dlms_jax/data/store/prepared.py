"""A prepared dataset on disk: a folder with shards, the tokenizer, and dataset.json.

dataset.json is written last, so a folder that has one is whole.
"""

import hashlib
import json
import pathlib
from typing import Any, Literal

import numpy as np

from dlms_jax import __version__
from dlms_jax.config import Config, TokenizerConfig
from dlms_jax.data import tokenizers
from dlms_jax.data.build.bucket import SPLITS, Layout, Part
from dlms_jax.data.store.shards import Shard, ShardRows, check_shard, token_type
from dlms_jax.data.tokenizers import Tokenizer, make_tokenizer
from dlms_jax.errors import UserError
from dlms_jax.files import write_json

CARD = "dataset.json"
VOCABULARY = "vocab.json"  # the tokenizer, whole
BUILDING = ".building"  # what is not finished
FORMAT = 1
_CHECKED_AT_START = 4 << 30  # bytes: beyond, checksums are for `prepare verify`


def describe(
    buckets: list[dict[str, Any]], layout: Layout, tokenizer: Tokenizer, counts: dict[str, int],
    arguments: dict[str, Any], kind: Literal["text", "dialogues"] = "text",
) -> dict[str, Any]:  # fmt: skip
    """Returns dataset.json of finished buckets, in order."""
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
    return {
        "format": FORMAT,
        "kind": kind,
        "version": __version__,
        "tokenizer": tokenizers.fingerprint(tokenizer),
        "token_type": token_type(tokenizer.size).name,
        "sequence_length": layout.sequence_length,
        "packing": layout.packing,
        "heldout_fraction": layout.heldout_fraction,
        "seed": layout.seed,
        "read": counts,
        "duplicates": sum(bucket["duplicates"] for bucket in buckets),
        "longest": max(bucket["longest"] for bucket in buckets),
        "splits": splits,
        "buckets": buckets,
        "arguments": arguments,
    }


def why_useless(card: dict[str, Any]) -> str | None:
    """Returns why nothing can be trained or evaluated on a dataset; None where it can."""
    for name in SPLITS:
        if not card["splits"][name]["documents"]:
            there = sum(split["documents"] for split in card["splits"].values())
            return (
                f"has no document for the {name} part, of {there}; add text, cut text files into "
                "smaller pieces (--piece-bytes), or change the held-out fraction"
            )
    tokens, length = card["splits"]["train"]["tokens"], card["sequence_length"]
    if tokens < length - 1:
        return f"has {tokens} training tokens, not one row of {length}; use a shorter length"
    return None


def write_dataset(folder: pathlib.Path, tokenizer: Tokenizer, card: dict[str, Any]):
    """Writes what stands beside the shards; with dataset.json, which comes last, it is whole."""
    write_json(folder / VOCABULARY, tokenizer.to_dict())
    write_json(folder / CARD, card)


def is_prepared(corpus: str) -> bool:
    """Returns whether a path is a prepared dataset, or one whose preparation broke off."""
    path = pathlib.Path(corpus)
    return bool(corpus) and ((path / CARD).is_file() or (path / BUILDING).is_dir())


def open_prepared(folder: str | pathlib.Path, check_contents: bool = True) -> "Prepared":
    """Returns a prepared dataset whose shards are all there, with their sizes.

    check_contents: whether checksums are compared too, where that takes seconds (up to 4 GiB).

    Raises UserError, which names the file, for one that is unfinished, damaged or cut short.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder is named {str(folder)!r}")
    if not (folder / CARD).is_file():
        raise UserError(
            f"{folder} is not a finished dataset (it has no {CARD}); run its prepare command "
            "again, which goes on where it stopped"
        )
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        dataset = Prepared(folder, card)
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folder / CARD} is damaged ({error}); prepare the dataset again"
        ) from None
    dataset.check_shards(check_contents and dataset.size <= _CHECKED_AT_START)
    return dataset


class Prepared:
    """What dataset.json says, and the rows behind it."""

    def __init__(self, folder: pathlib.Path, card: dict[str, Any]):
        if card["format"] != FORMAT:
            raise UserError(
                f"{folder} has format {card['format']}, this version reads {FORMAT}; prepare it "
                "again"
            )
        self.folder, self.card = folder, card
        self.shards = {
            name: [Shard(**bucket[name]["shard"]) for bucket in card["buckets"]]
            for name in card["splits"]
        }
        try:
            saved = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
            self.tokenizer = tokenizers.from_dict(saved)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder / VOCABULARY} cannot be read ({error}); prepare the dataset again"
            ) from None
        if tokenizers.fingerprint(self.tokenizer) != card["tokenizer"]:
            raise UserError(f"{folder / VOCABULARY} is not the tokenizer of {folder / CARD}")

    @property
    def size(self) -> int:
        """Bytes of all shards."""
        return sum(shard.size for shards in self.shards.values() for shard in shards)

    @property
    def chat_template(self) -> str:
        """The Jinja by which dialogues became text; "" of a dataset that has none."""
        return self.card["arguments"].get("chat", {}).get("template", "")

    def rows(self, split: str) -> ShardRows:
        """Returns the rows of "train" or "heldout"."""
        return ShardRows(
            self.folder, self.shards[split], self.card["sequence_length"], self.tokenizer.pad_id,
            np.dtype(self.card["token_type"]),
        )  # fmt: skip

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Returns {"train": fingerprint, "heldout": fingerprint}; see dataset.Split."""
        return {
            name: {key: value for key, value in split.items() if key != "rows"}
            for name, split in self.card["splits"].items()
        }

    def check_shards(self, contents: bool, advance=id):
        """Raises UserError, which names the shard, where one is missing, cut short or, with
        `contents`, changed. advance: told the bytes of each shard that was found good."""
        for shards in self.shards.values():
            for shard in shards:
                check_shard(self.folder, shard, contents)
                advance(shard.size)

    def check_tokenizer(self, tokenizer: Tokenizer):
        """Raises UserError unless the dataset was made with this tokenizer."""
        was, now = self.card["tokenizer"], tokenizers.fingerprint(tokenizer)
        if was != now:
            raise UserError(
                f"{self.folder} was prepared with another tokenizer (fingerprint {was[:12]}, not "
                f"{now[:12]}); prepare the text again with --tokenizer-from the model's run"
            )

    def check_config(self, config: Config, tokenizer: Tokenizer | None):
        """Raises UserError where a run's settings are not those of the preparation."""
        data = config.data
        fixed = ("sequence_length", "packing", "heldout_fraction", "seed")
        for key in fixed[:1] if self.card["kind"] == "dialogues" else fixed:
            was, now = self.card[key], getattr(data, key)
            if was != now:
                raise UserError(
                    f"{self.folder} was prepared with {key} {was}, config.data.{key} is {now}; "
                    f"use --config.data.{key}={was}, or prepare it again (minutes a gigabyte)"
                )
        if data.max_unique_tokens and self.card["packing"] != "concat":
            raise UserError(
                "config.data.max_unique_tokens needs config.data.packing=concat: rows of best-fit "
                f"are not in document order; prepare {self.folder} again"
            )
        if tokenizer is not None:
            self.check_tokenizer(tokenizer)
        else:
            self._check_tokenizer_config(config.tokenizer)

    def _check_tokenizer_config(self, config: TokenizerConfig):
        mine = self.tokenizer.to_dict()["name"]
        if config.name != mine and (config.name, mine) != ("hf", "bpe"):
            raise UserError(
                f"{self.folder} was prepared with the tokenizer {mine}, config.tokenizer.name is "
                f"{config.name}; use --config.tokenizer.name={mine}"
            )
        named = {getattr(config, f"{role}_token") for role in tokenizers.ROLES} - {""}
        if missing := sorted({*named, *config.special_tokens} - set(self.tokenizer.special_ids)):
            raise UserError(
                f"{self.folder} was prepared without the special token {missing[0]!r} of "
                "config.tokenizer; leave it out, or prepare the text again with it"
            )
        if config.path:
            self.check_tokenizer(make_tokenizer(config, ()))
        elif config.name in ("bpe", "sentencepiece") and config.vocab_size != self.tokenizer.size:
            raise UserError(
                f"{self.folder} was prepared with {self.tokenizer.size} symbols, "
                f"config.tokenizer.vocab_size is {config.vocab_size}; use "
                f"--config.tokenizer.vocab_size={self.tokenizer.size}"
            )
