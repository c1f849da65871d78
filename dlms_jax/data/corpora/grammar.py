"""The grammar of the synthetic language: its words, its states, and what may follow in each state.

A document opens with its topic, which sets how frequent each word is in all its sentences. A
determiner sets a sentence's number and gender (an agreement class). Adjectives, the noun and the
verb agree with it, across any number of clauses that hold words of other classes:

    TOPIC: DETERMINER ADJECTIVE* NOUN (RELATIVE PRONOUN VERB | PREPOSITION NOUN)* VERB OBJECT. ...

The grammar is a deterministic automaton with probabilities: the text so far determines the state,
and the state determines the probabilities of what follows. So each text has one derivation.
"""

import collections
from collections.abc import Iterator
import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from dlms_jax.errors import UserError

_CLASSES = (0.3, 0.3, 0.2, 0.2)  # probabilities of the agreement classes 2 * plural + gender
_ADJECTIVE = 0.4  # one more adjective before the noun
_RELATIVE, _PREPOSITION = 0.25, 0.2  # one more clause before the verb
_OBJECT = 0.5  # after the verb
_END = 0.25  # of the document after a sentence, once there are enough sentences
_FLATNESS = 4  # words of a kind have probabilities in proportion to 1/(rank + this)
_VOWELS, _CONSONANTS = "aeiou", "bdfgklmnprstvz"
START, STOP = 0, -1  # numbers of states; STOP is the end of the document, not a state of `states`
_SETTERS = {  # states that set an agreement class: the next state, the kind of word that shows it
    "sentence": ("subject", "determiner"),
    "relative": ("inner verb", "pronoun"),
    "object": ("object noun", "determiner"),
}
_WORDS = 2**64 - 1  # the index whose random numbers make the words

Words = dict[str, list[list[dict[str, float]]]]  # by kind, topic and class: words with weights


class State(NamedTuple):
    """What may follow in a state: tokens, none of which is a prefix of another.

    Attributes:
      tokens: the tokens that may follow.
      cumulative: for each token, the probability of all tokens up to it.
      targets: the next state, by token.
      mass: by prefix, the probability of all tokens that begin with it.
      end: the probability that the document ends.
    """

    tokens: list[bytes]
    cumulative: list[float]
    targets: dict[bytes, int]
    mass: dict[bytes, float]
    end: float


@dataclasses.dataclass(frozen=True)
class Grammar:
    """The grammar of a synthetic language, which `seed` and the sizes determine.

    topics, nouns (of each gender), verbs, adjectives: how many there are.
    sentences: the fewest of a document. With 3, duplicates are so rare that a corpus without them
        has the same distribution.
    """

    seed: int
    topics: int = 6
    nouns: int = 40
    verbs: int = 30
    adjectives: int = 16
    sentences: int = 3

    def __post_init__(self):
        for field in dataclasses.fields(self):
            least, most = (0, 2**64 - 1) if field.name == "seed" else (1, 1000)
            value = getattr(self, field.name)
            if not least <= value <= most:
                raise UserError(f"synthetic language: {field.name}={value}; give {least}..{most}")

    @functools.cached_property
    def states(self) -> list[State]:
        """Returns the states that can be reached, START first."""
        words, names, states = make_words(self), [("topic",)], []
        numbers = {names[0]: START, None: STOP}
        for name in names:  # grows
            state = State([], [], {}, collections.defaultdict(float), 0.0)
            for share, choices, mark, following in _choices(self, words, name):
                if following not in numbers:
                    numbers[following] = len(names)
                    names.append(following)
                total = math.fsum(choices.values())  # rounded the same in every Python
                for word, weight in choices.items():
                    token, p = (word + mark).encode(), share * weight / total
                    state.tokens.append(token)
                    state.targets[token] = numbers[following]
                    for k in range(len(token) + 1):
                        state.mass[token[:k]] += p
                    state.cumulative.append(state.mass[b""])
                    state = state._replace(end=p) if following is None else state
            states.append(state)
        return states


def _choices(grammar: Grammar, words: Words, name: tuple) -> Iterator[tuple]:
    """Yields what may follow in a state: (probability, words by weight, a mark, the next state).

    name: a state's kind, then what it remembers: topic, sentences begun, agreement classes.
    """
    kind, *known = name
    if kind == "topic":
        for topic, by_class in enumerate(words["topic"]):
            yield 1 / grammar.topics, by_class[0], ": ", ("sentence", topic, 1)
        return
    topic, count, outer, inner = (known + [0, 0])[:4]
    of = {kind: by_topic[topic] for kind, by_topic in words.items()}
    clause, stop = ("clause", topic, count, outer), ("stop", topic, count)
    if kind in _SETTERS:
        following, setter = _SETTERS[kind]
        for a, p in enumerate(_CLASSES):
            yield p, of[setter][a], " ", (following, *known, a)
    elif kind == "subject":
        yield _ADJECTIVE, of["adjective"][outer], " ", name
        yield 1 - _ADJECTIVE, of["noun"][outer], " ", clause
    elif kind == "clause":
        verb = 1 - _RELATIVE - _PREPOSITION
        yield _RELATIVE, of["relative"][0], " ", ("relative", *known)
        yield _PREPOSITION, of["preposition"][0], " ", ("preposition", *known)
        yield verb * _OBJECT, of["verb"][outer], " ", ("object", topic, count)
        yield verb * (1 - _OBJECT), of["verb"][outer], ".", stop
    elif kind == "inner verb":
        yield 1, of["verb"][inner], " ", clause
    elif kind == "preposition":
        for a, p in enumerate(_CLASSES):
            yield p, of["noun"][a], " ", clause
    elif kind == "object noun":
        yield 1, of["noun"][outer], ".", stop
    elif kind == "stop":
        enough = count == grammar.sentences
        yield 1 - _END * enough, {"": 1}, " ", ("sentence", topic, count + (not enough))
        if enough:
            yield _END, {"": 1}, "", None


def make_words(grammar: Grammar) -> Words:
    """Returns the words of a language, all different.

    Each has a stem of its own, which ends with a consonant; the agreement class adds a vowel.
    """
    numbers = random_numbers(grammar.seed, _WORDS)
    stems = _stems(numbers)

    def shuffled(things):
        return sorted(things, key=lambda _: next(numbers))

    plain, nominal, verbal = [""] * 4, shuffled(_VOWELS)[:4], shuffled(_VOWELS)[:4]
    kinds = {
        "relative": (2, plain),
        "preposition": (6, plain),
        "determiner": (4, nominal),
        "pronoun": (2, nominal),
        "noun": (grammar.nouns, nominal),
        "adjective": (grammar.adjectives, nominal),
        "verb": (grammar.verbs, verbal),
    }
    words: dict[str, list[list[dict[str, float]]]] = {
        "topic": [[{stem: 1}] for stem in itertools.islice(stems, grammar.topics)]
    }
    for kind, (number, endings) in kinds.items():
        genders = [list(itertools.islice(stems, number)) for _ in range(1 + (kind == "noun"))]
        words[kind] = []
        for _ in range(grammar.topics):
            ranked = [shuffled(genders[0]), shuffled(genders[-1])]
            words[kind].append(
                [
                    {stem + ending: 1 / (r + _FLATNESS) for r, stem in enumerate(ranked[a % 2], 1)}
                    for a, ending in enumerate(endings)
                ]
            )
    return words


def _stems(numbers: Iterator[float]) -> Iterator[str]:
    """Yields distinct stems, such as "kat", "um" and "bolip"."""
    seen = set()
    while True:
        pattern = [_CONSONANTS] * (next(numbers) < 0.6) + [_VOWELS, _CONSONANTS]
        while next(numbers) < 0.1:
            pattern += [_VOWELS, _CONSONANTS]
        stem = "".join(letters[int(next(numbers) * len(letters))] for letters in pattern)
        if stem not in seen:
            seen.add(stem)
            yield stem


def random_numbers(seed: int, index: int) -> Iterator[float]:
    """Yields numbers in [0, 1) from Philox's own bits, which no version of numpy will change."""
    philox = np.random.Philox(key=np.array([seed, index], np.uint64))
    while True:
        yield from ((philox.random_raw(64) >> np.uint64(11)) * 2.0**-53).tolist()
