"""A cache of the ids of words, so that each distinct word is encoded only once.

Byte-level BPE first splits a text into words by GPT-2's pattern, and encodes each word by itself.
For ASCII text the pattern is a plain `re`. Other text is left to the library, since what counts as
a letter depends on the version of Unicode.
"""

from collections.abc import Callable
import re
from typing import Any

import numpy as np

# GPT-2's pattern (Radford et al. 2019) with \p{L} and \p{N} as they are in ASCII.
_WORDS = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", re.ASCII
)
_LARGEST = 1 << 20  # the most words in the cache


def splits_as_gpt2(described: dict[str, Any]) -> bool:
    """Returns whether a tokenizer.json splits text into words by GPT-2's pattern only.

    An added token, which is found before the text is split, must be a special one.
    """
    splitter = described["pre_tokenizer"] or {}
    steps = splitter.get("pretokenizers", [splitter])
    splitter = steps[0] if len(steps) == 1 else {}
    added = described["added_tokens"] or []
    return (
        splitter.get("type") == "ByteLevel"
        and splitter.get("use_regex", True)
        and not splitter.get("add_prefix_space")
        and all(token["special"] for token in added)
    )


class WordCache:
    """Encodes texts word by word."""

    def __init__(self, encode: Callable[[list[str]], list[list[int]]]):
        """Makes an empty cache; `encode` is the library's function."""
        self._encode = encode
        self._ids: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> list[np.ndarray]:
        """Returns the int32 ids of texts."""
        whole = [text for text in texts if not text.isascii()]
        others = iter(self._encode(whole))
        split = {i: _WORDS.findall(text) for i, text in enumerate(texts) if text.isascii()}
        if len(self._ids) > _LARGEST:
            self._ids.clear()
        new = list(set().union(*split.values()).difference(self._ids))
        self._ids.update(zip(new, self._encode(new), strict=True))
        return [
            np.array(self._joined(split[i]) if i in split else next(others), np.int32)
            for i in range(len(texts))
        ]

    def _joined(self, words: list[str]) -> list[int]:
        ids: list[int] = []
        for of_word in map(self._ids.__getitem__, words):
            ids += of_word
        return ids
