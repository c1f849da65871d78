"""A synthetic language, unlimited in size, whose entropy is known: the floor of a training curve.

A document opens with its topic, which sets how often each word stands in all its sentences. A
determiner sets a sentence's number and gender (an agreement class); adjectives, the noun and the
verb agree with it, across any number of clauses that hold words of other classes:

    TOPIC: DETERMINER ADJECTIVE* NOUN (RELATIVE PRONOUN VERB | PREPOSITION NOUN)* VERB OBJECT. ...

The grammar is a deterministic automaton with probabilities: the text so far fixes the state, and
the state what may follow. So each text has one derivation, and all that is said here is exact.
"""

import bisect
import collections
from collections.abc import Iterator
import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from dlms_jax.data.corpora.document import Document, to_bytes
from dlms_jax.errors import UserError

_CLASSES = (0.3, 0.3, 0.2, 0.2)  # agreement classes 2 * plural + gender, where one is chosen
_ADJECTIVE = 0.4  # one more adjective before the noun
_RELATIVE, _PREPOSITION = 0.25, 0.2  # one more clause before the verb
_OBJECT = 0.5  # after the verb
_END = 0.25  # of the document after a sentence, once there are enough
_FLATNESS = 4  # words of a kind have probabilities in proportion to 1/(rank + this)
_VOWELS, _CONSONANTS = "aeiou", "bdfgklmnprstvz"
_START, _STOP = 0, -1  # numbers of states; _STOP, after the document, is none of the machine's
_SETTERS = {  # states that set an agreement class: the next state, the kind of word that tells it
    "sentence": ("subject", "determiner"),
    "relative": ("inner verb", "pronoun"),
    "object": ("object noun", "determiner"),
}
_WORDS = 2**64 - 1  # the index whose random numbers make the words

_Words = dict[str, list[list[dict[str, float]]]]  # by kind, topic and class: words with weights


@dataclasses.dataclass(frozen=True)
class SyntheticLanguage:
    """A language and its documents 0, 1, 2, ..., all made by `seed`. Everything is in nats.

    topics, nouns (of each gender), verbs, adjectives: how many there are. sentences: no document
    has fewer; 3 make duplicates so rare that a corpus without them has the same distribution.
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

    def document(self, index: int) -> str:
        """Returns document `index`, 0 <= index < 2**64 - 1: a draw that (seed, index) names.

        It is the same on every machine and in any order: all that it depends on is integers, and
        sums and quotients of floats that are correctly rounded.
        """
        tokens, state = [], _START
        numbers = _random_numbers(self.seed, index)
        while state != _STOP:
            row = self._states[state]
            i = bisect.bisect(row.cumulative, next(numbers), 0, len(row.tokens) - 1)
            tokens.append(row.tokens[i])
            state = row.targets[row.tokens[i]]
        return b"".join(tokens).decode()

    def documents(self, number: int) -> Iterator[Document]:
        """Yields the first `number` documents."""
        for index in range(number):
            yield Document(f"synthetic/{self.seed}/{index}", self.document(index))

    def log_probs(self, text: str | bytes) -> np.ndarray:
        """Returns [bytes + 1] log p(byte | the bytes before it); the last is that of the end.

        From the first byte that cannot follow on, all are -inf. The sum is log p(document).
        """
        raw = text if isinstance(text, bytes) else to_bytes(text)
        log_p = np.full(len(raw) + 1, -np.inf)
        start, state = 0, self._states[_START]
        before = state.mass[b""]
        for i in range(len(raw)):
            token = raw[start : i + 1]
            if token not in state.mass:
                return log_p
            log_p[i] = math.log(state.mass[token] / before)
            before = state.mass[token]
            if token in state.targets:
                start, state = i + 1, self._states[state.targets[token]]
                before = state.mass[b""]
        if start == len(raw) and state.end:
            log_p[-1] = math.log(state.end / before)
        return log_p

    def conditional(self, text: str | bytes, hidden: np.ndarray) -> np.ndarray:
        """Returns [hidden bytes, 256] log p(byte | all visible bytes, the document's length).

        hidden: bool, [bytes]; what `text` holds there is ignored. Given is also that the document
        has exactly as many bytes as `text`, as a model knows that sees where a document ends.
        Raises UserError where no document has these visible bytes.
        """
        # Forward-backward over (byte, state) where words begin: time grows as bytes * arcs.
        raw = np.frombuffer(text if isinstance(text, bytes) else to_bytes(text), np.uint8)
        arcs, tokens = self._arcs, self._arcs.tokens
        n, longest, states = len(raw), max(map(len, tokens)), len(self._states)
        if hidden.shape != (n,):
            raise ValueError(f"hidden has shape {hidden.shape}, and the text {n} bytes")
        fits = np.zeros((n + longest, 256), bool)
        fits[:n] = hidden[:, None] | (raw[:, None] == np.arange(256))
        # fit[longest + i, token]: 0 where the token can stand at byte i, else -inf. The rows before
        # the text, and those after it in backward, are -inf: no bounds need to be checked.
        fit = np.full((longest + n, len(tokens)), -np.inf)
        for number, token in enumerate(tokens):
            can = [fits[k : k + n, byte] for k, byte in enumerate(token)]
            fit[longest:, number][np.logical_and.reduce(can)] = 0

        forward = np.full((longest + n + 1, states), -np.inf)
        forward[longest, _START] = 0
        by_target = arcs.sorted_by(arcs.target)
        for i in range(longest + 1, longest + n + 1):
            begin = i - by_target.length
            log_p = forward[begin, by_target.source] + by_target.log_p + fit[begin, by_target.token]
            forward[i, by_target.keys] = by_target.log_sum_exp(log_p)

        backward = np.full((n + longest + 1, states), -np.inf)
        backward[n] = self._log_end
        by_source = arcs.sorted_by(arcs.source)
        for i in reversed(range(n)):
            after = backward[i + by_source.length, by_source.target]
            log_p = by_source.log_p + after + fit[longest + i, by_source.token]
            backward[i, by_source.keys] = by_source.log_sum_exp(log_p)

        evidence = backward[0, _START]
        if evidence == -np.inf:
            raise UserError(
                f"no document of {n} bytes of the synthetic language {self.seed} has the bytes "
                "that are visible: give a text of this language, of the same seed and sizes"
            )
        by_token = arcs.sorted_by(arcs.token)
        for i in range(n):
            after = backward[i + by_token.length, by_token.target]
            log_p = forward[longest + i, by_token.source] + by_token.log_p + after - evidence
            fit[longest + i, by_token.keys] += by_token.log_sum_exp(log_p)

        # fit now holds log p(the token stands there | all). A byte's is the sum over the tokens
        # that have it, wherever they begin.
        spelled = [(t, k, byte) for t, token in enumerate(tokens) for k, byte in enumerate(token)]
        token_P, offset_P, byte_P = np.array(spelled).T
        places_H = np.flatnonzero(hidden)
        log_p_HxP = fit[longest + places_H[:, None] - offset_P, token_P]
        log_p_Hx256 = np.full((len(places_H), 256), -np.inf)
        for byte in np.unique(byte_P):
            log_p_Hx256[:, byte] = np.logaddexp.reduce(log_p_HxP[:, byte_P == byte], axis=1)
        return log_p_Hx256

    @functools.cached_property
    def entropy_per_document(self) -> float:
        """Returns the entropy of a document, its end included."""
        local_S = -(np.exp(self._log_end) * np.where(self._log_end > -np.inf, self._log_end, 0))
        np.add.at(local_S, self._arcs.source, -np.exp(self._arcs.log_p) * self._arcs.log_p)
        return float(self._visits_S @ local_S)

    @functools.cached_property
    def bytes_per_document(self) -> float:
        """Returns the mean number of bytes of a document; the end counts none."""
        arcs = self._arcs
        return float(self._visits_S[arcs.source] @ (np.exp(arcs.log_p) * arcs.length))

    @functools.cached_property
    def length_entropy(self) -> float:
        """Returns the entropy of a document's number of bytes.

        A model that is told the length, such as one that denoises a whole document at once, needs
        that much less than `entropy_per_document`.
        """
        arcs, states = self._arcs, len(self._states)
        moves = np.stack([arcs.source, arcs.target, arcs.length])
        moves, index = np.unique(moves, axis=1, return_inverse=True)
        (source, target, length), p = moves, np.bincount(index.ravel(), np.exp(arcs.log_p))
        recent = np.zeros((length.max() + 1, states))  # of each of the last bytes, in a ring
        recent[0, _START] = 1
        entropy, i = 0.0, 0
        while recent.sum() > 1e-14:  # no more can end
            i += 1
            mass = recent[(i - length) % len(recent), source] * p
            recent[i % len(recent)] = np.bincount(target, mass, states)
            ends = float(recent[i % len(recent)] @ np.exp(self._log_end))
            entropy -= ends * math.log(ends) if ends else 0
        return entropy

    @property
    def entropy_rate(self) -> float:
        """Returns nats per byte of text: all nats, the ends' included, over all bytes of text."""
        return self.entropy_per_document / self.bytes_per_document

    @property
    def bits_per_byte(self) -> float:
        """Returns `entropy_rate` in bits: the least that `evaluate` can give for AR."""
        return self.entropy_rate / math.log(2)

    @functools.cached_property
    def _states(self) -> list["_State"]:
        """Returns the states that can be reached, _START first."""
        words, names, states = _make_words(self), [("topic",)], []
        numbers = {names[0]: _START, None: _STOP}
        for name in names:  # grows
            state = _State([], [], {}, collections.defaultdict(float), 0.0)
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

    @functools.cached_property
    def _arcs(self) -> "_Arcs":
        tokens = sorted(set().union(*(state.tokens for state in self._states)) - {b""})
        numbers = {token: number for number, token in enumerate(tokens)}
        arcs = [
            (source, numbers[token], state.targets[token], len(token), math.log(state.mass[token]))
            for source, state in enumerate(self._states)
            for token in state.tokens
            if token
        ]
        *integers, log_p = zip(*arcs, strict=True)
        return _Arcs(tokens, *map(np.array, integers), np.array(log_p))

    @functools.cached_property
    def _log_end(self) -> np.ndarray:
        """Returns [states] the log-probability that the document ends there."""
        return np.array([math.log(s.end) if s.end else -math.inf for s in self._states])

    @functools.cached_property
    def _visits_S(self) -> np.ndarray:
        """Returns how often a document comes by each state, in the mean."""
        system_SxS = np.eye(len(self._states))
        np.add.at(system_SxS, (self._arcs.target, self._arcs.source), -np.exp(self._arcs.log_p))
        return np.linalg.solve(system_SxS, np.eye(len(self._states))[_START])


class _State(NamedTuple):
    """What may follow: tokens, none of which another begins with.

    cumulative: the probability of all tokens up to each. targets: the next state, by token. mass:
    by prefix, the probability of all tokens that begin so. end: that the document ends.
    """

    tokens: list[bytes]
    cumulative: list[float]
    targets: dict[bytes, int]
    mass: dict[bytes, float]
    end: float


class _Arcs(NamedTuple):
    """All (state, token, next state), in parallel; sorted by a key, which may be any of the three.

    tokens: what `token` numbers. keys, starts, group: the keys there are, where each one's arcs
    start, the key's index by arc.
    """

    tokens: list[bytes]
    source: np.ndarray
    token: np.ndarray
    target: np.ndarray
    length: np.ndarray
    log_p: np.ndarray
    keys: np.ndarray | None = None
    starts: np.ndarray | None = None
    group: np.ndarray | None = None

    def sorted_by(self, key: np.ndarray) -> "_Arcs":
        order = np.argsort(key, kind="stable")
        keys, starts, group = np.unique(key[order], return_index=True, return_inverse=True)
        return _Arcs(self.tokens, *(array[order] for array in self[1:6]), keys, starts, group)

    def log_sum_exp(self, values: np.ndarray) -> np.ndarray:
        """Returns log(sum of exp(values of a key's arcs)) for each of `keys`."""
        high = np.maximum.reduceat(values, self.starts)
        high[high == -np.inf] = 0
        with np.errstate(divide="ignore"):
            sums = np.add.reduceat(np.exp(values - high[self.group]), self.starts)
            return np.log(sums) + high


def _choices(language: SyntheticLanguage, words: _Words, name: tuple) -> Iterator[tuple]:
    """Yields what may follow in a state: (probability, words by weight, a mark, the next state).

    name: a state's: its kind, and what it remembers: topic, sentences begun, agreement classes.
    """
    kind, *known = name
    if kind == "topic":
        for topic, by_class in enumerate(words["topic"]):
            yield 1 / language.topics, by_class[0], ": ", ("sentence", topic, 1)
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
        enough = count == language.sentences
        yield 1 - _END * enough, {"": 1}, " ", ("sentence", topic, count + (not enough))
        if enough:
            yield _END, {"": 1}, "", None


def _make_words(language: SyntheticLanguage) -> _Words:
    """Returns the words of a language, of which no two are the same.

    Each has a stem of its own, that ends with a consonant; the agreement class adds a vowel.
    """
    numbers = _random_numbers(language.seed, _WORDS)
    stems = _stems(numbers)

    def shuffled(things):
        return sorted(things, key=lambda _: next(numbers))

    plain, nominal, verbal = [""] * 4, shuffled(_VOWELS)[:4], shuffled(_VOWELS)[:4]
    kinds = {
        "relative": (2, plain), "preposition": (6, plain),
        "determiner": (4, nominal), "pronoun": (2, nominal), "noun": (language.nouns, nominal),
        "adjective": (language.adjectives, nominal), "verb": (language.verbs, verbal),
    }  # fmt: skip
    words = {"topic": [[{stem: 1}] for stem in itertools.islice(stems, language.topics)]}
    for kind, (number, endings) in kinds.items():
        genders = [list(itertools.islice(stems, number)) for _ in range(1 + (kind == "noun"))]
        words[kind] = []
        for _ in range(language.topics):
            ranked = [shuffled(genders[0]), shuffled(genders[-1])]
            words[kind].append([
                {stem + ending: 1 / (r + _FLATNESS) for r, stem in enumerate(ranked[a % 2], 1)}
                for a, ending in enumerate(endings)
            ])  # fmt: skip
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


def _random_numbers(seed: int, index: int) -> Iterator[float]:
    """Yields numbers in [0, 1): Philox's own bits, which no version of numpy will change."""
    philox = np.random.Philox(key=np.array([seed, index], np.uint64))
    while True:
        yield from ((philox.random_raw(64) >> np.uint64(11)) * 2.0**-53).tolist()
