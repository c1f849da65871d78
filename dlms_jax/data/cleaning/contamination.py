"""Documents that hold a piece of an evaluation text, found by n words in a row.

The rule of GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C): 13 words, lower case, without
punctuation. GPT-3 cut the piece and its surroundings out; here the whole document goes.
"""

from collections.abc import Iterable

import numpy as np

from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.words import ngram_hashes, word_hashes, words
from dlms_jax.errors import UserError

CONTAMINATED = ("contamination", "shares words in a row with an evaluation text")


def ngrams(text: str, options: CleaningOptions) -> np.ndarray:
    """Returns the sorted uint64 hashes of a text's n words in a row; 8 bytes each.

    A text of fewer words than n has none: it cannot be told from chance.
    """
    return np.unique(ngram_hashes(word_hashes(words(text)), options.ngram))


def union(sets: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the sorted union; associative, commutative, and that of nothing is empty."""
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *sets]))


def check_evaluation(evaluation: np.ndarray, options: CleaningOptions) -> None:
    """Raises UserError where evaluation texts were named and nothing can be found by them."""
    if options.decontaminate and not len(evaluation):
        raise UserError(
            f"no text of cleaning.decontaminate ({', '.join(options.decontaminate)}) has "
            f"{options.ngram} words: lower cleaning.ngram"
        )


def is_contaminated(text: str, evaluation: np.ndarray, options: CleaningOptions) -> bool:
    """Returns whether a text shares n words in a row with those that `evaluation` is made of."""
    if not len(evaluation):
        return False
    hashes = ngram_hashes(word_hashes(words(text)), options.ngram)
    found = np.minimum(np.searchsorted(evaluation, hashes), len(evaluation) - 1)
    return bool((evaluation[found] == hashes).any())
