"""A prepared dataset on disk: a folder with shards, the tokenizer, and dataset.json.

dataset.json is written last, so a folder that has one is complete.
"""

import json
import pathlib
from typing import Any

from dlms_jax.config import Config, TokenizerConfig
from dlms_jax.data import tokenizers
from dlms_jax.data.store.card import CARD, DIGESTS, SPLITS, VOCABULARY, read_card
from dlms_jax.data.store.shards import Shard, ShardRows, check_shard, token_type
from dlms_jax.data.tokenizers import Tokenizer, make_tokenizer
from dlms_jax.errors import UserError
from dlms_jax.files import sha256_of

BUILDING = ".building"  # the folder of what is not finished
_CHECKED_AT_START = 4 << 30  # bytes: checksums of larger datasets are left to `prepare verify`


def is_prepared(corpus: str) -> bool:
    """Returns whether a path is a prepared dataset, or one whose preparation was interrupted."""
    path = pathlib.Path(corpus)
    return bool(corpus) and ((path / CARD).is_file() or (path / BUILDING).is_dir())


def open_prepared(folder: str | pathlib.Path, check_contents: bool = True) -> "Prepared":
    """Returns a prepared dataset whose shards are all there, with their sizes.

    Args:
      folder: the folder of the dataset.
      check_contents: whether checksums are compared too, if the dataset has at most 4 GiB.

    Raises:
      UserError: it is not finished, damaged or cut off; the message names the file.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder is named {str(folder)!r}")
    if not (folder / CARD).is_file():
        raise UserError(
            f"{folder} is not a finished dataset (it has no {CARD}); run its prepare command "
            "again: it continues where it stopped"
        )
    dataset = Prepared(folder, read_card(folder / CARD))
    dataset.check_shards(check_contents and dataset.size <= _CHECKED_AT_START)
    return dataset


class Prepared:
    """A prepared dataset: dataset.json (`card`), the tokenizer, and the rows.

    Attributes:
      shards: the shards of each split, by its name.
    """

    def __init__(self, folder: pathlib.Path, card: dict[str, Any]):
        """card: what `read_card` returned."""
        self.folder, self.card = folder, card
        try:
            self.shards = {
                name: [Shard(**bucket[name]["shard"]) for bucket in card["buckets"]]
                for name in SPLITS
            }
            self.fingerprints()
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{folder / CARD} is damaged ({error}); prepare the dataset again"
            ) from None
        try:
            if DIGESTS in card and card[DIGESTS][VOCABULARY] != sha256_of(folder / VOCABULARY):
                raise ValueError("it is damaged: its sha256 is not the one in dataset.json")
            saved = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
            self.tokenizer = tokenizers.from_dict(saved)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder / VOCABULARY} cannot be read ({error}); prepare the dataset again"
            ) from None
        if tokenizers.fingerprint(self.tokenizer) != card["tokenizer"]:
            raise UserError(f"{folder / VOCABULARY} is not the tokenizer of {folder / CARD}")

    @property
    def all_shards(self) -> list[Shard]:
        """Returns the shards of all splits."""
        return [shard for shards in self.shards.values() for shard in shards]

    @property
    def size(self) -> int:
        """Returns the bytes of all shards."""
        return sum(shard.size for shard in self.all_shards)

    @property
    def chat_template(self) -> str:
        """Returns the Jinja template of the dialogues; "" if the dataset has none."""
        return self.card["arguments"].get("chat", {}).get("template", "")

    def rows(self, split: str) -> ShardRows:
        """Returns the rows of "train" or "heldout"."""
        return ShardRows(
            self.folder,
            self.shards[split],
            self.card["sequence_length"],
            self.tokenizer.pad_id,
            token_type(self.tokenizer.size),
        )

    def fingerprints(self) -> dict[str, dict[str, Any]]:
        """Returns {"train": fingerprint, "heldout": fingerprint}; see dataset.Split."""
        return {
            name: {key: value for key, value in split.items() if key != "rows"}
            for name, split in self.card["splits"].items()
        }

    def check_shards(self, contents: bool):
        """Raises UserError if a shard is missing, cut off or, with `contents`, changed."""
        for shard in self.all_shards:
            check_shard(self.folder, shard, contents)

    def check_tokenizer(self, tokenizer: Tokenizer):
        """Raises UserError unless the dataset was made with this tokenizer."""
        was, now = self.card["tokenizer"], tokenizers.fingerprint(tokenizer)
        if was != now:
            raise UserError(
                f"{self.folder} was prepared with another tokenizer (fingerprint {was[:12]}, not "
                f"{now[:12]}); prepare the text again with --tokenizer-from the model's run"
            )

    def check_config(self, config: Config, tokenizer: Tokenizer | None):
        """Raises UserError if a run's settings are not those of the preparation.

        Args:
          config: the config of the run.
          tokenizer: the tokenizer of the run; None: the config's settings are compared.
        """
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
                "config.data.max_unique_tokens needs config.data.packing=concat, because rows of "
                f"best-fit are not in document order; prepare {self.folder} again"
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
                f"{self.folder} was prepared with a vocabulary of {self.tokenizer.size} tokens, "
                f"config.tokenizer.vocab_size is {config.vocab_size}; use "
                f"--config.tokenizer.vocab_size={self.tokenizer.size}"
            )
