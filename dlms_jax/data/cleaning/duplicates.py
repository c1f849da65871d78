"""Duplicate documents: exact ones, by a hash, and near ones, by MinHash (Broder 1997).

Nothing depends on the order of documents. A text has an `identity`, which is a hash, and a rank. Of
several texts that are nearly the same, the first-ranked is kept.

Near duplicates are found by locality-sensitive hashing: the num_perm minima of a text are divided
into bands, and only texts that agree in a whole band are compared, each with the first-ranked of
them. So a text is dropped if it is similar enough to that one, even if that one is itself dropped
because of a third; the first text of a chain of similar ones always stays. The work grows with the
number of texts, not with its square.
"""

from collections.abc import Iterable, Iterator
import functools

import numpy as np

from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.record import Record
from dlms_jax.data.cleaning.report import Count, merge_counts
from dlms_jax.data.cleaning.words import ngram_hashes, word_hashes, words
from dlms_jax.errors import UserError, optional_import

EXACT = ("exact duplicates", "same text as another")
NEAR = ("near duplicates", "nearly the same text as another")

_SEED = 1  # of the permutations: part of the definition of a near duplicate
_AT_ONCE = 8192  # shingles whose hashes are in memory: 4 MB at 128 permutations


def rank(name: bytes) -> bytes:
    """Returns the rank of an identity: the hash read from its other end.

    Read from the same end, it would prefer texts that are early in the order of identities, in
    which a corpus is shuffled: its start would have more of the texts that had near duplicates.
    """
    return name[::-1]


def keep_smallest(same: Iterable[tuple[Record, Count]]) -> tuple[Record, Count]:
    """Returns, from records of one text, the record of the smallest name and the others' count.

    Each record comes with the count of those already dropped for it, so the function is associative
    and commutative.
    """
    records, counts = zip(*same, strict=True)
    kept, *others = sorted(records)
    return kept, merge_counts([*counts, *(record.count for record in others)])


def signature(text: str, options: CleaningOptions) -> np.ndarray:
    """Returns uint32 (num_perm,): for each permutation, the smallest hash of the text's shingles.

    A text of fewer words than a shingle is one shingle. A text without words has no shingle: every
    entry is the largest uint32, which no other text has.
    """
    datasketch = optional_import("datasketch", "data")
    hashes_W = word_hashes(words(text))
    shingles = ngram_hashes(hashes_W, max(1, min(options.shingle, len(hashes_W))))
    minhash = datasketch.MinHash(
        options.num_perm,
        _SEED,
        hashfunc=int,
        scheme="affine32",
        permutations=_permutations(options.num_perm),
    )
    for start in range(0, len(shingles), _AT_ONCE):
        minhash.update_batch((shingles[start : start + _AT_ONCE] >> np.uint64(32)).tolist())
    return minhash.hashvalues


@functools.cache
def _permutations(number: int) -> np.ndarray:
    """Returns the permutations, which datasketch would otherwise draw again for each text."""
    return optional_import("datasketch", "data").MinHash(number, _SEED).permutations


def has_words(signatures: np.ndarray) -> np.ndarray:
    """Returns, for each signature (last axis), whether its text has a word."""
    return signatures.min(-1) < np.iinfo(np.uint32).max


@functools.cache
def bands(options: CleaningOptions) -> tuple[slice, ...]:
    """Returns the entries of a signature that form each band.

    datasketch chooses them so that two texts whose similarity is the threshold are compared with a
    probability of about one half.
    """
    datasketch = optional_import("datasketch", "data")
    try:
        lsh = datasketch.MinHashLSH(threshold=options.near_duplicates, num_perm=options.num_perm)
    except ValueError as error:
        raise UserError(
            f"cleaning.near_duplicates={options.near_duplicates} cannot be estimated with num_perm="
            f"{options.num_perm} ({error}): lower it, or raise num_perm"
        ) from None
    return tuple(slice(i * lsh.r, (i + 1) * lsh.r) for i in range(lsh.b))


def is_near(signatures: np.ndarray, first: np.ndarray, options: CleaningOptions) -> np.ndarray:
    """Returns, for each signature (last axis), whether it is similar enough to `first`.

    The share of equal entries estimates the Jaccard similarity.
    """
    return (signatures == first).mean(-1) >= options.near_duplicates


def near_in_bucket(
    bucket: Iterable[tuple[bytes, bytes]], options: CleaningOptions
) -> Iterator[bytes]:
    """Yields the identities to drop from the (identity, signature's bytes) that agree in a band.

    `bucket` is iterated twice, and never in memory as a whole.
    """
    first, first_signature = min(bucket, key=lambda entry: rank(entry[0]))
    first_P = np.frombuffer(first_signature, np.uint32)
    for name, values in bucket:
        if name != first and is_near(np.frombuffer(values, np.uint32), first_P, options):
            yield name


def near_of_all(
    ranks_Nx16: np.ndarray, signatures_NxP: np.ndarray, options: CleaningOptions
) -> np.ndarray:
    """Returns bool (N,): which texts to drop.

    It finds what near_in_bucket finds in all buckets of all bands, by sorting, band by band.
    ranks_Nx16 is uint8.
    """
    drop_N = np.zeros(len(signatures_NxP), bool)
    by_rank = np.argsort(_as_one(ranks_Nx16))
    by_rank = by_rank[has_words(signatures_NxP)[by_rank]]
    for band in bands(options):
        keys = _as_one(signatures_NxP[by_rank, band])
        order = np.argsort(keys, kind="stable")  # the first of a bucket is the first in rank
        keys = keys[order]
        edges = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1], True])
        edges = np.minimum(edges, len(order))  # if there are no texts
        for bucket in np.flatnonzero(np.diff(edges) > 1):
            members = by_rank[order[edges[bucket] : edges[bucket + 1]]]
            first_P = signatures_NxP[members[0]]
            for start in range(1, len(members), _AT_ONCE):
                others = members[start : start + _AT_ONCE]
                drop_N[others] |= is_near(signatures_NxP[others], first_P, options)
    return drop_N


def _as_one(rows: np.ndarray) -> np.ndarray:
    """Returns each row as one value, which sorts by its bytes."""
    rows = np.ascontiguousarray(rows)
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
