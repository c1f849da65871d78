"""Text -> words -> hashes of n-grams, by which near duplicates and overlaps are found."""

import functools
import hashlib
import sys
import unicodedata

import numpy as np

# An odd number with random-looking bits: multiplication by it is invertible modulo 2^64.
_BASE = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """Returns a text's words: lower case, separated by white space and punctuation.

    In scripts without spaces (Chinese, Japanese, Thai) a whole clause is one word.
    """
    return text.lower().translate(_punctuation()).split()


def word_hashes(words: list[str]) -> np.ndarray:
    """Returns a uint64 hash of each word."""
    return np.fromiter(map(_hash, words), np.uint64, len(words))


def ngram_hashes(hashes_W: np.ndarray, n: int) -> np.ndarray:
    """Returns the uint64 hashes of all n-grams of W words, max(0, W - n + 1) of them, in order."""
    number = max(0, len(hashes_W) - n + 1)
    total = np.zeros(number, np.uint64)
    for i in range(n):
        total = total * _BASE + hashes_W[i : i + number]
    return total


@functools.lru_cache(maxsize=1 << 17)  # at most about 20 MB
def _hash(word: str) -> int:
    data = word.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


@functools.cache
def _punctuation() -> dict[int, str]:
    """Returns a table for str.translate that replaces punctuation and symbols by spaces."""
    codes = range(sys.maxunicode + 1)
    return {code: " " for code in codes if unicodedata.category(chr(code))[0] in "PS"}
