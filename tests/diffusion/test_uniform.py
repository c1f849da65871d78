"""Uniform diffusion: formulas against rates in float64, the bound against the entropy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dlms_jax.diffusion import (
    Cosine,
    Denoiser,
    Layout,
    Linear,
    Polynomial,
    Prompts,
    Vocabulary,
    make_batch,
)
from dlms_jax.diffusion.uniform import Uniform, integrand
from dlms_jax.testing import Joint

VOCABULARY = Vocabulary(size=9, pad_id=5, bos_id=6, eos_id=7, mask_id=8)
TEXT = [0, 1, 2, 3, 4, 7]


def rates_integrand(p_S, x, z, m, pi_S):
    """Returns the integrand over log m, in float64, from the rates of the jumps that leave z: true
    ones r, given x, and the network's r' (generalised KL of r from r'). State S-1 is the mask."""
    q_S = (1 - m) * np.eye(len(pi_S))[x] + m * pi_S
    qbar_S = (1 - m) * p_S + m * pi_S
    r_S, learned_S = (np.delete(pi_S[z] * law / law[z], z) for law in (q_S, qbar_S))
    gap_S = learned_S - r_S
    total = np.sum(gap_S - r_S * np.log1p(np.divide(gap_S, r_S, where=r_S > 0, out=0 * r_S)))
    return m / (1 - m) * total  # beta dt = m / alpha d(log m)


@pytest.mark.parametrize("mask_share", [0.0, 0.4])
def test_integrand_is_that_of_the_rates_in_float64_at_all_times(mask_share):
    """At 1 - alpha from 1e-6 to 1 - 1e-6, for flat, random and nearly certain networks."""
    rng, symbols = np.random.default_rng(0), 300
    m_M = np.concatenate([np.geomspace(1e-6, 0.5, 12), 1 - np.geomspace(1e-6, 0.4, 12)])
    m_M = m_M.astype(np.float32)
    logits = rng.normal(size=(20, symbols)) * np.geomspace(0.01, 12, 20)[:, None]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    u = (1 - mask_share) / symbols
    pi_S = np.append(np.full(symbols, u), mask_share)
    cases = [
        (number, x, z, m)
        for number, m in itertools.product(range(20), m_M)
        for x, z in ([(0, 0), (1, 2), (3, 4)] + [(5, symbols)] * (mask_share > 0))
    ]
    expected = [rates_integrand(np.append(p[i], 0.0), x, z, float(m), pi_S) for i, x, z, m in cases]
    number, x, z, m = map(np.array, zip(*cases, strict=True))
    logits = np.pad(logits, ((0, 0), (0, 1)), constant_values=-np.inf).astype(np.float32)[number]
    at = logits, x, z, m
    got = jax.jit(integrand)(*(array[:, None] for array in at), u)[:, 0]
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-6)


def quadrature(joint, denoise, mask_share, nodes=48):
    """Returns the bound, averaged over the joint: the sum over all x and all x_t with their
    probabilities, integrated over s (1 - alpha = s^2) by Gauss-Legendre. No Monte Carlo."""
    text = np.flatnonzero(joint.vocabulary.text_bias_V() == 0)
    u = (1 - mask_share) / len(text)
    states = [*text, joint.vocabulary.mask_id] if mask_share else text
    noisy = np.array(list(itertools.product(states, repeat=joint.length)))
    x_RxL = np.repeat(joint.texts, len(noisy), axis=0)
    z_RxL = np.tile(noisy, (len(joint.texts), 1))
    batch = joint.batch(x_RxL)
    inputs_BxL = batch.tokens_BxL.at[:, 1:].set(z_RxL)
    pi_RxL = np.where(z_RxL == joint.vocabulary.mask_id, mask_share, u)

    @jax.jit
    def at(s):
        t_BxL = jnp.where(batch.scored_BxL, s**2, 0.0)
        logits = denoise.logits(inputs_BxL, t_BxL, batch.layout)
        logits += joint.vocabulary.text_bias_V()[None, None]
        return integrand(logits, batch.tokens_BxL, inputs_BxL, t_BxL, u)[:, 1:].sum(axis=1)

    total, (points, weights) = 0.0, np.polynomial.legendre.leggauss(nodes)
    for s, weight in zip((points + 1) / 2, weights / 2, strict=True):
        q_R = ((1 - s**2) * (x_RxL == z_RxL) + s**2 * pi_RxL).prod(axis=1)
        q_R *= np.repeat(joint.p, len(noisy))
        total += weight * 2 / s * (q_R * np.asarray(at(s), np.float64)).sum()
    return total


@pytest.mark.parametrize(
    ("symbols", "length", "mask_share"), [(3, 2, 0.0), (2, 3, 0.0), (3, 2, 0.3), (2, 3, 0.95)]
)
def test_bound_of_the_exact_network_is_the_entropy(symbols, length, mask_share):
    joint = Joint(symbols, length, seed=1)
    denoise = joint.leave_one_out_denoiser(Linear(), mask_share)
    assert quadrature(joint, denoise, mask_share) == pytest.approx(joint.entropy, abs=1e-4)


@pytest.mark.parametrize("mask_share", [0.0, 0.3])
def test_bound_of_any_other_network_is_above_the_entropy(mask_share):
    """The ordinary posterior, which knows x_t,i too, is such a one; and the less it matters where
    masks do not show x_t,i anyway."""
    joint, other = Joint(3, 2, seed=1), Joint(3, 2, seed=2)
    posterior = joint.leave_one_out_denoiser(Linear(), mask_share, leave_out=False)
    assert quadrature(joint, posterior, mask_share) > joint.entropy + 0.3
    wrong = other.leave_one_out_denoiser(Linear(), mask_share)
    assert quadrature(joint, wrong, mask_share) > joint.entropy + 0.1
    exact = joint.leave_one_out_denoiser(Linear(), mask_share)
    noise = 0.1 * np.random.default_rng(0).normal(size=joint.vocabulary.padded_size).astype(
        np.float32
    )
    near = Denoiser.from_logits(lambda *inputs: exact.logits(*inputs) + noise[None, None])
    assert quadrature(joint, near, mask_share) > joint.entropy + 5e-4


@pytest.mark.parametrize(
    ("schedule", "mask_share", "seed"),
    [(Cosine(), 0.3, 1), (Polynomial(2.0), 0.0, 1), (Linear(), 0.0, 2)],
)
def test_bound_and_loss_estimate_the_quadrature_whatever_the_schedule(schedule, mask_share, seed):
    """Of the exact network the entropy; of that of another joint, more."""
    joint, network = Joint(3, 2, seed=1), Joint(3, 2, seed)
    copies, samples = 60, 4
    objective = Uniform(joint.vocabulary, schedule, mask_share)
    denoise = network.leave_one_out_denoiser(schedule, mask_share)
    batch = joint.batch(np.tile(joint.texts, (copies, 1)))
    rows = jax.tree.map(lambda x: x[:, None], batch)  # a batch of one each
    p = np.tile(joint.p, copies) / copies

    @jax.jit
    def estimate(key):
        def bound(sample):
            return objective.bound(denoise, batch, key, sample, samples)

        nats_B = jax.lax.map(bound, jnp.arange(samples)).sum(axis=(0, 2)) / samples
        losses_B = jax.vmap(lambda row: objective.loss(denoise, row, key).total)(rows)
        return jnp.sum(nats_B * p), jnp.sum(losses_B * p)

    runs = np.array([estimate(jax.random.key(seed)) for seed in range(30)])
    error = runs.std(axis=0) / np.sqrt(len(runs))
    if seed == 1:
        expected = joint.entropy
    else:
        exact = network.leave_one_out_denoiser(Linear(), mask_share)
        expected = quadrature(joint, exact, mask_share)
        assert expected > joint.entropy + 0.1
    assert (error < [0.04, 0.15]).all()
    assert (abs(runs.mean(axis=0) - expected) < 4 * error).all()


def test_with_nothing_but_masks_as_noise_the_bound_is_the_masked_one():
    """-log p of the token at a mask, 0 elsewhere (over log m; Masked's weight is dlog m / dt)."""
    logits = jax.random.normal(jax.random.key(0), (1, 8, 9)).at[..., 8].set(-jnp.inf)
    x_BxL = jnp.arange(8)[None]
    m_BxL = jnp.linspace(0.05, 0.95, 8)[None]
    nll_BxL = -jnp.take_along_axis(jax.nn.log_softmax(logits), x_BxL[..., None], axis=-1)[..., 0]
    nats = jax.jit(lambda z_BxL: integrand(logits, x_BxL, z_BxL, m_BxL, 1e-9))
    np.testing.assert_allclose(nats(jnp.full((1, 8), 8)), nll_BxL, rtol=1e-5)
    np.testing.assert_allclose(nats(x_BxL), 0, atol=1e-6)


def test_the_gradient_keeps_the_logits_and_nothing_else_of_their_size():
    logits = jax.random.normal(jax.random.key(0), (2, 3, 500))
    x_BxL = jnp.zeros((2, 3), jnp.int32)
    arguments = x_BxL, x_BxL + 1, jnp.full((2, 3), 0.3), 1 / 500
    _, gradient = jax.vjp(lambda logits: integrand(logits, *arguments), logits)
    large = [x for x in jax.tree.leaves(gradient) if x.size >= logits.size]
    assert len(large) == 1
    np.testing.assert_array_equal(large[0], logits)


def packed(rows, lengths=(30, 20)):
    """Returns rows of documents, the last 5 tokens of each given, and 2 cells of padding."""
    segments = np.concatenate([np.full(n, i + 1) for i, n in enumerate(lengths)] + [np.zeros(2)])
    positions = np.concatenate([np.arange(n) for n in lengths] + [np.zeros(2)])
    given = np.concatenate([np.arange(n) >= n - 5 for n in lengths] + [np.zeros(2, bool)])
    tokens = np.where(segments == 0, 5, np.where(positions == 0, 6, 1))
    tile = lambda x: jnp.asarray(np.tile(x, (rows, 1)), jnp.int32)  # noqa: E731
    scored = tile((positions > 0) & ~given).astype(bool)
    return make_batch(tile(tokens), tile(segments), tile(positions), scored, jnp.arange(rows))


@pytest.mark.parametrize("mask_share", [0.0, 0.25])
def test_noise_has_its_law_and_no_other_token_has_noise(mask_share):
    batch, m = packed(400), 0.3
    objective = Uniform(VOCABULARY, Linear(), mask_share)
    corrupt = jax.jit(objective.corrupt)
    z_BxL = corrupt(batch, jnp.full(batch.tokens_BxL.shape, m), jax.random.key(0)).inputs
    scored_BxL = np.asarray(batch.scored_BxL)
    np.testing.assert_array_equal(z_BxL[~scored_BxL], batch.tokens_BxL[~scored_BxL])
    counts = np.bincount(z_BxL[scored_BxL], minlength=9)
    p = np.zeros(9)
    p[TEXT] = m * (1 - mask_share) / len(TEXT)
    p[8] = m * mask_share
    p[1] += 1 - m
    assert counts[p == 0].sum() == 0
    assert stats.chisquare(counts[p > 0], p[p > 0] * scored_BxL.sum()).pvalue > 1e-3


def seen_by(objective, batch, key, kind):
    """Returns (inputs_BxL, t_BxL, result) of one loss or bound."""
    return tuple(map(np.asarray, _program(objective, kind)(batch, jax.random.key(key))))


@functools.cache
def _program(objective, kind):
    @jax.jit
    def compute(batch, key):
        seen = []

        def logits(inputs_BxL, t_BxL, layout):
            seen.append((inputs_BxL, t_BxL))
            return jnp.zeros((*inputs_BxL.shape, VOCABULARY.padded_size))

        denoise = Denoiser.from_logits(logits)
        if kind == "loss":
            result = objective.loss(denoise, batch, key).total
        else:
            result = objective.bound(denoise, batch, key, 1, 3)
        return *seen[0], result

    return compute


@pytest.mark.parametrize("kind", ["loss", "bound"])
def test_time_is_one_a_document_and_0_where_nothing_is_noisy(kind):
    batch = packed(6)
    objective = Uniform(VOCABULARY, Linear(), 0.2)
    inputs_BxL, t_BxL, result = seen_by(objective, batch, 1, kind)
    scored_BxL, segments_BxL = map(np.asarray, (batch.scored_BxL, batch.layout.segments_BxL))
    assert (t_BxL[~scored_BxL] == 0).all()
    times = {
        tuple(np.unique(t_BxL[row][scored_BxL[row] & (segments_BxL[row] == document)]))
        for row, document in itertools.product(range(6), (1, 2))
    }
    assert len(times) == 12 and all(len(t) == 1 and 0 < t[0] <= 1 for t in times)
    np.testing.assert_array_equal(inputs_BxL[~scored_BxL], batch.tokens_BxL[~scored_BxL])
    if kind == "bound":
        assert (result[~scored_BxL] == 0).all() and (result[scored_BxL] > 0).all()


@pytest.mark.parametrize("kind", ["loss", "bound"])
def test_a_rows_noise_depends_on_key_and_row_alone(kind):
    """Not on its neighbours, nor on padding at its end."""
    batch, key = packed(8), 3
    objective = Uniform(VOCABULARY, Cosine(), 0.2, Prompts(drop=0.5, random=0.5))
    whole = seen_by(objective, batch, key, kind)[:2]
    part = jax.tree.map(lambda x: x[3:6], batch)
    wide = jax.tree.map(lambda x: x if x.ndim == 1 else jnp.pad(x, ((0, 0), (0, 7))), batch)
    for all_rows, some, longer in zip(
        whole, seen_by(objective, part, key, kind)[:2], seen_by(objective, wide, key, kind)[:2],
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(all_rows[3:6], some)
        np.testing.assert_array_equal(all_rows, longer[:, : all_rows.shape[1]])
    other = seen_by(objective, batch, 4, kind)[0]
    assert (other != whole[0]).mean() > 0.1


@pytest.mark.parametrize(("symbols", "dtype"), [(1, jnp.float32), (50_000, jnp.bfloat16)])
def test_extreme_times_and_networks_give_finite_nats_and_gradients(symbols, dtype):
    """t at both ends, up to what powers of t underflow to; networks that are certain, and wrong."""
    m_L = jnp.array([0.0, 1e-38, 1e-30, 2.0**-48, 1e-7, 0.5, 1 - 2.0**-24, 1.0])
    shape = 3, m_L.size
    z_BxL = jnp.broadcast_to(jnp.array([0, symbols - 1, symbols])[:, None], shape)
    m_BxL = jnp.broadcast_to(m_L[None], shape)

    @jax.jit
    def nats_and_gradient(certain_of):
        logits = jnp.zeros((*shape, symbols + 1)).at[..., certain_of].set(40.0)
        logits = logits.at[..., symbols].set(-jnp.inf).astype(dtype)

        def total(logits):
            x_BxL = jnp.zeros(shape, jnp.int32)
            nats = integrand(logits.astype(jnp.float32), x_BxL, z_BxL, m_BxL, 1 / symbols)
            return nats.sum(), nats

        (_, nats), gradient = jax.value_and_grad(total, has_aux=True)(logits)
        return nats, gradient.astype(jnp.float32)

    for certain_of in (0, symbols - 1):
        nats, gradient = nats_and_gradient(certain_of)
        assert np.isfinite(nats).all() and np.isfinite(gradient).all()
        assert (np.asarray(nats) > -1e-5).all()
        if symbols == 1:
            np.testing.assert_allclose(nats[:2], 0, atol=1e-6)  # there is nothing to learn


def test_rows_without_scored_tokens_give_0():
    layout = Layout(jnp.ones((2, 1), jnp.int32), jnp.zeros((2, 1), jnp.int32))
    tokens_BxL = jnp.full((2, 1), 6)
    batch = make_batch(tokens_BxL, *layout[:2], layout.positions_BxL > 0, jnp.arange(2))
    objective = Uniform(VOCABULARY, Linear())
    for kind in ("loss", "bound"):
        assert (seen_by(objective, batch, 0, kind)[2] == 0).all()
