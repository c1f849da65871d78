"""Gaussian diffusion's samplers: against the joint, against their own chains by quadrature, and
what their network reads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling.chains import (
    SmallJoint,
    chi_square,
    fill,
    open_canvas,
    sample,
    total_variation,
)
from scipy import stats
from scipy.special import expit, softmax

from dlms_jax.config import GaussianConfig
from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.gaussian import Gaussian
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes.gaussian import DDIM, ProbabilityFlow
from dlms_jax.testing import exact_gaussian_denoiser

JOINT = SmallJoint(3, 2, seed=2)
# The exact network has no use for an estimate.
CONFIG = GaussianConfig(embedding_size=2, gamma_min=-8.0, gamma_max=12.0, self_conditioning=False)


def circle(turns) -> jax.Array:
    """Returns table_VxE of unit vectors in the plane, by their angles in turns."""
    angles = 2 * np.pi * np.asarray(turns)
    return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1), jnp.float32)


# The symbols, padding, BOS, EOS, mask.
TABLE = circle([0, 2 / 7, 5 / 7, 1 / 7, 3 / 7, 4 / 7, 6 / 7])

KINDS = {
    "ancestral": (DDIM, {"eta": 1.0}),
    "ddim 0": (DDIM, {"eta": 0.0}),
    "ddim 0.5": (DDIM, {"eta": 0.5}),
    "euler": (ProbabilityFlow, {"order": "euler"}),
    "heun": (ProbabilityFlow, {"order": "heun"}),
    "dpm++": (ProbabilityFlow, {"order": "dpm++"}),
}


def make_sampler(kind, steps, joint=JOINT, config=CONFIG, schedule="linear", spacing="uniform",
                 clamp=False, **settings):  # fmt: skip
    sampler, more = KINDS[kind]
    objective = Gaussian(joint.vocabulary, config, schedule)
    prediction = Prediction(joint.vocabulary, **settings)
    return sampler(prediction, objective, steps, spacing, clamp, **more)


def keys(rows: int, seed: int = 0):
    return jax.random.split(jax.random.key(seed), rows)


# The joint ----------------------------------------------------------------------------------------

EMBEDDING_HEAD = dataclasses.replace(CONFIG, head="embedding", parameterisation="v")


@pytest.mark.parametrize(
    ("kind", "steps", "config", "schedule"),
    [
        ("heun", 14, CONFIG, "cosine"),
        ("dpm++", 30, EMBEDDING_HEAD, "linear"),
        pytest.param("dpm++", 32, CONFIG, "linear", marks=pytest.mark.slow),
        pytest.param("ancestral", 256, CONFIG, "cosine", marks=pytest.mark.slow),
        pytest.param("ddim 0.5", 256, CONFIG, "cosine", marks=pytest.mark.slow),
        pytest.param("euler", 512, CONFIG, "cosine", marks=pytest.mark.slow),
    ],
)
def test_many_steps_draw_from_the_joint(kind, steps, config, schedule):
    sampler = make_sampler(kind, steps, config=config, schedule=schedule)
    counts = sample(JOINT, sampler, exact_gaussian_denoiser(JOINT, config, TABLE))
    assert chi_square(counts, JOINT.p) > 1e-3
    assert chi_square(counts, SmallJoint(3, 2, seed=3).p) == 0  # the test can tell


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_more_steps_come_closer_to_the_joint(kind):
    """benchmarks/sampler_distance.py --all prints the whole table."""
    denoise, distances = exact_gaussian_denoiser(JOINT, CONFIG, TABLE), {}
    for steps in (1, 4, 16):
        counts = sample(JOINT, make_sampler(kind, steps, schedule="cosine"), denoise)
        distances[steps] = total_variation(counts / counts.sum(), JOINT.p)
    print(f"gaussian {kind}, total variation from the joint by steps: {distances}")
    assert distances[1] > 0.1  # one step draws the tokens independently
    assert distances[16] < distances[4] / 2 and distances[16] < 0.05


# One hole of two symbols, at (1, 0) and (-1, 0): the chain is one of a number ---------------------

PAIR = SmallJoint(2, 2, seed=4)
PAIR_TABLE = circle([0, 1 / 2, 1 / 8, 3 / 8, 7 / 8, 1 / 4])
PAIR_CONFIG = dataclasses.replace(CONFIG, gamma_min=-4.0, gamma_max=4.0)
GIVEN = 1


def pair_denoiser() -> Denoiser:
    """Returns p(second symbol | first), exact; of a prompt at the mask's embedding, p(second)."""
    p = PAIR.p.reshape(2, 2)
    none = np.full(PAIR.vocabulary.padded_size - 2, -np.inf)
    table_KxV = np.stack(
        [np.append(np.log(q), none) for q in (p[GIVEN] / p[GIVEN].sum(), p.sum(0))]
    )

    def logits(noisy, t_BxL, layout):
        hidden_B = noisy.z_BxLxE[:, 1] @ PAIR_TABLE[PAIR.vocabulary.mask_id] > 0.999
        log_p_BxV = jnp.asarray(table_KxV, jnp.float32)[hidden_B.astype(jnp.int32)]
        clean_BxL = layout.prompt_mask_BxL | (layout.positions_BxL == 0)
        logits_BxLxV = jnp.broadcast_to(log_p_BxV[:, None], (*t_BxL.shape, log_p_BxV.shape[1]))
        return jnp.where((clean_BxL & (t_BxL > 0))[..., None], jnp.nan, logits_BxLxV)

    return Denoiser.from_logits(logits, table_VxE=PAIR_TABLE)


class PairChain:
    """The samplers on one number z, the hole's first component, in float64."""

    def __init__(self, temperature=1.0, top_p=1.0, guidance=0.0, clamp=False):
        self.temperature, self.top_p, self.clamp = temperature, top_p, clamp
        p = PAIR.p.reshape(2, 2)
        log_p, without = np.log(p[GIVEN] / p[GIVEN].sum()), np.log(p.sum(axis=0))
        self.logits = (1 + guidance) * log_p - guidance * without

    def p(self, z, gamma) -> np.ndarray:
        """Returns what is drawn from, [Z, 2]."""
        bias = np.sqrt(expit(-gamma)) / expit(gamma) * z[:, None] * np.array([1.0, -1.0])
        logits = self.logits + bias
        if self.temperature == 0:
            return np.eye(2)[logits.argmax(axis=1)]
        p = softmax(logits / self.temperature, axis=1)
        if self.top_p < 1:
            p = np.where((p.max(axis=1) >= self.top_p)[:, None], p == p.max(axis=1)[:, None], p)
        return p / p.sum(axis=1, keepdims=True)

    def x_hat(self, z, gamma) -> np.ndarray:
        p = self.p(z, gamma)
        x_hat = p[:, 0] - p[:, 1]
        return np.where(x_hat >= 0, 1.0, -1.0) if self.clamp else x_hat

    def run(self, kind, steps) -> np.ndarray:
        """Returns p of the two symbols."""
        gammas = np.linspace(4.0, -4.0, steps)
        if kind in ("ancestral", "ddim 0.5"):
            return self._noisy(gammas, KINDS[kind][1]["eta"])
        z = stats.norm.ppf((np.arange(4_001) + 0.5) / 4_001)
        before = None
        for t, s in zip(gammas[:-1], gammas[1:], strict=True):
            x, slope = self.x_hat(z, t), np.zeros_like(z)
            if kind == "heun":
                ahead = self._along(z, t, s, x, slope)
                slope = (self.x_hat(ahead, s) - x) / (t - s)
            if kind == "dpm++" and before is not None:
                x_now, x = x, 1.5 * x - 0.5 * before  # the steps of gamma are equal
                before = x_now
            else:
                before = x
            z = self._along(z, t, s, x, slope)
        return self.p(z, gammas[-1]).mean(axis=0)

    def _along(self, z, t, s, x, slope):
        """Returns z at s, x_hat being x + slope (t - gamma): of y = z / alpha by lambda = -gamma/2,
        dy / d lambda = x_hat - y, by quadrature."""
        inner = np.linspace(-t / 2, -s / 2, 401)
        x_hat = x[:, None] + slope[:, None] * (t + 2 * inner)
        integral = np.trapezoid(np.exp(inner + s / 2) * x_hat, inner, axis=1)
        y = np.exp((s - t) / 2) * z / np.sqrt(expit(-t)) + integral
        return y * np.sqrt(expit(-s))

    def _noisy(self, gammas, eta):
        grid = np.linspace(-6, 6, 1201)
        weight = stats.norm.pdf(grid)
        for t, s in zip(gammas[:-1], gammas[1:], strict=True):
            alpha_t, alpha_s = np.sqrt(expit([-t, -s]))
            x = self.x_hat(grid, t)
            tau_squared = expit(s) * (1 - np.exp(s - t))
            noise = (grid - alpha_t * x) / np.sqrt(expit(t))
            mean = alpha_s * x + np.sqrt(expit(s) - eta**2 * tau_squared) * noise
            kernel = stats.norm.pdf(grid[None], mean[:, None], eta * np.sqrt(tau_squared))
            weight = weight @ kernel * (grid[1] - grid[0])
        return weight @ self.p(grid, gammas[-1]) / weight.sum()


@pytest.mark.parametrize(
    ("kind", "steps", "settings"),
    [
        ("ancestral", 1, {}),
        ("ancestral", 4, {}),
        ("ddim 0.5", 4, {"guidance": 1.5, "temperature": 0.7}),
        ("ddim 0", 4, {"guidance": 1.0}),
        ("ancestral", 3, {"top_p": 0.8}),
        ("ancestral", 4, {"clamp": True}),
        ("ddim 0", 3, {"temperature": 0.0}),
        ("heun", 5, {"guidance": 0.5, "temperature": 1.4}),
        ("dpm++", 5, {"guidance": 0.5}),
    ],
)
def test_one_hole_follows_its_own_chain(kind, steps, settings):
    sampler = make_sampler(kind, steps, PAIR, PAIR_CONFIG, **settings)
    counts = sample(PAIR, sampler, pair_denoiser(), {0: GIVEN}, rows=25_000).reshape(2, 2)
    assert counts[1 - GIVEN].sum() == 0
    assert chi_square(counts[GIVEN], PairChain(**settings).run(kind, steps)) > 1e-3


# What rows are told, and what stays ---------------------------------------------------------------


def lengthened(canvas, by: int, pad_id: int):
    tokens_BxL, holes_BxL, layout = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, by))), canvas)
    tokens_BxL = jnp.where(layout.segments_BxL == 0, pad_id, tokens_BxL)
    return canvas._replace(tokens_BxL=tokens_BxL, holes_BxL=holes_BxL, layout=layout)


def padded(denoise: Denoiser, length: int) -> Denoiser:
    """Returns a denoiser of so many positions for rows that may be longer."""

    def logits(noisy, t_BxL, layout):
        short = jax.tree.map(lambda x: x[:, :length], (noisy, t_BxL, layout))
        return jnp.pad(denoise.logits(*short), ((0, 0), (0, t_BxL.shape[1] - length), (0, 0)))

    return Denoiser.from_logits(logits, table_VxE=denoise.table_VxE)


def test_rows_do_not_depend_on_their_neighbours_or_on_padding():
    """Rows of different prompts, and the same among others on a canvas that is longer."""
    joint = SmallJoint(3, 3, seed=2)
    sampler = make_sampler("ddim 0.5", 4, joint, top_p=0.9, temperature=0.8)
    denoise = padded(exact_gaussian_denoiser(joint, CONFIG, TABLE), 4)
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


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_what_the_network_reads_at_each_pass(guidance):
    """Clean embeddings at BOS and at what is given (hidden: the mask's) with t=0; in holes noise,
    and beside it an estimate made at the same noise, as in training: without the network for a
    step's first pass, by that pass for its second."""
    config = dataclasses.replace(CONFIG, self_conditioning=True)
    exact, passes = exact_gaussian_denoiser(JOINT, config, TABLE), []

    def logits(noisy, t_BxL, layout):
        passes.append((noisy, t_BxL, layout))
        # The two halves of guidance must differ to be told apart.
        hidden_B = noisy.z_BxLxE[:, 1] @ TABLE[JOINT.vocabulary.mask_id] > 0.999
        return (
            exact.logits(noisy, t_BxL, layout) + hidden_B[:, None, None] * TABLE[None, None, :, 0]
        )

    denoise = Denoiser.from_logits(logits, table_VxE=exact.table_VxE)
    sampler = make_sampler("euler", 3, config=config, guidance=guidance, temperature=0.5)

    @jax.jit
    def step(state):
        passes.clear()
        return sampler.step(denoise, state), list(passes)

    @jax.jit
    def estimates(noisy, layout, i):
        """Of the first pass: what it reads, what it gives."""
        gamma_BxL = jnp.full(noisy.z_BxLxE.shape[:2], sampler.gamma(denoise, i))
        place = (denoise, noisy.z_BxLxE, gamma_BxL)
        holes_BxL = jnp.arange(gamma_BxL.shape[1])[None] * jnp.ones_like(gamma_BxL) > 1
        flat_BxLxE = sampler.objective.first_estimate(*place, holes_BxL)
        _, found_BxLxE = sampler.objective.predict(*place, layout, holes_BxL, flat_BxLxE)
        return flat_BxLxE, found_BxLxE

    state = sampler.start(denoise, open_canvas(JOINT, 2, {0: 1}), keys(2))
    v, rows = JOINT.vocabulary, 4 if guidance else 2
    given = [1, 1] + [v.mask_id] * (rows - 2)
    for i in range(3):
        hole_BxE = jnp.tile(state.extra.z_BxLxE[:, 2], (rows // 2, 1))
        state, (first, second) = step(state)
        for noisy, t_BxL, _ in (first, second):
            for x_BxLxE in noisy:
                np.testing.assert_array_equal(x_BxLxE[:, 0], TABLE[jnp.full(rows, v.bos_id)])
                np.testing.assert_array_equal(x_BxLxE[:, 1], TABLE[jnp.asarray(given)])
            assert not t_BxL[:, :2].any()
            np.testing.assert_allclose(t_BxL[:, 2], 1 - i / 2, atol=1e-6)
            np.testing.assert_array_equal(noisy.z_BxLxE[:, 2], hole_BxE)
        flat_BxLxE, found_BxLxE = estimates(first[0], first[2], i)
        np.testing.assert_allclose(first[0].estimate_BxLxE, flat_BxLxE, atol=1e-6)
        np.testing.assert_allclose(second[0].estimate_BxLxE, found_BxLxE, atol=1e-6)
        if i < 2:  # at the last z decides
            assert (flat_BxLxE[:, 2] != found_BxLxE[:, 2]).any()
        if i < 2 and guidance:
            assert (found_BxLxE[:2, 2] != found_BxLxE[2:, 2]).any()  # each half's own


def test_a_row_without_holes_is_done_and_bfloat16_logits_will_do():
    exact = exact_gaussian_denoiser(JOINT, CONFIG, TABLE)
    denoise = Denoiser.from_logits(
        lambda *x: exact.logits(*x).astype(jnp.bfloat16), table_VxE=exact.table_VxE
    )
    sampler, canvas = make_sampler("dpm++", 3), open_canvas(JOINT, 2, {0: 1, 1: 2})
    state = sampler.start(denoise, canvas, keys(2))
    assert state.done_B.all()
    state = sampler.step(denoise, state)
    np.testing.assert_array_equal(state.tokens_BxL, canvas.tokens_BxL)
    texts = fill(sampler, denoise, open_canvas(JOINT, 2), keys(2))
    assert (texts[:, 1:] < JOINT.symbols).all()


@pytest.mark.parametrize("schedule", ["learned", "gumbel"])
def test_a_schedule_with_parameters_is_followed(schedule):
    objective = Gaussian(JOINT.vocabulary, CONFIG, schedule)
    parameters_P = 0.02 * jnp.arange(66 if schedule == "learned" else 3)
    denoise = exact_gaussian_denoiser(JOINT, CONFIG, TABLE, schedule=parameters_P)
    sampler = make_sampler("heun", 5, schedule=schedule)
    gammas = jax.jit(lambda: jnp.stack([sampler.gamma(denoise, i) for i in range(5)]))()
    expected = objective.noise_schedule(denoise).gamma(jnp.linspace(1, 0, 5))
    np.testing.assert_allclose(gammas, expected, rtol=1e-6)
    assert np.ptp(np.diff(gammas)) > 1  # not the linear ones
