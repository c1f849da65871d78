"""Noise schedules: their formulas against float64, and what the learned ones learn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlms_jax.config import GaussianConfig
from dlms_jax.diffusion.gaussian import Gaussian, make_schedule, schedule_size
from dlms_jax.diffusion.gaussian.fit import fit_loss
from dlms_jax.diffusion.gaussian.gamma import Binned
from dlms_jax.testing import Joint, exact_gaussian_denoiser, random_table

KINDS = ["linear", "cosine", "sqrt", "learned", "warped", "gumbel"]
LEARNED = ["learned", "warped", "gumbel"]


def config_of(end, **settings):
    return GaussianConfig(
        embedding_size=4, gamma_min=-end, gamma_max=end, self_conditioning=False, **settings
    )


def parameters(kind, spread=0.1, seed=0):
    """Returns random parameters of a schedule, far from their start."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=schedule_size(kind)) * spread)


def reference(kind, end, t):
    """Returns gamma(t) of the fixed schedules in float64, 1 - t being exact."""
    sigmoid = lambda g: 1 / (1 + np.exp(-g))  # noqa: E731
    if kind == "linear":
        return -end + 2 * end * t
    if kind == "cosine":
        first, last = (np.arctan(np.exp(g / 2)) for g in (-end, end))
        return 2 * np.log(np.tan(first + (last - first) * t))
    first, last = (sigmoid(g) ** 2 for g in (-end, end))
    variance = np.sqrt(first + (last - first) * t)
    return np.log(variance) - np.log1p(-variance)


@pytest.mark.parametrize("end", [4.0, 15.0])
@pytest.mark.parametrize("kind", ["linear", "cosine", "sqrt"])
def test_fixed_schedules_are_those_of_float64(kind, end):
    schedule = make_schedule(kind, config_of(end))
    t = np.concatenate([[0.0, 1.0, 2.0**-20, 1 - 2.0**-20], np.linspace(0.01, 0.99, 50)])
    t = t.astype(np.float32).astype(np.float64)
    t32 = jnp.asarray(t, jnp.float32)
    np.testing.assert_allclose(schedule.gamma(t32), reference(kind, end, t), atol=1e-5)
    h = 1e-7 * (1 - 0.9 * (end > 10))
    inside = t[4:]
    slope = (reference(kind, end, inside + h) - reference(kind, end, inside - h)) / (2 * h)
    np.testing.assert_allclose(schedule.gamma_prime(t32[4:]), slope, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_schedules_rise_from_one_end_point_to_the_other(kind):
    schedule = make_schedule(kind, config_of(6.0), parameters(kind))
    t = jnp.linspace(0.0, 1.0, 2049)
    gamma = np.asarray(schedule.gamma(t), np.float64)
    assert (np.diff(gamma) > 0).all()
    if kind != "learned":  # whose end points move
        assert (schedule.gamma_min, schedule.gamma_max) == (-6.0, 6.0)
    np.testing.assert_allclose(gamma[[0, -1]], [schedule.gamma_min, schedule.gamma_max], atol=2e-6)
    if kind in LEARNED:  # piecewise linear: the slope is exact but where an edge lies between
        slope = np.asarray(schedule.gamma_prime((t[1:] + t[:-1]) / 2), np.float64)
        difference = np.diff(gamma) * 2048
        assert np.mean(np.abs(difference / slope - 1) > 5e-3) <= 63 / 2048


@pytest.mark.parametrize("kind", LEARNED)
def test_draws_have_the_density_that_they_say(kind):
    """Uniform t: the share of draws in a bin of gamma is the integral of the density there."""
    schedule = make_schedule(kind, config_of(6.0), parameters(kind))
    t = (jnp.arange(2**17) + 0.5) / 2**17
    low, high = float(schedule.gamma_min), float(schedule.gamma_max)
    bins = np.clip((np.asarray(schedule.gamma(t)) - low) / (high - low) * 64, 0, 63).astype(int)
    np.testing.assert_allclose(np.bincount(bins, minlength=64) / 2**17, schedule.mass_K, atol=4e-5)
    density = np.asarray(schedule.density(t))
    elsewhere = np.abs(density - np.asarray(schedule.mass_K)[bins] * 64) > 1e-4
    assert elsewhere.mean() < 1e-3  # at an edge, rounding may put a draw in the next bin
    assert density.min() >= 0.05 * 0.999  # what keeps the weights of rare draws bounded


@pytest.mark.parametrize("shift", [-1e4, -3.0, 3.0, 1e4])
def test_learned_schedules_survive_any_parameters(shift):
    """However far the parameters go: end points in order, shares positive, all of it finite."""
    for kind in LEARNED:
        parameters_P = jnp.linspace(-1.0, 1.0, schedule_size(kind)) * shift
        schedule = make_schedule(kind, config_of(15.0), parameters_P)
        gamma = schedule.gamma(jnp.linspace(0.0, 1.0, 100))
        assert np.isfinite(gamma).all() and (np.diff(gamma) > 0).all()
        assert schedule.gamma_max - schedule.gamma_min >= 15.0


@pytest.mark.parametrize("kind", LEARNED)
def test_all_start_as_the_truncated_gumbel_distribution(kind):
    """Location -2, scale 1, in float64; a twentieth uniform. What has to be able to grow from there
    has no bin below exp(-4) of the greatest."""
    schedule = make_schedule(kind, config_of(6.0), jnp.zeros(schedule_size(kind)))
    cdf = np.exp(-np.exp(-(np.linspace(-6, 6, 65) + 2)))
    shares = np.diff(cdf)
    if kind != "gumbel":
        shares = np.maximum(shares, shares.max() * np.exp(-4))
    expected = 0.95 * shares / shares.sum() + 0.05 / 64
    np.testing.assert_allclose(schedule.mass_K, expected, rtol=1e-4)


def fitted(kind, config, nats_of, steps, rate=3e-3, symbols=10):
    """Returns the schedule and parameters that Adam finds for nats_of(gamma, key), 256 a step."""
    tx = optax.adam(optax.cosine_decay_schedule(rate, steps), b2=0.95)

    @jax.jit
    def fit():
        def step(state, i):
            parameters_P, optimizer = state
            key, nats_key = jax.random.split(jax.random.fold_in(jax.random.key(0), i))
            t = jax.random.uniform(key, (256,))
            nats = nats_of(make_schedule(kind, config, parameters_P).gamma(t), nats_key)
            misfit = lambda p: fit_loss(kind, config, p, t, nats, symbols).mean()  # noqa: E731
            updates, optimizer = tx.update(jax.grad(misfit)(parameters_P), optimizer)
            return (optax.apply_updates(parameters_P, updates), optimizer), None

        start = jnp.zeros(schedule_size(kind))
        return jax.lax.scan(step, (start, tx.init(start)), jnp.arange(steps))[0][0]

    parameters_P = fit()
    return make_schedule(kind, config, parameters_P), parameters_P


def distance(schedule: Binned, density) -> float:
    """Returns the total variation between a schedule's bins and a density over gamma."""
    centres = np.linspace(schedule.gamma_min, schedule.gamma_max, 129)[1::2]
    mass = density(centres)
    mass = 0.95 * mass / mass.sum() + 0.05 / 64
    return float(np.abs(mass - np.asarray(schedule.mass_K)).sum() / 2)


def rising(gamma, key):
    """A noisy cross-entropy that rises by 1.8 about gamma = 2, from 0.1."""
    noise = 0.3 * jax.random.normal(key, gamma.shape)
    return 0.1 + 1.8 * jax.nn.sigmoid((gamma - 2) / 0.6) + noise


def test_warped_finds_where_a_known_cross_entropy_rises():
    def slope(gamma):
        rise = 1 / (1 + np.exp(-(gamma - 2) / 0.6))
        return rise * (1 - rise)

    config = config_of(6.0)
    assert distance(make_schedule("warped", config, parameters("warped", 0.0)), slope) > 0.5
    schedule, _ = fitted("warped", config, rising, steps=1500)
    assert distance(schedule, slope) < 0.12


def test_gumbel_finds_the_location_and_scale_of_a_known_cross_entropy():
    def rise(gamma, key):
        noise = 0.3 * jax.random.normal(key, gamma.shape)
        return 2.0 * jnp.exp(-jnp.exp(-(gamma - 1.0) / 0.7)) + noise

    def slope(gamma):
        u = np.exp(-(gamma - 1.0) / 0.7)
        return u * np.exp(-u)

    schedule, parameters_P = fitted("gumbel", config_of(6.0), rise, steps=1000)
    assert distance(schedule, slope) < 0.03
    height = np.log(10) * np.exp(20 * parameters_P[2])
    assert height == pytest.approx(2.0, abs=0.05)


def test_learned_finds_the_density_of_least_variance():
    """The second moment of g(gamma) / p(gamma) is least where p is proportional to g's root mean
    square: here g is exponentially distributed with mean exp(-(gamma - 1)^2 / 2)."""
    mean = lambda gamma: jnp.exp(-((gamma - 1) ** 2) / 2)  # noqa: E731

    def integrand(gamma, key):
        return mean(gamma) * jax.random.exponential(key, gamma.shape)

    schedule, _ = fitted("learned", config_of(6.0), integrand, steps=1500)
    assert distance(schedule, mean) < 0.12


def test_a_learned_schedule_makes_the_estimate_of_the_bound_less_noisy():
    """Trained as in a run, by the objective's own loss, against an exact network: the variance of
    the loss of one document is less than at the start, which is less than with a linear gamma."""
    joint, config = Joint(2, 2), config_of(6.0, loss="bound")
    table_VxE = random_table(joint.vocabulary.padded_size, 4)
    many = joint.batch(np.random.default_rng(0).permutation(np.tile(joint.texts, (64, 1))))
    one = joint.batch(joint.texts[:1])
    tx = optax.adam(optax.cosine_decay_schedule(3e-3, 400), b2=0.95)
    start = jnp.zeros(schedule_size("learned"))
    shape_only = jnp.arange(len(start)) < 64  # fixed ends: one integral for all

    def loss(kind, parameters_P, batch, key):
        denoise = exact_gaussian_denoiser(joint, config, table_VxE, schedule=parameters_P)
        return Gaussian(joint.vocabulary, config, kind).loss(denoise, batch, key).total

    @jax.jit
    def fit():
        def step(state, i):
            p, optimizer = state
            gradient = jax.grad(lambda p: loss("learned", p, many, jax.random.key(i)))(p)
            updates, optimizer = tx.update(gradient, optimizer)
            return (p + updates * shape_only, optimizer), None

        return jax.lax.scan(step, (start, tx.init(start)), jnp.arange(400))[0][0]

    @functools.partial(jax.jit, static_argnums=0)
    def estimates(kind, p):
        keys = jax.random.split(jax.random.key(1), 20_000)
        return jax.lax.map(lambda key: loss(kind, p, one, key), keys, batch_size=1000)

    settings = [("linear", start), ("learned", start), ("learned", fit())]
    linear, before, after = (np.asarray(estimates(*x), np.float64) for x in settings)
    for other in (linear, before):
        error = np.sqrt((other.var() + after.var()) / 20_000)
        assert abs(other.mean() - after.mean()) < 4 * error
    assert after.var() < 0.95 * before.var()
    assert after.var() < 0.7 * linear.var()
