"""The quality rules of published corpora: C4, Gopher's MassiveText, FineWeb.

A rule set returns (text, reason): a reason means that the document is dropped. Only C4's rules
change a text, by removing lines, so they come first and the others see what is left. Words are
separated by white space, and blank lines do not count.
"""

from collections.abc import Callable, Iterable, Iterator
import re

import numpy as np

from dlms_jax.data.cleaning.words import ngram_hashes, word_hashes

_STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
_BULLETS = ("•", "‣", "◦", "▪", "●", "-", "*", "–")
_TERMINAL = (".", "!", "?", '"', "”")
_LINE_END_MARKS = (*_TERMINAL, "'", "’", "…", "。", "！", "？")
_CITATION = re.compile(r"\[(?:\d+|edit|citation needed)\]")
_POLICY = re.compile(r"terms of use|privacy policy|cookie policy|uses? cookies|use of cookies")
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")
# Gopher, table A1: the share of characters in the most frequent n-gram, and in repeated n-grams.
_MAX_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
_MAX_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}


def apply(text: str, names: Iterable[str]) -> tuple[str, str]:
    """Returns (text, reason) after the named rule sets, in the order of RULES."""
    for name, rules in RULES.items():
        if name in names:
            text, reason = rules(text)
            if reason:
                return text, f"{name}: {reason}"
    return text, ""


def c4(text: str) -> tuple[str, str]:
    """Returns (text, reason) by the rules of C4 (Raffel et al. 2020, arXiv 1910.10683, 2.2).

    Two rules are left out: the list of bad words, and duplicates of three sentences in a row
    (duplicates.py finds whole documents).
    """
    lower = text.lower()
    if "lorem ipsum" in lower:
        return text, "lorem ipsum"
    if "{" in text:
        return text, "curly bracket"
    lines = (_CITATION.sub("", line).strip() for line in text.split("\n"))
    text = "\n".join(filter(_c4_keeps, lines))
    if len(_SENTENCE_END.findall(text)) < 3:
        return text, "fewer than 3 sentences"
    return text, ""


def _c4_keeps(line: str) -> bool:
    lower = line.lower()
    return (
        line.endswith(_TERMINAL)
        and len(line.split()) >= 5
        and "javascript" not in lower
        and not _POLICY.search(lower)
    )


def gopher(text: str) -> tuple[str, str]:
    """Returns (text, reason) by Gopher's quality rules (Rae et al. 2021, arXiv 2112.11446, A.1)."""
    words, lines = text.split(), _lines(text)
    if len(words) < 50:
        return text, "fewer than 50 words"
    if len(words) > 100_000:
        return text, "more than 100000 words"
    mean = sum(map(len, words)) / len(words)
    if not 3 <= mean <= 10:
        return text, "mean word length outside 3 to 10"
    if text.count("#") > 0.1 * len(words):
        return text, "more than 0.1 hashes a word"
    if text.count("...") + text.count("…") > 0.1 * len(words):
        return text, "more than 0.1 ellipses a word"
    if sum(line.startswith(_BULLETS) for line in lines) > 0.9 * len(lines):
        return text, "over 90% of lines start with a bullet"
    if sum(line.endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
        return text, "over 30% of lines end in an ellipsis"
    if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * len(words):
        return text, "under 80% of words have a letter"
    if len(_STOP_WORDS.intersection(text.lower().split())) < 2:
        return text, "fewer than 2 stop words"
    return text, ""


def gopher_repetition(text: str) -> tuple[str, str]:
    """Returns (text, reason) by Gopher's repetition rules (Rae et al. 2021, table A1).

    A line, paragraph or n-gram is a repetition if the same one occurred before it. Characters are
    those of words, each counted once even if several n-grams cover it.
    """
    lines = _lines(text)
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text) if p.strip()]
    for what, parts in (("lines", lines), ("paragraphs", paragraphs)):
        number, characters = _repeated_shares(parts)
        if number > 0.3:
            return text, f"over 30% of {what} repeat"
        if characters > 0.2:
            return text, f"over 20% of characters in {what} that repeat"
    words = text.split()
    for n, top, repeated in ngram_shares(words, [*_MAX_TOP, *_MAX_REPEATED]):
        if n in _MAX_TOP and top > _MAX_TOP[n]:
            return text, f"over {_MAX_TOP[n]:.0%} of characters in one {n}-gram"
        if n in _MAX_REPEATED and repeated > _MAX_REPEATED[n]:
            return text, f"over {_MAX_REPEATED[n]:.0%} of characters in {n}-grams that repeat"
    return text, ""


def fineweb(text: str) -> tuple[str, str]:
    """Returns (text, reason) by FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557)."""
    lines = _lines(text)
    if sum(line.endswith(_LINE_END_MARKS) for line in lines) <= 0.12 * len(lines):
        return text, "at most 12% of lines end in punctuation"
    if _repeated_shares(lines)[1] >= 0.1:
        return text, "10% of characters in lines that repeat"
    if sum(len(line) < 30 for line in lines) >= 0.67 * len(lines):
        return text, "67% of lines under 30 characters"
    return text, ""


RULES: dict[str, Callable[[str], tuple[str, str]]] = {
    "c4": c4,
    "gopher": gopher,
    "gopher-repetition": gopher_repetition,
    "fineweb": fineweb,
}


def ngram_shares(words: list[str], sizes: Iterable[int]) -> Iterator[tuple[int, float, float]]:
    """Yields (n, top, repeated) for each size n.

    top is the share of the words' characters in the most frequent n-gram (0 if none occurs twice),
    repeated the share in all n-grams that occurred before. If several n-grams are the most
    frequent, the one with the most characters counts, then the first.
    """
    lengths_W = np.fromiter(map(len, words), np.int64, len(words))
    ends = np.concatenate([[0], np.cumsum(lengths_W)])  # where each word ends in the joined words
    hashes_W = word_hashes(words)
    for n in sizes:
        hashes = ngram_hashes(hashes_W, n)
        order = np.argsort(hashes, kind="stable")  # equal ones are neighbours, in order
        same = hashes[order[1:]] == hashes[order[:-1]]
        if not same.any():
            yield n, 0.0, 0.0
            continue
        starts = np.flatnonzero(np.r_[True, ~same])
        counts = np.diff(np.r_[starts, len(order)])
        most = np.flatnonzero(counts == counts.max())
        first = order[starts[most]]
        top = most[np.lexsort((first, ends[first] - ends[first + n]))[0]]
        top = order[starts[top] : starts[top] + counts[top]]
        shares = (_cover(where, n, lengths_W) / ends[-1] for where in (top, order[1:][same]))
        yield n, *shares


def _cover(starts: np.ndarray, n: int, lengths_W: np.ndarray) -> int:
    """Returns the number of characters of the words in the n-grams that start at `starts`."""
    covered_W = np.zeros(len(lengths_W), bool)
    for i in range(n):
        covered_W[starts + i] = True
    return lengths_W[covered_W].sum()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _repeated_shares(parts: list[str]) -> tuple[float, float]:
    """Returns the share of the parts, and of their characters, that occurred before."""
    seen, number, characters = set(), 0, 0
    for part in parts:
        if part in seen:
            number += 1
            characters += len(part)
        seen.add(part)
    return number / max(1, len(parts)), characters / max(1, sum(map(len, parts)))
