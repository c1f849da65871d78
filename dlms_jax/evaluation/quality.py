"""The quality of samples beside held-out text of the same amount: what a bound does not show.

A sample is bytes, and whether it ended. What counts tokens cuts those bytes anew, so that models
with other tokenizers compare, and a word spelled in unusual tokens counts as what a reader sees.
No measure means much alone: what writes one likely sentence for ever has a low loss under any judge
(and a low entropy), what draws symbols by frequency has a high entropy (and no words).
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


class Piece(NamedTuple):
    """A sample, or as much of a text. ended: whether its document ends there, by an EOS."""

    text: bytes
    ended: bool


@dataclasses.dataclass(frozen=True)
class Quality:
    """Means over pieces of what each piece repeats; shares over all pieces together.

    tokens: the length of a piece. entropy: of a piece's own frequencies of tokens, nats a token.
    repetition: the share of a piece's most frequent token. distinct_n: distinct n-grams of tokens
    as a share of all (arXiv 1510.03055); the more text, the lower. *_agreement: 1 less the total
    variation between the frequencies of bytes, or pairs of bytes, and those of held-out text.
    known_words: the share of words, as white space cuts them, that the training text holds.
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


class Judge:
    """Measures samples against held-out text and the words of training text."""

    def __init__(
        self, tokenizer: Tokenizer, heldout: Sequence[bytes], training: Iterable[bytes]
    ):  # fmt: skip
        self._tokenizer = tokenizer
        self._heldout = {n: byte_ngrams(heldout, n) for n in (1, 2)}
        self._words = frozenset(word for text in training for word in text.split())

    def __call__(self, pieces: Sequence[Piece]) -> Quality:
        """Returns the Quality of pieces, of which there is at least one."""
        tokens = [tokens_of(piece, self._tokenizer) for piece in pieces]
        counts = [np.unique(ids, return_counts=True)[1] for ids in tokens if len(ids)]
        agreement = {n: overlap(byte_ngrams([p.text for p in pieces], n), held)
                     for n, held in self._heldout.items()}  # fmt: skip
        return Quality(
            tokens=float(np.mean([len(ids) for ids in tokens])),
            entropy=sum(map(unigram_entropy, counts)) / len(pieces),
            repetition=sum(float(c.max() / c.sum()) for c in counts) / max(len(counts), 1),
            distinct_1=distinct(tokens, 1),
            distinct_2=distinct(tokens, 2),
            distinct_3=distinct(tokens, 3),
            unigram_agreement=agreement[1],
            bigram_agreement=agreement[2],
            known_words=known_words(pieces, self._words),
        )


class TwinLoss:
    """The loss of pieces under an autoregressive model (a DiffusionLM), its exact -log p.

    One compiled program, whatever number of calls. It is lowest for text that is likely, not for
    text that is good: read it beside the entropy.
    """

    def __init__(self, twin):
        """Raises UserError for a model whose likelihood is not exact."""
        if not twin.objective.traits.exact:
            raise UserError(
                f"a {twin.config.objective.name} model gives a bound, not a likelihood; samples "
                "are judged by an autoregressive model"
            )
        self._params, self._tokenizer = twin.params, twin.tokenizer
        self._length = twin.config.data.sequence_length
        self._evaluate = BoundEvaluator(
            twin.config, twin.network, twin.objective, twin.tokenizer, twin.mesh
        )

    def __call__(self, pieces: Sequence[Piece]) -> BoundReport:
        """Returns the report on pieces, each after a BOS in a row of its own; what does not fit the
        twin's context is cut off, and EOS is scored where a piece ended."""
        return self._evaluate(self._params, rows_of(pieces, self._tokenizer, self._length))


def tokens_of(piece: Piece, tokenizer: Tokenizer) -> np.ndarray:
    """Returns the ids of a piece, EOS the last where it ended."""
    ids = tokenizer.encode(piece.text.decode("utf-8", "surrogateescape"))
    return np.append(ids, tokenizer.eos_id).astype(np.int32) if piece.ended else ids


def rows_of(pieces: Sequence[Piece], tokenizer: Tokenizer, length: int) -> Rows:
    """Returns one row a piece: BOS, then its tokens, as many as the row has room for."""
    rows = empty_rows(len(pieces), length, tokenizer.pad_id)
    for r, piece in enumerate(pieces):
        ids = np.append(tokenizer.bos_id, tokens_of(piece, tokenizer))[:length]
        rows.tokens_RxL[r, : len(ids)] = ids
        rows.segments_RxL[r, : len(ids)] = 1
        rows.positions_RxL[r, : len(ids)] = np.arange(len(ids))
        rows.scored_RxL[r, 1 : len(ids)] = True
    return rows


def piece_of(ids: np.ndarray, tokenizer: Tokenizer) -> Piece:
    """Returns what ids spell, up to the first EOS."""
    (ends,) = np.nonzero(np.asarray(ids) == tokenizer.eos_id)
    return Piece(tokenizer.decode_bytes(ids[: ends[0]] if len(ends) else ids), len(ends) > 0)


def sampled_pieces(canvas, tokenizer: Tokenizer) -> list[Piece]:
    """Returns what was written in the holes of each row of a filled sampling.Canvas."""
    return [
        piece_of(tokens_L[holes_L], tokenizer)
        for tokens_L, holes_L in zip(canvas.tokens_BxL, canvas.holes_BxL, strict=True)
    ]


def spread_pieces(
    rows: RowStore, number: int, length: int, tokenizer: Tokenizer
) -> tuple[list[Piece], Rows]:  # fmt: skip
    """Returns (pieces, the other rows): up to `length` tokens of the first document of rows
    spread evenly, no more than `number`, or than half of all: text to compare them with is left.

    Raises UserError where there is but one row."""
    if rows.number < 2:
        raise UserError(
            "the held-out text is one row, which leaves none to compare it with; add text, or "
            "raise config.data.heldout_fraction"
        )
    chosen = np.linspace(0, rows.number, min(number, rows.number // 2), endpoint=False).astype(int)
    taken = rows.take(chosen)
    pieces = [
        piece_of(tokens_L[scored_L][:length], tokenizer)
        for tokens_L, scored_L in zip(taken.tokens_RxL, taken.scored_RxL, strict=True)
    ]
    return pieces, rows.take(np.setdiff1d(np.arange(rows.number), chosen))


def unigram_pieces(rows: Rows, number: int, length: int, tokenizer: Tokenizer) -> list[Piece]:
    """Returns texts whose tokens are drawn one by one by their frequency in rows: what a model
    writes that has learned frequencies and nothing else."""
    ids = rows.tokens_RxL[rows.scored_RxL]
    drawn = np.random.default_rng(0).choice(ids, (number, length))
    return [piece_of(ids_L, tokenizer) for ids_L in drawn]


def texts_of(rows: Rows, tokenizer: Tokenizer) -> list[bytes]:
    """Returns the texts of packed rows, in order; the parts of a document that was cut are joined
    again where its rows follow one another."""
    ids = rows.tokens_RxL[rows.scored_RxL]
    ends = np.flatnonzero(ids == tokenizer.eos_id)
    return [tokenizer.decode_bytes(part) for part in np.split(ids, ends)]


def distinct(tokens: Sequence[np.ndarray], n: int) -> float:
    """Returns the share of distinct n-grams among those of all pieces; 0 where there are none."""
    grams = [tuple(ids[i : i + n].tolist()) for ids in tokens for i in range(len(ids) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def byte_ngrams(texts: Iterable[bytes], n: int) -> np.ndarray:
    """Returns how often each of the 256^n strings of n bytes stands in texts."""
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
    """Returns 1 less the total variation between two distributions given by counts; 0 where one of
    them counts nothing."""
    if not counts.sum() or not others.sum():
        return 0.0
    return float(np.minimum(counts / counts.sum(), others / others.sum()).sum())


def known_words(pieces: Sequence[Piece], words: frozenset[bytes]) -> float:
    """Returns the share of the pieces' words that `words` holds; 0 where there are none. The first
    and the last word of each piece, which may be cut, do not count."""
    found = [word in words for piece in pieces for word in piece.text.split()[1:-1]]
    return sum(found) / max(len(found), 1)
