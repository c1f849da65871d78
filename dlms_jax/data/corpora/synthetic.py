"""A synthetic language, unlimited in size, whose entropy is known: the floor of a training curve.

Its grammar (grammar.py) gives each text one derivation, so every probability here is exact.
"""

import bisect
from collections.abc import Iterator
import functools
import math
from typing import NamedTuple

import numpy as np

from dlms_jax.data.corpora.document import Document
from dlms_jax.data.corpora.grammar import START, STOP, Grammar, random_numbers
from dlms_jax.errors import UserError


class SyntheticLanguage(Grammar):
    """A language: its documents 0, 1, 2, ... and their probabilities. Everything is in nats."""

    def document(self, index: int) -> bytes:
        """Returns document `index`, 0 <= index < 2**64 - 1: a draw that depends on (seed, index).

        It is the same on every machine and in any order, since it is computed from integers and
        from correctly rounded sums and quotients of floats.
        """
        tokens, state = [], START
        numbers = random_numbers(self.seed, index)
        while state != STOP:
            row = self.states[state]
            i = bisect.bisect(row.cumulative, next(numbers), 0, len(row.tokens) - 1)
            tokens.append(row.tokens[i])
            state = row.targets[row.tokens[i]]
        return b"".join(tokens)

    def documents(self, number: int) -> Iterator[Document]:
        """Yields the first `number` documents."""
        for index in range(number):
            yield Document(f"synthetic/{self.seed}/{index}", self.document(index))

    def log_probs(self, text: bytes) -> np.ndarray:
        """Returns [bytes + 1] log p(byte | the bytes before it); the last is for the end.

        All are -inf from the first impossible byte on. The sum is log p(document).
        """
        log_p = np.full(len(text) + 1, -np.inf)
        start, state = 0, self.states[START]
        before = state.mass[b""]
        for i in range(len(text)):
            token = text[start : i + 1]
            if token not in state.mass:
                return log_p
            log_p[i] = math.log(state.mass[token] / before)
            before = state.mass[token]
            if token in state.targets:
                start, state = i + 1, self.states[state.targets[token]]
                before = state.mass[b""]
        if start == len(text) and state.end:
            log_p[-1] = math.log(state.end / before)
        return log_p

    def conditional(self, text: bytes, hidden: np.ndarray) -> np.ndarray:
        """Returns [hidden bytes, 256] log p(byte | all visible bytes, the document's length).

        The length is given because a model that sees where a document ends knows it.

        Args:
          text: a document; its hidden bytes are ignored.
          hidden: bool, [bytes].

        Raises:
          UserError: no document has these visible bytes.
        """
        # Forward-backward over (byte, state) where words begin: time grows as bytes * arcs.
        raw = np.frombuffer(text, np.uint8)
        arcs, tokens = self._arcs, self._arcs.tokens
        n, longest, states = len(raw), max(map(len, tokens)), len(self.states)
        if hidden.shape != (n,):
            raise ValueError(f"hidden has shape {hidden.shape}, and the text {n} bytes")
        fits = np.zeros((n + longest, 256), bool)
        fits[:n] = hidden[:, None] | (raw[:, None] == np.arange(256))
        # fit[longest + i, token]: 0 if the token fits at byte i, else -inf. The rows before the
        # text, and those after it in `backward`, are -inf, so no bounds need to be checked.
        fit = np.full((longest + n, len(tokens)), -np.inf)
        for number, token in enumerate(tokens):
            can = [fits[k : k + n, byte] for k, byte in enumerate(token)]
            fit[longest:, number][np.logical_and.reduce(can)] = 0

        forward = np.full((longest + n + 1, states), -np.inf)
        forward[longest, START] = 0
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

        evidence = backward[0, START]
        if evidence == -np.inf:
            raise UserError(
                f"no document of {n} bytes of the synthetic language {self.seed} has the bytes "
                "that are visible: give a text of this language, with the same seed and sizes"
            )
        by_token = arcs.sorted_by(arcs.token)
        for i in range(n):
            after = backward[i + by_token.length, by_token.target]
            log_p = forward[longest + i, by_token.source] + by_token.log_p + after - evidence
            fit[longest + i, by_token.keys] += by_token.log_sum_exp(log_p)

        # fit now holds log p(the token is there | all). The probability of a byte is the sum over
        # the tokens that contain it, wherever they begin.
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
        """Returns the entropy of a document, including its end."""
        local_S = -(np.exp(self._log_end) * np.where(self._log_end > -np.inf, self._log_end, 0))
        np.add.at(local_S, self._arcs.source, -np.exp(self._arcs.log_p) * self._arcs.log_p)
        return float(self._visits_S @ local_S)

    @functools.cached_property
    def bytes_per_document(self) -> float:
        """Returns the mean number of bytes of a document; the end has none."""
        arcs = self._arcs
        return float(self._visits_S[arcs.source] @ (np.exp(arcs.log_p) * arcs.length))

    @functools.cached_property
    def length_entropy(self) -> float:
        """Returns the entropy of a document's number of bytes.

        A model that knows the length, such as one that denoises a whole document at once, needs
        this much less than `entropy_per_document`.
        """
        arcs, states = self._arcs, len(self.states)
        moves = np.stack([arcs.source, arcs.target, arcs.length])
        moves, index = np.unique(moves, axis=1, return_inverse=True)
        (source, target, length), p = moves, np.bincount(index.ravel(), np.exp(arcs.log_p))
        recent = np.zeros((length.max() + 1, states))  # of each of the last bytes, in a ring
        recent[0, START] = 1
        entropy, i = 0.0, 0
        while recent.sum() > 1e-14:  # the probability that a document has not ended yet
            i += 1
            mass = recent[(i - length) % len(recent), source] * p
            recent[i % len(recent)] = np.bincount(target, mass, states)
            ends = float(recent[i % len(recent)] @ np.exp(self._log_end))
            entropy -= ends * math.log(ends) if ends else 0
        return entropy

    @property
    def entropy_rate(self) -> float:
        """Returns nats per byte of text: all nats, including the ends', over all bytes of text."""
        return self.entropy_per_document / self.bytes_per_document

    @property
    def bits_per_byte(self) -> float:
        """Returns `entropy_rate` in bits: the lowest that `evaluate` can report for AR."""
        return self.entropy_rate / math.log(2)

    @functools.cached_property
    def _arcs(self) -> "_Arcs":
        tokens = sorted(set().union(*(state.tokens for state in self.states)) - {b""})
        numbers = {token: number for number, token in enumerate(tokens)}
        arcs = [
            (source, numbers[token], state.targets[token], len(token), math.log(state.mass[token]))
            for source, state in enumerate(self.states)
            for token in state.tokens
            if token
        ]
        source, token, target, length, log_p = map(np.array, zip(*arcs, strict=True))
        return _Arcs(tokens, source, token, target, length, log_p)

    @functools.cached_property
    def _log_end(self) -> np.ndarray:
        """Returns [states] the log-probability that the document ends there."""
        return np.array([math.log(s.end) if s.end else -math.inf for s in self.states])

    @functools.cached_property
    def _visits_S(self) -> np.ndarray:
        """Returns how often a document visits each state, on average."""
        system_SxS = np.eye(len(self.states))
        np.add.at(system_SxS, (self._arcs.target, self._arcs.source), -np.exp(self._arcs.log_p))
        return np.linalg.solve(system_SxS, np.eye(len(self.states))[START])


class _Arcs(NamedTuple):
    """All (state, token, next state) as parallel arrays; `sorted_by` sorts them by any of these.

    tokens: the spellings that `token` indexes.
    keys, starts, group: after sorting: the distinct keys, where the arcs of each start, and the
        index of each arc's key.
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
        source, token, target, length, log_p = (array[order] for array in self[1:6])
        return _Arcs(self.tokens, source, token, target, length, log_p, keys, starts, group)

    def log_sum_exp(self, values: np.ndarray) -> np.ndarray:
        """Returns, for each of `keys`, log(sum of exp(value)) over its arcs."""
        assert self.starts is not None  # `sorted_by` has set it
        high = np.maximum.reduceat(values, self.starts)
        high[high == -np.inf] = 0
        with np.errstate(divide="ignore"):
            sums = np.add.reduceat(np.exp(values - high[self.group]), self.starts)
            return np.log(sums) + high
