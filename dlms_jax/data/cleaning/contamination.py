"""Documents that contain part of an evaluation text, found by their n-grams of words.

The rule is GPT-3's (Brown et al. 2020, arXiv 2005.14165, appendix C): 13 words, lower case, without
punctuation. GPT-3 removed the match and its surroundings; here the whole document is dropped.
"""

from collections.abc import Iterable

import numpy as np

from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.words import ngram_hashes, word_hashes, words
from dlms_jax.errors import UserError

CONTAMINATED = ("contamination", "shares words in a row with an evaluation text")


def ngrams(text: str, options: CleaningOptions) -> np.ndarray:
    """Returns the sorted uint64 hashes of a text's n-grams.

    A text of fewer words than n has none, because a shorter match can be chance.
    """
    return np.unique(ngram_hashes(word_hashes(words(text)), options.ngram))


def union(sets: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the sorted union, which is associative and commutative; of no sets it is empty."""
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *sets]))


def check_evaluation(evaluation: np.ndarray, options: CleaningOptions) -> None:
    """Raises UserError if there are evaluation texts, but none of them has an n-gram."""
    if options.decontaminate and not len(evaluation):
        raise UserError(
            f"no text of cleaning.decontaminate ({', '.join(options.decontaminate)}) has "
            f"{options.ngram} words: lower cleaning.ngram"
        )


def is_contaminated(text: str, evaluation: np.ndarray, options: CleaningOptions) -> bool:
    """Returns whether a text shares an n-gram with the evaluation texts.

    Args:
      text: the text of a document.
      evaluation: the union of the n-grams of the evaluation texts.
      options: the size of the n-grams.
    """
    if not len(evaluation):
        return False
    hashes = ngram_hashes(word_hashes(words(text)), options.ngram)
    found = np.minimum(np.searchsorted(evaluation, hashes), len(evaluation) - 1)
    return bool((evaluation[found] == hashes).any())
