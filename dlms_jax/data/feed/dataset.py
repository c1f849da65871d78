"""A corpus to train on: split, tokenized, packed, with its fingerprint.

A small corpus is tokenized and packed in memory at the start of a run; a prepared dataset is read
from its shards (store/). Both give the same `Split`.
"""

from collections.abc import Mapping
import hashlib
from typing import Any, NamedTuple, Protocol

import numpy as np

from dlms_jax.config import Config, DataConfig
from dlms_jax.data.checks import check_row
from dlms_jax.data.corpora.document import Document, is_heldout, sha256_of_texts, to_str
from dlms_jax.data.corpora.manifest import weights_of
from dlms_jax.data.corpora.options import ReadOptions
from dlms_jax.data.corpora.pieces import with_pieces
from dlms_jax.data.corpora.source import SYNTHETIC, find_sources, read_sorted
from dlms_jax.data.corpora.synthetic import SyntheticLanguage
from dlms_jax.data.feed.subset import FirstTokens, MixedRows, WeightedRows
from dlms_jax.data.packing import Rows, join, pack_texts
from dlms_jax.data.store.prepared import is_prepared, open_prepared
from dlms_jax.data.tokenizers import Tokenizer, make_tokenizer
from dlms_jax.errors import UserError

_LARGEST_IN_MEMORY = 1 << 29  # bytes of text; its rows take 13 times as much


class RowStore(Protocol):
    """Packed rows, in memory or on disk."""

    @property
    def number(self) -> int:
        """The number of rows."""

    @property
    def length(self) -> int:
        """The number of tokens in a row."""

    def take(self, indices) -> Rows:
        """Returns rows by index array or slice."""


class Split(NamedTuple):
    """Packed rows, and what they were made of.

    Attributes:
      name: the corpus, and which part of it.
      rows: the packed rows.
      fingerprint: "sha256" of the texts in order, "documents", "bytes" and "tokens" (the scored
        ones). A split that is cut to its first tokens has no "documents" and "bytes". Text of
        several weights also has "weights". The synthetic language also has "best_bits_per_byte",
        which no model can beat, and "best_bits_per_byte_given_length", for a model that sees where
        documents end, as denoisers do.
    """

    name: str
    rows: RowStore
    fingerprint: dict[str, Any]


class Dataset(NamedTuple):
    """What a run trains and is evaluated on.

    Attributes:
      tokenizer: the tokenizer of all splits.
      train: a split for each corpus of the mixture.
      weights: rows are taken from the corpora in these proportions.
      heldout: the held-out rows of all corpora.
      chat_template: the Jinja template of the dialogues; "" if there are none.
    """

    tokenizer: Tokenizer
    train: list[Split]
    weights: list[float]
    heldout: Split
    chat_template: str = ""


def build_dataset(config: Config, tokenizer: Tokenizer | None = None) -> Dataset:
    """Returns the training and held-out splits of a config's corpus, or mixture of corpora.

    Args:
      config: names the corpora and how they are packed.
      tokenizer: None: that of the prepared datasets, else the config's, which is trained on the
        training documents only.

    Raises:
      UserError: a corpus cannot be read, or was prepared with other settings.
    """
    data = config.data
    mixture = data.mixture or {data.corpus: 1.0}
    prepared = {corpus: open_prepared(corpus) for corpus in mixture if is_prepared(corpus)}
    in_memory = {corpus: _documents(corpus, data) for corpus in mixture if corpus not in prepared}
    for dataset in prepared.values():
        dataset.check_config(config, tokenizer)
        tokenizer = tokenizer or dataset.tokenizer
    if tokenizer is None:
        texts = (to_str(document.text) for train, _ in in_memory.values() for document in train)
        tokenizer = make_tokenizer(config.tokenizer, texts)

    train, heldout = [], []
    for corpus in mixture:
        if corpus in prepared:
            fingerprints = prepared[corpus].fingerprints()
            parts = [
                Split(f"{corpus}, {part}", prepared[corpus].rows(name), fingerprints[name])
                for name, part in _PART.items()
            ]
        else:
            file_weights = (weights_of(corpus), None)  # held-out text is seen once
            parts = [
                make_split(f"{corpus}, {part}", documents, tokenizer, data, seen)
                for part, documents, seen in zip(
                    _PART.values(), in_memory[corpus], file_weights, strict=True
                )
            ]
        if corpus == SYNTHETIC:
            parts[1].fingerprint.update(_best_possible(in_memory[corpus][1], data.seed))
        train.append(_first_tokens(corpus, parts[0], data.max_unique_tokens, tokenizer.pad_id))
        heldout.append(parts[1])
    weights = list(mixture.values())
    templates = [dataset.chat_template for dataset in prepared.values() if dataset.chat_template]
    template = templates[0] if templates else ""
    return Dataset(tokenizer, train, weights, _mix(heldout, weights), template)


_PART = {"train": "training part", "heldout": "held-out part"}


def load_split(corpus: str, tokenizer: Tokenizer, data: DataConfig) -> Split:
    """Returns a whole corpus, or the held-out part of a prepared dataset."""
    if is_prepared(corpus):
        prepared = open_prepared(corpus)
        prepared.check_tokenizer(tokenizer)
        fingerprint = prepared.fingerprints()["heldout"]
        return Split(f"{corpus}, held-out part", prepared.rows("heldout"), fingerprint)
    documents = _read(corpus, data)
    split = make_split(corpus, documents, tokenizer, data)
    if corpus == SYNTHETIC:
        split.fingerprint.update(_best_possible(documents, data.seed))
    return split


def make_split(
    name: str,
    documents: list[Document],
    tokenizer: Tokenizer,
    data: DataConfig,
    weights: Mapping[str, float] | None = None,
) -> Split:
    """Returns documents packed in rows in memory, with their fingerprint.

    Args:
      name: the corpus, and which part of it.
      documents: its documents, in order.
      tokenizer: the tokenizer of the rows.
      data: how they are packed.
      weights: how often each file's documents are seen (manifest.weights_of); None or {}: once.
    """
    length = data.sequence_length
    check_row(length)
    by_weight: dict[float, list[bytes]] = {} if weights or documents else {1.0: []}
    for document in documents:
        weight = weights[document.name.rpartition("#")[0]] if weights else 1.0
        by_weight.setdefault(weight, []).append(document.text)
    groups = sorted(by_weight.items())
    packed = [
        join(pack_texts(texts, length, data.packing, tokenizer), length) for _, texts in groups
    ]
    texts = [document.text for document in documents]
    fingerprint = {
        "sha256": sha256_of_texts(texts),
        "documents": len(texts),
        "bytes": sum(map(len, texts)),
        "tokens": sum(int(rows.loss_mask_RxL.sum()) for rows in packed),
    }
    if len(groups) == 1:
        return Split(name, packed[0], fingerprint)
    counted = ", ".join(f"{len(group)} of weight {weight:g}" for weight, group in groups)
    rows = WeightedRows(packed, [weight for weight, _ in groups])
    return Split(name, rows, fingerprint | {"tokens": rows.tokens, "weights": counted})


def _documents(corpus, data) -> tuple[list[Document], list[Document]]:
    """Returns (train, held-out) documents of a corpus that is not prepared."""
    sides: tuple[list[Document], list[Document]] = [], []
    for document in _read(corpus, data, split=True):
        sides[is_heldout(document.text, data.heldout_fraction)].append(document)
    train, heldout = sides
    if not train or not heldout:
        raise UserError(
            f"the corpus {corpus} splits into {len(train)} training and {len(heldout)} held-out "
            "documents; it needs one of each: add text, or change config.data.heldout_fraction"
        )
    return train, heldout


def _read(corpus, data, split=False):
    """Returns the documents of a corpus; split: whether some of them are to be held out."""
    sources = find_sources(
        corpus, data.seed, data.synthetic_documents, data.tfds_directory
    )  # fmt: skip
    if (size := sum(source.size for source in sources)) > _LARGEST_IN_MEMORY:
        raise UserError(
            f"the corpus {corpus} has {size / 2**30:.1f} GiB, too much to pack in memory: run "
            f"python -m dlms_jax.prepare dataset {corpus} --out DIR, and give DIR as the corpus"
        )
    options = ReadOptions(data.text_field, data.invalid_utf8)
    if split:
        options = with_pieces(options, sources, data.heldout_fraction)
    documents = read_sorted(sources, options, data.seed)
    if not documents:
        raise UserError(f"the corpus {corpus} holds no text")
    return documents


def _best_possible(documents: list[Document], seed: int) -> dict[str, float]:
    """Returns the synthetic language's own bits per byte on its documents, by fingerprint key."""
    language = SyntheticLanguage(seed)
    size = sum(len(document.text) for document in documents)
    nats = -sum(float(language.log_probs(document.text).sum()) for document in documents)
    known = language.length_entropy * len(documents)
    bits = 1 / (np.log(2) * size)
    return {
        "best_bits_per_byte": float(nats * bits),
        "best_bits_per_byte_given_length": float((nats - known) * bits),
    }


def _first_tokens(corpus, split: Split, tokens: int, pad_id: int) -> Split:
    if not tokens:
        return split
    if "weights" in split.fingerprint:
        raise UserError(
            f"config.data.max_unique_tokens={tokens} needs text without weights, which {corpus} has"
        )
    available = split.fingerprint["tokens"]
    if tokens > available:
        raise UserError(
            f"config.data.max_unique_tokens={tokens}, but the training part of {corpus} has "
            f"{available} tokens"
        )
    fingerprint = {"sha256": split.fingerprint["sha256"], "tokens": tokens}
    rows = FirstTokens(split.rows, tokens, pad_id)
    return Split(f"{split.name}, first tokens", rows, fingerprint)


def _mix(splits: list[Split], weights: list[float]) -> Split:
    if len(splits) == 1:
        return splits[0]
    fingerprints = [split.fingerprint for split in splits]
    joint = "".join(str(f["sha256"]) for f in fingerprints)
    total = {key: sum(f[key] for f in fingerprints) for key in ("documents", "bytes", "tokens")}
    return Split(
        "mixture, held-out parts",
        MixedRows([split.rows for split in splits], weights),
        {"sha256": hashlib.sha256(joint.encode()).hexdigest()} | total,
    )
