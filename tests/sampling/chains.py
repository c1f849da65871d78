"""Samplers' own Markov chains on a few symbols, enumerated in float64, and what their tests share.

A canvas is a tuple: the symbol at each place, or None where it is masked. A chain is followed from
a canvas to the distribution over texts; `predict(canvas)` says what the network would: `Exact`, or
one that sees less (as inside a block). Kernels fill `holes`: all places unless told.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from dlms_jax.diffusion import Layout, Vocabulary
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.sampler import run_sampler
from dlms_jax.testing import Joint

SAMPLES = 50_000

State = tuple[int | None, ...]
Predict = Callable[[State], tuple[np.ndarray, np.ndarray]]
Chain = Iterator[tuple[State, float]]


class _TightVocabulary(Vocabulary):
    padded_size = property(lambda self: self.size)


class SmallJoint(Joint):
    """A Joint whose head has no unused rows: 50,000 samples of it take a second."""

    def __init__(self, symbols: int = 3, length: int = 3, seed: int = 0):
        super().__init__(symbols, length, seed)
        self.vocabulary = _TightVocabulary(**dataclasses.asdict(self.vocabulary))


# Samples ------------------------------------------------------------------------------------------


def open_canvas(joint: Joint, rows: int, given: dict[int, int] | None = None) -> Canvas:
    """Returns canvases of BOS and holes, but for the symbols given by place (0-based)."""
    tokens = np.full((rows, joint.length + 1), joint.vocabulary.mask_id, np.int32)
    tokens[:, 0] = joint.vocabulary.bos_id
    for place, symbol in (given or {}).items():
        tokens[:, place + 1] = symbol
    holes = tokens == joint.vocabulary.mask_id
    positions = np.tile(np.arange(joint.length + 1, dtype=np.int32), (rows, 1))
    layout = Layout(jnp.ones_like(positions), jnp.asarray(positions), ~holes & (positions > 0))
    return Canvas(jnp.asarray(tokens), jnp.asarray(holes), jax.tree.map(jnp.asarray, layout))


def fill(sampler, denoise, canvas: Canvas, keys_B, steps: int | None = None) -> np.ndarray:
    """Returns tokens_BxL of canvases after the first steps of a sampler (None: all of them)."""
    steps = sampler.num_steps(canvas) if steps is None else steps

    def whole(canvas, keys_B):
        state = sampler.start(denoise, canvas, keys_B)
        return run_sampler(sampler, denoise, state, steps).tokens_BxL

    return np.asarray(jax.jit(whole)(canvas, keys_B))


def sample(joint, sampler, denoise, given=None, rows=SAMPLES, seed=0) -> np.ndarray:
    """Returns how often each text of the joint was drawn; another text is an error."""
    keys_B = jax.random.split(jax.random.key(seed), rows)
    texts = fill(sampler, denoise, open_canvas(joint, rows, given), keys_B)[:, 1:]
    assert (texts < joint.symbols).all(), "not all holes hold text"
    place_values = joint.symbols ** np.arange(joint.length)[::-1]
    return np.bincount(texts @ place_values, minlength=len(joint.texts))


def chi_square(counts, p) -> float:
    """Returns the p-value of the counts under p; texts expected less than 5 times are one class."""
    assert abs(p.sum() - 1) < 1e-6
    expected = p * counts.sum()
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 1e-3:
        if observed[-1]:
            return 0.0  # what cannot occur did
        observed, expected = observed[:-1], expected[:-1]
    if len(observed) == 1:
        return 1.0
    return float(stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


def total_variation(p, q) -> float:
    return float(0.5 * np.abs(p - q).sum())


# Predictions --------------------------------------------------------------------------------------


class Exact:
    """The joint's conditionals given what is not masked, and what settings of a Prediction make of
    them: `exact(canvas)` returns (p_LxS after guidance alone, p_LxS that is drawn from)."""

    def __init__(
        self, joint, given=None, temperature=1.0, top_k=0, top_p=1.0, guidance=0.0
    ):  # fmt: skip
        self.joint, self.given, self.guidance = joint, given or {}, guidance
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.start: State = tuple(self.given.get(i) for i in range(joint.length))
        self.holes = tuple(i for i in range(joint.length) if i not in self.given)
        self._known = functools.cache(self._predict)

    def __call__(self, canvas: State) -> tuple[np.ndarray, np.ndarray]:
        return self._known(canvas)

    def conditional(self) -> np.ndarray:
        """Returns the joint, given what is given."""
        p = self.joint.p * _agree(self.joint, self.start)
        return p / p.sum()

    def _predict(self, canvas):
        p_LxS = conditionals(self.joint, canvas)
        if self.guidance:
            hidden = tuple(None if i in self.given else c for i, c in enumerate(canvas))
            without_LxS = conditionals(self.joint, hidden)
            ratio_LxS = np.divide(p_LxS, without_LxS, out=np.ones_like(p_LxS), where=p_LxS > 0)
            p_LxS = p_LxS * ratio_LxS**self.guidance
            p_LxS /= p_LxS.sum(axis=1, keepdims=True)
        settings = self.temperature, self.top_k, self.top_p
        return p_LxS, np.stack([cut(p_S, *settings) for p_S in p_LxS])


def cut(p_S, temperature=1.0, top_k=0, top_p=1.0) -> np.ndarray:
    """Returns probabilities at a temperature, cut to top_k and top_p, as the definitions say; of
    equals the first is kept."""
    if temperature == 0:
        return np.eye(len(p_S))[p_S.argmax()]
    p_S = p_S ** (1 / temperature)
    p_S = p_S / p_S.sum()
    order = np.argsort(-p_S, kind="stable")
    if top_k:
        p_S[order[top_k:]] = 0
        p_S = p_S / p_S.sum()
    if top_p < 1:
        number = 1 + int((p_S[order].cumsum() < top_p).sum())
        p_S[order[number:]] = 0
    return p_S / p_S.sum()


def conditionals(joint, canvas: State) -> np.ndarray:
    """Returns p_LxS: each symbol at each place, given all that is not masked."""
    p = joint.p * _agree(joint, canvas)
    p_LxS = [np.bincount(joint.texts[:, i], p, joint.symbols) for i in range(joint.length)]
    return np.stack(p_LxS) / p.sum()


def _agree(joint, canvas):
    agree = np.ones(len(joint.texts), bool)
    for place, symbol in enumerate(canvas):
        if symbol is not None:
            agree &= joint.texts[:, place] == symbol
    return agree


# Chains -------------------------------------------------------------------------------------------


def follow(kernel, steps: Iterable[int], start) -> dict:
    """Returns {state: probability} after the steps; kernel(state, i) yields (next, probability)."""
    states = {start: 1.0}
    for i in steps:
        following: dict = {}
        for state, weight in states.items():
            for new, probability in kernel(state, i):
                if probability > 0:
                    following[new] = following.get(new, 0.0) + weight * probability
        states = following
    return states


def over_texts(joint, states: dict) -> np.ndarray:
    """Returns the probability of each of the joint's texts (canvases still masked have none)."""
    return np.array([states.get(tuple(text), 0.0) for text in joint.texts.tolist()])


def step_time(spacing: str, schedule, steps: int, i: int) -> float:
    """Returns t_i in float64, by the formulas as papers give them."""
    if i == steps:
        return 0.0
    if spacing == "cosine":
        return float(np.cos(np.pi / 2 * i / steps))
    return 1 - i / steps if spacing == "uniform" else float(schedule.time(1 - i / steps))


def masked_share(spacing, schedule, steps, i) -> float:
    """Returns 1 - alpha(t_i)."""
    return float(schedule.masked(step_time(spacing, schedule, steps, i)))


def independent(canvas: State, choices: dict[int, list[tuple]]) -> Chain:
    """Yields (canvas, p): each place of `choices` takes one of its (value, p), independently."""
    for picks in itertools.product(*choices.values()):
        new = list(canvas)
        for place, (value, _) in zip(choices, picks, strict=True):
            new[place] = value
        yield tuple(new), float(np.prod([p for _, p in picks]))


def masked_places(canvas: State, holes=None) -> list[int]:
    holes = range(len(canvas)) if holes is None else holes
    return [i for i in holes if canvas[i] is None]


def ancestral(predict: Predict, schedule, steps: int, spacing="uniform", holes=None):
    """Returns the kernel of Ancestral."""

    def kernel(canvas, i):
        masked_t, masked_s = (masked_share(spacing, schedule, steps, i + j) for j in (0, 1))
        share = masked_s / masked_t
        _, p_LxS = predict(canvas)
        choices = {
            place: [(None, share), *enumerate((1 - share) * p_LxS[place])]
            for place in masked_places(canvas, holes)
        }
        return independent(canvas, choices)

    return kernel


def ordered(predict: Predict, schedule, steps: int, order: str, spacing="uniform", holes=None):
    """Returns the kernel of Ordered."""

    def score(guided_S, symbol):
        if order == "confidence":
            return guided_S[symbol]
        if order == "margin":
            return np.diff(np.sort(guided_S)[-2:])[0]
        return (guided_S * np.log(guided_S)).sum()

    def kernel(canvas, i):
        guided_LxS, p_LxS = predict(canvas)
        places = masked_places(canvas, holes)
        number_of_holes = len(masked_places((None,) * len(canvas), holes))
        remain = round(number_of_holes * masked_share(spacing, schedule, steps, i + 1))
        choices = {place: list(enumerate(p_LxS[place])) for place in places}
        for drawn, p in independent(canvas, choices):
            if p > 0:
                by_score = sorted(places, key=lambda at: -score(guided_LxS[at], drawn[at]))
                hidden = by_score[max(0, len(places) - remain) :]
                yield tuple(None if at in hidden else c for at, c in enumerate(drawn)), p

    return kernel


def first_hitting(predict: Predict, holes=None):
    """Returns the kernel of FirstHitting."""

    def kernel(canvas, i):
        _, p_LxS = predict(canvas)
        places = masked_places(canvas, holes)
        if not places:
            yield canvas, 1.0
        for place in places:
            yield from independent(
                canvas, {place: list(enumerate(p_LxS[place] / len(places)))}
            )  # fmt: skip

    return kernel


def remasking(predict: Predict, schedule, steps: int, kind: str, eta: float, spacing="uniform",
              holes=None):  # fmt: skip
    """Returns the kernel of Remasking, on states (canvas, the probability that each written token
    had: None where masked or, but for kind="confidence", always)."""

    def sigmas(state, i):
        alpha_t, masked_s = 1 - masked_share(spacing, schedule, steps, i), masked_share(
            spacing, schedule, steps, i + 1
        )  # fmt: skip
        canvas, had = state
        limit = 1.0 if masked_s >= alpha_t else masked_s / alpha_t
        if kind != "confidence":
            sigma = min(eta, limit) if kind == "cap" else eta * limit
            return [sigma] * len(canvas)
        weights = np.array([0.0 if p is None else np.exp(-p) for p in had])
        return eta * limit * weights / max(weights.sum(), 1e-300)

    def kernel(state, i):
        canvas, had = state
        guided_LxS, p_LxS = predict(canvas)
        masked_t, masked_s = (masked_share(spacing, schedule, steps, i + j) for j in (0, 1))
        sigma_L = sigmas(state, i)
        choices = {}
        for place in range(len(canvas)) if holes is None else holes:
            sigma = sigma_L[place]
            if canvas[place] is None:
                stay = (masked_s - sigma * (1 - masked_t)) / masked_t
                choices[place] = [((None, None), stay)]
                for symbol, p in enumerate(p_LxS[place]):
                    now = round(guided_LxS[place, symbol], 12) if kind == "confidence" else None
                    choices[place].append(((symbol, now), (1 - stay) * p))
            else:
                choices[place] = [((None, None), sigma)]
                choices[place].append(((canvas[place], had[place]), 1 - sigma))
        together = tuple(zip(canvas, had, strict=True))
        for new, p in independent(together, choices):
            yield tuple(zip(*new, strict=True)), p

    return kernel


def start_remasking(canvas: State):
    """Returns the first state of the kernel of `remasking`."""
    return canvas, (None,) * len(canvas)


def canvases(states: dict) -> dict:
    """Returns {canvas: probability} of the states of `remasking`."""
    merged: dict = {}
    for (canvas, _), p in states.items():
        merged[canvas] = merged.get(canvas, 0.0) + p
    return merged
