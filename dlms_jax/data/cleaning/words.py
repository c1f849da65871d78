"""Text -> words -> hashes of n words in a row: what near duplicates and overlaps are found by."""

import functools
import hashlib
import sys
import unicodedata

import numpy as np

# Any odd number whose bits look random: a product with it loses nothing modulo 2^64.
_BASE = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """Returns a text's words: lower case, parted by white space and punctuation.

    A writing without spaces (Chinese, Japanese, Thai) gives one word a clause.
    """
    return text.lower().translate(_punctuation()).split()


def word_hashes(words: list[str]) -> np.ndarray:
    """Returns a uint64 hash of each word."""
    return np.fromiter(map(_hash, words), np.uint64, len(words))


def ngram_hashes(hashes_W: np.ndarray, n: int) -> np.ndarray:
    """Returns a uint64 hash of every n words in a row, max(0, W - n + 1) of them, in order."""
    number = max(0, len(hashes_W) - n + 1)
    total = np.zeros(number, np.uint64)
    for i in range(n):
        total = total * _BASE + hashes_W[i : i + number]
    return total


@functools.lru_cache(maxsize=1 << 17)  # most words are a few: this is 20 MB at most
def _hash(word: str) -> int:
    data = word.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


@functools.cache
def _punctuation() -> dict[int, str]:
    """Returns a table that makes a space of all punctuation and symbols."""
    codes = range(sys.maxunicode + 1)
    return {code: " " for code in codes if unicodedata.category(chr(code))[0] in "PS"}
