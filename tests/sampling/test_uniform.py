"""Uniform diffusion's samplers against their own Markov chains, enumerated in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling.chains import (
    SAMPLES,
    SmallJoint,
    chi_square,
    fill,
    open_canvas,
    sample,
    step_time,
    total_variation,
)

from dlms_jax.diffusion import Cosine, Denoiser, Linear
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes.uniform import (
    PredictorCorrector,
    UniformAncestral,
    UniformDDIM,
)

JOINT = SmallJoint(3, 2, seed=2)
LINEAR = Linear()


class Chain:
    """The samplers' Markov chains on all texts of symbols and noise, with the exact denoiser."""

    def __init__(self, joint, schedule, mask_share=0.0, given=None, temperature=1.0, top_p=1.0,
                 guidance=0.0):  # fmt: skip
        v = joint.vocabulary
        self.joint, self.schedule, self.given = joint, schedule, given or {}
        self.temperature, self.top_p, self.guidance = temperature, top_p, guidance
        # EOS is a symbol of text too, which no text of this joint holds.
        self.ids = np.array([*range(joint.symbols), v.eos_id, v.mask_id])
        number = joint.symbols + 1
        self.pi = np.append(np.full(number, (1 - mask_share) / number), mask_share)
        places = [
            [self.given[i]] if i in self.given else range(number + (mask_share > 0))
            for i in range(joint.length)
        ]
        self.states = np.array(list(itertools.product(*places)))  # indices into ids
        self.holes = [i for i in range(joint.length) if i not in self.given]
        self.eye = np.eye(len(self.ids))

    def likelihood(self, t, known) -> np.ndarray:
        """Returns q(z_l | text) for every state, place and text, [S, L, T]; 1 where not known."""
        alpha = float(self.schedule.alpha(t))
        same = self.states[:, :, None] == self.joint.texts.T[None]
        noisy = alpha * same + (1 - alpha) * self.pi[self.states][:, :, None]
        like = np.array([
            same[:, i] * (1.0 if known else 0.0) + (0 if known else 1) if i in self.given
            else noisy[:, i] for i in range(self.joint.length)
        ])  # fmt: skip
        return np.moveaxis(like, 0, 1)

    def leave_one_out(self, t, known=True) -> np.ndarray:
        """Returns p(x_l | the state's other places) over ids, [S, L, I]."""
        like = self.likelihood(t, known)
        p = []
        for place in range(self.joint.length):
            others = np.delete(like, place, axis=1).prod(axis=1) * self.joint.p[None]
            p.append(others @ self.eye[self.joint.texts[:, place]])
        p = np.stack(p, axis=1)
        # At time 0 some states cannot be: their prediction is of no account.
        return p / np.maximum(p.sum(axis=-1, keepdims=True), 1e-300)

    def prediction(self, t) -> np.ndarray:
        p = self.leave_one_out(t)
        if self.guidance:
            without = self.leave_one_out(t, known=False)
            ratio = np.divide(p, without, out=np.ones_like(p), where=p > 0)
            p = p * ratio**self.guidance
        if self.temperature == 0:
            return self.eye[p.argmax(axis=-1)]
        p = p ** (1 / self.temperature)
        p /= np.maximum(p.sum(axis=-1, keepdims=True), 1e-300)
        if self.top_p < 1:
            order = np.argsort(-p, axis=-1, kind="stable")
            ranked = np.take_along_axis(p, order, axis=-1)
            before = ranked.cumsum(axis=-1) - ranked
            keep = np.take_along_axis(before < self.top_p, np.argsort(order, axis=-1), axis=-1)
            p = np.where(keep, p, 0)
        return p / np.maximum(p.sum(axis=-1, keepdims=True), 1e-300)

    def ancestral(self, t, s) -> np.ndarray:
        """Returns, by place, q(z | y) qbar_s(y) / qbar_t(z): [S, L, I]."""
        alpha_t, alpha_s = float(self.schedule.alpha(t)), float(self.schedule.alpha(s))
        a, p = alpha_t / alpha_s, self.prediction(t)
        qbar_s = alpha_s * p + (1 - alpha_s) * self.pi
        forward = a * self.eye[self.states] + ((1 - a) * self.pi[self.states])[..., None]
        kernel = forward * qbar_s
        return kernel / np.maximum(kernel.sum(axis=-1, keepdims=True), 1e-300)

    def ddim(self, t, s, eta) -> np.ndarray:
        alpha_t, alpha_s = float(self.schedule.alpha(t)), float(self.schedule.alpha(s))
        same = self.eye[self.states]
        x0 = self.prediction(t) * (
            alpha_t * same + ((1 - alpha_t) * self.pi[self.states])[..., None]
        )
        x0 /= x0.sum(axis=-1, keepdims=True)
        sigma = (1 - eta) * (1 - alpha_s) / (1 - alpha_t)
        noise = (1 - alpha_s) - (1 - alpha_t) * sigma
        return sigma * same + (alpha_s - sigma * alpha_t) * x0 + noise * self.pi

    def together(self, kernel_SxLxI, holes=None) -> np.ndarray:
        """Returns the transition matrix in which all holes move at once."""
        matrix = np.ones((len(self.states),) * 2)
        for place in range(self.joint.length):
            if place in (self.holes if holes is None else holes):
                matrix *= kernel_SxLxI[:, place][:, self.states[:, place]]
            else:
                matrix *= self.states[:, None, place] == self.states[None, :, place]
        return matrix

    def gibbs(self, s) -> np.ndarray:
        """Returns the transition matrix of one random hole's redraw from qbar_s."""
        alpha = float(self.schedule.alpha(s))
        qbar = alpha * self.prediction(s) + (1 - alpha) * self.pi
        return np.mean([self.together(qbar, [place]) for place in self.holes], axis=0)

    def level(self, t) -> np.ndarray:
        """Returns q_t of the states: the noisy joint, given what is given."""
        q = self.likelihood(t, known=True).prod(axis=1) @ self.joint.p
        return q / q.sum()

    def places(self, tokens_BxL) -> np.ndarray:
        """Returns the index of the state that each row holds."""
        same = (np.asarray(tokens_BxL)[:, None, 1:] == self.ids[self.states][None]).all(axis=2)
        assert (same.sum(axis=1) == 1).all()
        return same.argmax(axis=1)

    def noise(self) -> np.ndarray:
        return np.prod([self.pi[self.states[:, i]] for i in self.holes], axis=0)

    def run(self, matrices) -> np.ndarray:
        """Returns the distribution over texts after the steps."""
        p = self.noise()
        for matrix in matrices:
            p = p @ matrix
        return self.over_texts(p)

    def over_texts(self, p) -> np.ndarray:
        at = {tuple(state): q for state, q in zip(self.states, p, strict=True)}
        return np.array([at.get(tuple(text), 0.0) for text in self.joint.texts])


KINDS = {
    "ancestral": (UniformAncestral, {}),
    "ddim 0": (UniformDDIM, {"eta": 0.0}),
    "ddim 0.4": (UniformDDIM, {"eta": 0.4}),
    "ddim 1": (UniformDDIM, {"eta": 1.0}),
    "corrected": (PredictorCorrector, {"corrector_steps": 2}),
}


def matrices(chain: Chain, kind: str, steps: int, spacing="uniform"):
    """Yields the transition matrix of each step of a kind of sampler."""
    for i in range(steps):
        t, s = (step_time(spacing, chain.schedule, steps, i + j) for j in (0, 1))
        if kind.startswith("ddim"):
            yield chain.together(chain.ddim(t, s, KINDS[kind][1]["eta"]))
            continue
        yield chain.together(chain.ancestral(t, s))
        if kind == "corrected":
            yield from [chain.gibbs(s)] * 2


def make_sampler(kind, steps, schedule=LINEAR, mask_share=0.0, spacing="uniform", joint=JOINT,
              **settings):  # fmt: skip
    sampler, more = KINDS[kind]
    prediction = Prediction(joint.vocabulary, **settings)
    return sampler(prediction, schedule, steps, spacing, mask_share, **more)


@pytest.mark.parametrize(
    ("kind", "steps", "schedule", "mask_share", "spacing", "given", "settings"),
    [
        ("ancestral", 3, LINEAR, 0.0, "uniform", None, {}),
        ("ancestral", 4, Cosine(), 0.3, "cosine", None, {}),
        ("ancestral", 3, LINEAR, 0.6, "uniform", {0: 1}, {"guidance": 1.5}),
        ("ancestral", 3, Cosine(), 0.0, "quantile", {1: 0}, {"guidance": 0.7, "temperature": 0.6}),
        ("ancestral", 3, LINEAR, 0.0, "uniform", None, {"top_p": 0.7, "temperature": 1.3}),
        ("ancestral", 2, LINEAR, 0.2, "uniform", None, {"temperature": 0.0}),
        ("ddim 0", 3, LINEAR, 0.0, "uniform", {0: 2}, {"guidance": 1.0}),
        ("ddim 0.4", 4, Cosine(), 0.3, "uniform", None, {"top_p": 0.9}),
        ("corrected", 3, Cosine(), 0.3, "uniform", {1: 1}, {"guidance": 1.0}),
    ],
)
def test_they_follow_their_own_chain(kind, steps, schedule, mask_share, spacing, given, settings):
    sampler = make_sampler(kind, steps, schedule, mask_share, spacing, **settings)
    denoise = JOINT.leave_one_out_denoiser(schedule, mask_share)
    counts = sample(JOINT, sampler, denoise, given, rows=25_000)
    chain = Chain(JOINT, schedule, mask_share, given, **settings)
    assert chi_square(counts, chain.run(matrices(chain, kind, steps, spacing))) > 1e-3


@pytest.mark.parametrize("kind", ["ancestral", "ddim 0.4"])
def test_one_step_moves_as_its_matrix(kind):
    """From one state: sharper than what is left at the end, where many errors cancel."""
    chain, sampler = Chain(JOINT, LINEAR, 0.3), make_sampler(kind, 3, mask_share=0.3)
    denoise = JOINT.leave_one_out_denoiser(LINEAR, 0.3)
    step = jax.jit(lambda state: sampler.step(denoise, state).tokens_BxL)
    state = sampler.start(denoise, open_canvas(JOINT, SAMPLES), keys(SAMPLES))
    tokens_BxL = state.tokens_BxL.at[:, 1:].set(chain.ids[chain.states[1]])
    found = chain.places(step(state._replace(tokens_BxL=tokens_BxL, step_B=state.step_B + 1)))
    matrix = list(matrices(chain, kind, 3))[1]
    assert chi_square(np.bincount(found, minlength=len(chain.states)), matrix[1]) > 1e-3


def test_the_chains_tend_to_the_joint_and_their_distance_is_reported():
    """DDIM's more slowly, the more of the noise is drawn anew at each step."""
    joint, all_steps = SmallJoint(3, 3, seed=2), (1, 2, 4, 8, 16, 32, 64)
    print("\ntotal variation from the joint by steps\n" + " " * 22, *(f"{n:6}" for n in all_steps))
    distances = {}
    for mask_share in (0.0, 0.3):
        chain = Chain(joint, LINEAR, mask_share)
        for kind in KINDS:
            line = [
                total_variation(chain.run(matrices(chain, kind, n)), joint.p) for n in all_steps
            ]
            distances[kind, mask_share] = line
            print(f"{kind:12} mask {mask_share:.1f}", *(f"{d:6.4f}" for d in line))
    for mask_share in (0.0, 0.3):
        for kind in ("ancestral", "ddim 0", "corrected"):
            line = np.array(distances[kind, mask_share])
            # One step draws the tokens independently; then the error falls as 1 / steps.
            assert line[0] > 0.05 and (line[3:] < 0.6 * line[2:-1]).all() and line[-1] < 0.01
        assert distances["corrected", mask_share][2] < distances["ancestral", mask_share][2] / 5


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("corrected", 8),
        pytest.param("ancestral", 128, marks=pytest.mark.slow),
        pytest.param("ddim 0", 128, marks=pytest.mark.slow),
    ],
)
def test_many_steps_draw_from_the_joint(kind, steps):
    joint = SmallJoint(2, 3, seed=2) if kind == "corrected" else JOINT
    counts = sample(
        joint, make_sampler(kind, steps, joint=joint), joint.leave_one_out_denoiser(LINEAR)
    )
    assert chi_square(counts, joint.p) > 1e-3
    assert (
        chi_square(counts, SmallJoint(joint.symbols, joint.length, seed=3).p) == 0
    )  # the test can tell


@pytest.mark.parametrize(("mask_share", "given"), [(0.0, None), (0.3, {1: 2})])
def test_the_corrector_leaves_the_law_of_its_level_as_it_is(mask_share, given):
    s, schedule = 0.35, Cosine()
    chain = Chain(JOINT, schedule, mask_share, given)
    level, gibbs = chain.level(s), chain.gibbs(s)
    np.testing.assert_allclose(level @ gibbs, level, atol=1e-12)

    # The code's corrector moves as that matrix, from a state and from all of them.
    sampler = make_sampler("corrected", 1, schedule, mask_share)
    denoise = JOINT.leave_one_out_denoiser(schedule, mask_share)
    s_B = jnp.full(SAMPLES, s)
    correct = jax.jit(lambda state, keys_B: sampler.correct(denoise, state, keys_B, s_B))
    begun = sampler.start(denoise, open_canvas(JOINT, SAMPLES, given), keys(SAMPLES))
    for start in (
        np.full(SAMPLES, 1),
        np.random.default_rng(0).choice(len(level), SAMPLES, p=level),
    ):
        tokens_BxL = begun.tokens_BxL.at[:, 1:].set(chain.ids[chain.states[start]])
        moved = correct(begun._replace(tokens_BxL=tokens_BxL), keys(SAMPLES, seed=1))
        counts = np.bincount(chain.places(moved), minlength=len(level))
        expected = np.bincount(start, minlength=len(level)) / SAMPLES @ gibbs
        assert chi_square(counts, expected) > 1e-3


def keys(rows: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), rows)


@pytest.mark.parametrize("kind", ["ddim 0.4", "corrected"])
def test_rows_do_not_depend_on_their_neighbours_or_on_padding(kind):
    """Rows of different prompts, and the same among others on a canvas that is longer."""
    joint = SmallJoint(3, 3, seed=2)
    sampler = make_sampler(kind, 5, mask_share=0.3, joint=joint, top_p=0.9, temperature=0.8)
    denoise = padded(joint.leave_one_out_denoiser(LINEAR, 0.3))
    canvas = jax.tree.map(
        lambda *x: jnp.concatenate(x), *(open_canvas(joint, 4, g) for g in ({}, {0: 1}, {1: 2}))
    )
    texts = fill(sampler, denoise, canvas, keys(12))
    longer = lengthened(canvas, 3, joint.vocabulary.pad_id)
    chosen = np.array([11, 0, 6, 5, 2])
    again = fill(sampler, denoise, jax.tree.map(lambda x: x[chosen], longer), keys(12)[chosen])
    np.testing.assert_array_equal(again[:, :4], texts[chosen])
    assert (again[:, 4:] == joint.vocabulary.pad_id).all()
    given = np.asarray(~canvas.holes_BxL)
    np.testing.assert_array_equal(texts[given], np.asarray(canvas.tokens_BxL)[given])


def lengthened(canvas, by, pad_id):
    tokens_BxL, holes_BxL, layout = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, by))), canvas)
    tokens_BxL = jnp.where(layout.segments_BxL == 0, pad_id, tokens_BxL)
    return canvas._replace(tokens_BxL=tokens_BxL, holes_BxL=holes_BxL, layout=layout)


def padded(denoise) -> Denoiser:
    """Returns a denoiser of 4 positions for rows that are longer."""

    def logits(tokens_BxL, t_BxL, layout):
        short = jax.tree.map(lambda x: x[:, :4], (tokens_BxL, t_BxL, layout))
        more = tokens_BxL.shape[1] - 4
        return jnp.pad(denoise.logits(*short), ((0, 0), (0, more), (0, 0)))

    return Denoiser.from_logits(logits)


@pytest.mark.parametrize("kind", ["ancestral", "ddim 0.4"])
def test_masks_in_the_noise_are_gone_at_the_end(kind):
    sampler = make_sampler(kind, 2, mask_share=0.95)
    state = sampler.start(None, open_canvas(JOINT, 100), keys(100))
    assert (state.tokens_BxL == JOINT.vocabulary.mask_id).sum() > 150
    # `sample` refuses what is not text.
    sample(JOINT, sampler, JOINT.leave_one_out_denoiser(LINEAR, 0.95), rows=100)


def test_a_row_without_holes_is_done():
    canvas = open_canvas(JOINT, 2, {0: 1, 1: 2})
    sampler = make_sampler("corrected", 3)
    state = jax.jit(lambda canvas: sampler.start(None, canvas, keys(2)))(canvas)
    assert state.done_B.all()
    np.testing.assert_array_equal(state.tokens_BxL, canvas.tokens_BxL)


def test_the_probability_of_noise_is_accurate_at_extreme_times():
    sampler = make_sampler("ancestral", 1)
    symbols = JOINT.symbols + 1
    for t in (1e-6, 1e-3, 0.5, 1 - 1e-3, 1 - 2.0**-20, 1.0):
        for p in (0.0, 1e-6, 0.3, 1.0):
            t = float(np.float32(t))
            log_p_1xV = jnp.log(jnp.asarray([[p, 1 - p]]))
            r = float(sampler.is_noise(jnp.zeros(1, jnp.int32), log_p_1xV, t)[0])
            expected = t / symbols / ((1 - t) * p + t / symbols)
            assert r == pytest.approx(expected, rel=1e-5)
