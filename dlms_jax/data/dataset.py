"""A corpus made ready: split, tokenized, packed, fingerprinted."""

import hashlib
from typing import NamedTuple

import numpy as np

from dlms_jax.config import Config
from dlms_jax.data.corpora import Document, load_corpus, split_corpus
from dlms_jax.data.packing import Rows, pack
from dlms_jax.data.tokenizers import Tokenizer, make_tokenizer
from dlms_jax.errors import UserError


class Split(NamedTuple):
    """Packed rows and what they were made of.

    name: the corpus, and which part of it.
    fingerprint: {"sha256" of the texts in order, "documents", "bytes", "tokens" (those scored)}.
    """

    name: str
    rows: Rows
    fingerprint: dict[str, str | int]


class Dataset(NamedTuple):
    tokenizer: Tokenizer
    train: Split
    heldout: Split


def build_dataset(config: Config, tokenizer: Tokenizer | None = None) -> Dataset:
    """Returns the train and held-out splits of a config's corpus.

    The tokenizer is made, and trained on the training documents alone, unless one is given.
    """
    corpus = config.data.corpus
    train, heldout = split_corpus(load_corpus(corpus), config.data.heldout_fraction)
    if not train or not heldout:
        raise UserError(
            f"the corpus {corpus} splits into {len(train)} training and {len(heldout)} held-out "
            "documents; it needs one of each: add text, or change config.data.heldout_fraction"
        )
    if tokenizer is None:
        tokenizer = make_tokenizer(config.tokenizer, (d.text for d in train))
    length = config.data.sequence_length
    return Dataset(
        tokenizer,
        make_split(f"{corpus}, training part", train, tokenizer, length),
        make_split(f"{corpus}, held-out part", heldout, tokenizer, length),
    )


def make_split(name: str, documents: list[Document], tokenizer: Tokenizer, length: int) -> Split:
    """Returns documents packed in rows of `length`, with their fingerprint."""
    digest, size = hashlib.sha256(), 0
    for document in documents:
        text = document.text.encode("utf-8", "surrogateescape")
        digest.update(len(text).to_bytes(8, "big") + text)
        size += len(text)
    rows = pack(
        (tokenizer.encode(d.text) for d in documents),
        length, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id,
    )  # fmt: skip
    return Split(name, rows, {
        "sha256": digest.hexdigest(),
        "documents": len(documents),
        "bytes": size,
        "tokens": int(rows.scored_RxL.sum()),
    })  # fmt: skip


def unigram_entropy(rows: Rows) -> float:
    """Returns the entropy, in nats, of the scored tokens' own frequencies: what a model that knows
    nothing but how frequent each symbol is would need for each token, at best."""
    counts = np.bincount(rows.tokens_RxL[rows.scored_RxL])
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())
