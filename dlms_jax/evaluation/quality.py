"""Metrics of samples, which are compared with those of the same amount of held-out text.

A sample is a byte string and a flag that says whether it ended. Metrics of tokens tokenize these
bytes again. So models with different tokenizers are comparable, and a word counts as that word
however a model spelled it. No metric is enough by itself. A model that repeats one probable
sentence has a low loss under any model, but also a low entropy. A model that draws tokens by
frequency has a high entropy, but writes no words.
"""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from dlms_jax.data.feed.dataset import RowStore
from dlms_jax.data.packing import Rows, empty_rows
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError
from dlms_jax.evaluation.bound import BoundEvaluator, BoundReport, unigram_entropy


class Sample(NamedTuple):
    """A sample or a piece of text; `ended`: whether EOS follows it."""

    text: bytes
    ended: bool


@dataclasses.dataclass(frozen=True)
class Quality:
    """Metrics of samples.

    tokens, entropy and repetition are means over samples; the others are over all samples together.

    Attributes:
      tokens: length of a sample in tokens.
      entropy: of a sample's own token frequencies, in nats per token.
      repetition: share of a sample's most frequent token.
      distinct_1, distinct_2, distinct_3: distinct n-grams of tokens, as a share of all n-grams
        (arXiv 1510.03055). More text has a lower share.
      unigram_agreement, bigram_agreement: 1 minus the total variation between the frequencies of
        bytes, or of pairs of bytes, and those of held-out text.
      known_words: share of words, split at white space, that occur in the training text.
    """

    tokens: float
    entropy: float
    repetition: float
    distinct_1: float
    distinct_2: float
    distinct_3: float
    unigram_agreement: float
    bigram_agreement: float
    known_words: float


class SampleMetrics:
    """Computes the metrics of samples, relative to held-out text and the words of training text."""

    def __init__(self, tokenizer: Tokenizer, heldout: Sequence[bytes], training: Iterable[bytes]):
        self._tokenizer = tokenizer
        self._heldout = {n: byte_ngrams(heldout, n) for n in (1, 2)}
        self._words = frozenset(word for text in training for word in text.split())

    def __call__(self, samples: Sequence[Sample]) -> Quality:
        """Returns the Quality of one or more samples."""
        tokens = [tokens_of(sample, self._tokenizer) for sample in samples]
        counts = [np.unique(ids, return_counts=True)[1] for ids in tokens if len(ids)]
        agreement = {
            n: overlap(byte_ngrams([p.text for p in samples], n), held)
            for n, held in self._heldout.items()
        }
        return Quality(
            tokens=float(np.mean([len(ids) for ids in tokens])),
            entropy=sum(map(unigram_entropy, counts)) / len(samples),
            repetition=sum(float(c.max() / c.sum()) for c in counts) / max(len(counts), 1),
            distinct_1=distinct(tokens, 1),
            distinct_2=distinct(tokens, 2),
            distinct_3=distinct(tokens, 3),
            unigram_agreement=agreement[1],
            bigram_agreement=agreement[2],
            known_words=known_words(samples, self._words),
        )


class GenerativePerplexity:
    """The loss of samples under an autoregressive model: its exact -log p.

    All calls share one compiled program. Probable text has a low loss, but is not always good text,
    so read the loss together with the entropy.
    """

    def __init__(self, model):
        """Makes the metric from a DiffusionLM.

        Raises:
          UserError: the model's likelihood is not exact.
        """
        if not model.objective.traits.exact:
            raise UserError(
                f"a {model.config.objective.name} model gives a bound, not a likelihood; use an "
                "autoregressive model to score samples"
            )
        self._params, self._tokenizer = model.params, model.tokenizer
        self._length = model.config.data.sequence_length
        self._evaluate = BoundEvaluator(
            model.config, model.network, model.objective, model.tokenizer, model.mesh
        )

    def __call__(self, samples: Sequence[Sample]) -> BoundReport:
        """Returns the report on samples, each in its own row after BOS.

        Text beyond the model's context is cut off. EOS is scored if a sample ended.
        """
        return self._evaluate(self._params, rows_of(samples, self._tokenizer, self._length))


def tokens_of(sample: Sample, tokenizer: Tokenizer) -> np.ndarray:
    """Returns the token ids of a sample, with a final EOS if it ended."""
    ids = tokenizer.encode(sample.text.decode("utf-8", "surrogateescape"))
    return np.append(ids, tokenizer.eos_id).astype(np.int32) if sample.ended else ids


def rows_of(samples: Sequence[Sample], tokenizer: Tokenizer, length: int) -> Rows:
    """Returns a row of `length` tokens per sample: BOS, then its tokens, cut to the length."""
    rows = empty_rows(len(samples), length, tokenizer.pad_id)
    for r, sample in enumerate(samples):
        ids = np.append(tokenizer.bos_id, tokens_of(sample, tokenizer))[:length]
        rows.tokens_RxL[r, : len(ids)] = ids
        rows.segments_RxL[r, : len(ids)] = 1
        rows.positions_RxL[r, : len(ids)] = np.arange(len(ids))
        rows.loss_mask_RxL[r, 1 : len(ids)] = True
    return rows


def sample_of(ids: np.ndarray, tokenizer: Tokenizer) -> Sample:
    """Returns the text of token ids, up to the first EOS."""
    (ends,) = np.nonzero(np.asarray(ids) == tokenizer.eos_id)
    return Sample(tokenizer.decode_bytes(ids[: ends[0]] if len(ends) else ids), len(ends) > 0)


def samples_of(canvas, tokenizer: Tokenizer) -> list[Sample]:
    """Returns the text in the holes of each row of a filled sampling.Canvas."""
    return [
        sample_of(tokens_L[holes_L], tokenizer)
        for tokens_L, holes_L in zip(canvas.tokens_BxL, canvas.holes_BxL, strict=True)
    ]


def heldout_samples(
    rows: RowStore, number: int, length: int, tokenizer: Tokenizer
) -> tuple[list[Sample], Rows]:
    """Returns (samples of held-out text, the other rows, to compare them with).

    Args:
      rows: held-out rows.
      number: the largest number of samples; at most half of the rows are used, spread evenly.
      length: the largest number of tokens per sample, from the first document of its row.
      tokenizer: decodes the rows.

    Raises:
      UserError: there is only one row.
    """
    if rows.number < 2:
        raise UserError(
            "the held-out text has one row, but samples and their comparison need two; add text or "
            "raise config.data.heldout_fraction"
        )
    chosen = np.linspace(0, rows.number, min(number, rows.number // 2), endpoint=False).astype(int)
    taken = rows.take(chosen)
    samples = [
        sample_of(tokens_L[loss_mask_L][:length], tokenizer)
        for tokens_L, loss_mask_L in zip(taken.tokens_RxL, taken.loss_mask_RxL, strict=True)
    ]
    return samples, rows.take(np.setdiff1d(np.arange(rows.number), chosen))


def unigram_samples(rows: Rows, number: int, length: int, tokenizer: Tokenizer) -> list[Sample]:
    """Returns texts of tokens drawn independently by their frequency in rows.

    A model that has learned only these frequencies writes such texts.

    Args:
      rows: training rows.
      number: the number of texts.
      length: tokens per text, before the cut at EOS.
      tokenizer: decodes the tokens.
    """
    ids = rows.tokens_RxL[rows.loss_mask_RxL]
    drawn = np.random.default_rng(0).choice(ids, (number, length))
    return [sample_of(ids_L, tokenizer) for ids_L in drawn]


def texts_of(rows: Rows, tokenizer: Tokenizer) -> list[bytes]:
    """Returns the texts of packed rows in order, joining documents that span consecutive rows."""
    ids = rows.tokens_RxL[rows.loss_mask_RxL]
    ends = np.flatnonzero(ids == tokenizer.eos_id)
    return [tokenizer.decode_bytes(part) for part in np.split(ids, ends)]


def distinct(tokens: Sequence[np.ndarray], n: int) -> float:
    """Returns distinct n-grams as a share of all n-grams of the samples; 0 without n-grams."""
    grams = [tuple(ids[i : i + n].tolist()) for ids in tokens for i in range(len(ids) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def byte_ngrams(texts: Iterable[bytes], n: int) -> np.ndarray:
    """Returns the counts of all 256^n strings of n bytes in texts."""
    counts = np.zeros(256**n, np.int64)
    for text in texts:
        codes = np.frombuffer(text, np.uint8).astype(np.int64)
        number = max(len(codes) - n + 1, 0)
        index = np.zeros(number, np.int64)
        for i in range(n):
            index = 256 * index + codes[i : i + number]
        counts += np.bincount(index, minlength=256**n)
    return counts


def overlap(counts: np.ndarray, others: np.ndarray) -> float:
    """Returns 1 minus the total variation between two counts' distributions; 0 if one is empty."""
    if not counts.sum() or not others.sum():
        return 0.0
    return float(np.minimum(counts / counts.sum(), others / others.sum()).sum())


def known_words(samples: Sequence[Sample], words: frozenset[bytes]) -> float:
    """Returns the share of the samples' words that are in `words`; 0 without words.

    The first and last word of each sample do not count, because they may be cut.
    """
    found = [word in words for sample in samples for word in sample.text.split()[1:-1]]
    return sum(found) / max(len(found), 1)
