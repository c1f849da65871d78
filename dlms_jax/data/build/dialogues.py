"""Fine-tuning data -> a prepared dataset: the examples of chat/, split and written in shards."""

import dataclasses
import pathlib
from typing import Any, Literal

from dlms_jax.data.chat import (
    ChatOptions,
    Example,
    check_fit,
    keep_fitting,
    pack_examples,
    pad_examples,
    read_examples,
)
from dlms_jax.data.checks import check_fields, check_row
from dlms_jax.data.corpora.document import is_heldout, order_key, sha256_of_texts
from dlms_jax.data.store.card import SPLITS, Part, ShardPlan, describe, write_dataset
from dlms_jax.data.store.prepared import Prepared, open_prepared
from dlms_jax.data.store.shards import token_type, write_shard
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DialogueOptions:
    """How examples become rows. Raises UserError for impossible values.

    Attributes:
      sequence_length: tokens in a row.
      prompt_length: if it is not 0, a row holds one example, whose prompt is padded on the left to
        this length. 0: a row holds several whole examples.
      eos: what follows the answer in rows of one example, see chat.pad_examples.
      too_long: what happens to an example longer than a row.
      heldout_fraction: the share of examples that is held out.
      seed: the seed of the order of examples.
    """

    sequence_length: int
    prompt_length: int = 0
    eos: Literal["once", "fill"] = "once"
    too_long: Literal["error", "skip"] = "error"
    heldout_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self):
        names = ("sequence_length", "heldout_fraction", "seed")
        check_fields(self, {name: f"data.{name}" for name in names}, {"prompt_length": 0})
        check_row(self.sequence_length)
        if self.prompt_length >= self.sequence_length:
            raise UserError(
                f"prompt_length={self.prompt_length} leaves no room for an answer in rows of "
                f"{self.sequence_length}; use a smaller one"
            )
        for name, choices in (("eos", ("once", "fill")), ("too_long", ("error", "skip"))):
            if getattr(self, name) not in choices:
                raise UserError(
                    f"{name}={getattr(self, name)!r} should be one of {', '.join(choices)}"
                )


def prepare_dialogues(
    paths: list[str],
    folder: pathlib.Path,
    tokenizer: Tokenizer,
    chat: ChatOptions,
    options: DialogueOptions,
) -> tuple[Prepared, int]:
    """Writes a dataset of dialogues; returns it, and how many examples were too long.

    The examples are held in memory, since fine-tuning sets are small. Exact duplicates are dropped.
    Order and split are those of a hash of each example's tokens.

    Args:
      paths: files of JSON lines.
      folder: where the dataset is written.
      tokenizer: the tokenizer of the model that is fine-tuned.
      chat: how a record becomes an example.
      options: how examples become rows.

    Raises:
      UserError: the folder is not empty, or a record gives no example.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty: remove it, or use another --out")
    room, left_out = (options.sequence_length, options.prompt_length or None), 0
    if options.too_long == "skip":
        found = read_examples(paths, tokenizer, chat)
        examples, left_out = keep_fitting(found, *room)
    else:
        examples = list(read_examples(paths, tokenizer, chat, lambda e: check_fit(e, *room)))
    keyed = {order_key(e.tokens.tobytes(), options.seed): e for e in examples}
    examples_in_order = [keyed[key] for key in sorted(keyed)]
    sides: dict[str, list[Example]] = {split: [] for split in SPLITS}
    for example in examples_in_order:
        heldout = is_heldout(example.tokens.tobytes(), options.heldout_fraction)
        sides[SPLITS[heldout]].append(example)
    for split, side in sides.items():
        if not side:
            raise UserError(
                f"none of {len(keyed)} examples is in the {split} part; add some, or change the "
                "held-out fraction"
            )
    rows = {split: _rows(side, tokenizer, options) for split, side in sides.items()}
    folder.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = {
        "duplicates": len(examples) - len(keyed),
        "longest": max(len(e.tokens) for e in examples),
    }
    for split, side in sides.items():
        path = folder / f"{split}-00000-of-00001.array_record"
        shard = write_shard(path, [rows[split]], token_type(tokenizer.size))
        size = sum(len(tokenizer.decode_bytes(e.tokens)) for e in side)
        digest = sha256_of_texts(e.tokens.tobytes() for e in side)
        described[split] = Part(shard, len(side), size, digest).to_dict()
    plan = ShardPlan(1, options.sequence_length, "best-fit", options.heldout_fraction, options.seed)
    arguments = {
        "path": [str(path) for path in paths],
        "chat": dataclasses.asdict(chat),
        "dialogues": dataclasses.asdict(options),
    }
    counts = {"documents": len(examples), "left_out": left_out}
    card = describe([described], plan, tokenizer, counts, arguments, "dialogues")
    write_dataset(folder, tokenizer, card)
    return open_prepared(folder), left_out


def _rows(examples, tokenizer, options):
    if not options.prompt_length:
        return pack_examples(examples, options.sequence_length, tokenizer.pad_id)
    return pad_examples(
        examples,
        options.sequence_length,
        options.prompt_length,
        tokenizer.pad_id,
        tokenizer.eos_id,
        options.eos,
    )
