"""The algebra of Gaussian diffusion against float64 references, from gamma = -15 to 15."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.diffusion.gaussian import (
    alpha_sigma,
    diffuse,
    from_x0,
    logit_bias,
    posterior,
    prior_kl,
    to_x0,
)

GAMMAS = [-15.0, -6.0, -0.5, 0.0, 2.0, 6.0, 15.0]
PARAMETERISATIONS = ["x0", "noise", "v", "score"]
EPSILON = 2.0**-23


def exact(gamma):
    """Returns (alpha, sigma) in float64."""
    return 1 / np.sqrt(1 + np.exp(gamma)), 1 / np.sqrt(1 + np.exp(-gamma))


def vectors(number, seed=0):
    """Returns `number` arrays of float32 values, BxLxE, as float64."""
    draws = np.random.default_rng(seed).normal(size=(number, 4, 3, 8)).astype(np.float32)
    return draws.astype(np.float64)


def float32(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


@pytest.mark.parametrize("gamma", GAMMAS)
def test_alpha_and_sigma_are_accurate_however_small(gamma):
    for value, reference in zip(alpha_sigma(jnp.float32(gamma)), exact(gamma), strict=True):
        assert abs(float(value) / reference - 1) < 16 * EPSILON


@pytest.mark.parametrize("gamma", GAMMAS)
def test_diffused_embeddings_are_those_of_float64(gamma):
    x, noise = vectors(2)
    alpha, sigma = exact(gamma)
    z = diffuse(*float32(x, noise), jnp.full((4, 3), gamma))
    tolerance = 16 * EPSILON * (alpha * np.abs(x) + sigma * np.abs(noise))
    assert (np.abs(z - (alpha * x + sigma * noise)) <= tolerance).all()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_parameterisations_are_linear_maps_of_one_another(gamma):
    """Every pair, by way of x0, against its definition in terms of x0 and noise. An error is
    measured against the terms that were added, for what cancels in them cannot be known better."""
    x, noise = vectors(2)
    alpha, sigma = exact(gamma)
    z = alpha * x + sigma * noise
    of = {"x0": x, "noise": noise, "v": alpha * noise - sigma * x, "score": -noise / sigma}
    # What goes into x0 from (z, output), and into the output from (z, x0), in size.
    into_x0 = {
        "x0": np.abs(x), "noise": (np.abs(z) + sigma * np.abs(noise)) / alpha,
        "v": alpha * np.abs(z) + sigma * np.abs(of["v"]),
        "score": (np.abs(z) + sigma * np.abs(noise)) / alpha,
    }  # fmt: skip
    out_of_x0 = {
        "x0": np.abs(x), "noise": (np.abs(z) + alpha * np.abs(x)) / sigma,
        "v": (alpha * np.abs(z) + np.abs(x)) / sigma,
        "score": (np.abs(z) + alpha * np.abs(x)) / sigma**2,
    }  # fmt: skip
    amplify = {"x0": 1, "noise": alpha / sigma, "v": 1 / sigma, "score": alpha / sigma**2}
    gamma_BxL = jnp.full((4, 3), gamma)
    for one, other in itertools.product(PARAMETERISATIONS, repeat=2):
        output, z32 = float32(of[one], z)
        x0 = to_x0(output, z32, gamma_BxL, one)
        error = 16 * EPSILON * into_x0[one]
        assert (np.abs(x0 - x) <= error).all(), one
        error = amplify[other] * error + 16 * EPSILON * out_of_x0[other]
        assert (np.abs(from_x0(x0, z32, gamma_BxL, other) - of[other]) <= error).all(), (one, other)


@pytest.mark.parametrize("convert", [to_x0, from_x0])
def test_an_unknown_parameterisation_is_refused(convert):
    with pytest.raises(ValueError, match="epsilon"):
        convert(jnp.zeros((1, 1, 2)), jnp.zeros((1, 1, 2)), jnp.zeros((1, 1)), "epsilon")


@pytest.mark.parametrize("gamma", GAMMAS)
def test_logit_bias_is_the_log_likelihood_of_the_symbols(gamma):
    """Differences between symbols equal those of -|z - alpha e|^2 / (2 sigma^2)."""
    z, table = vectors(2)
    table = table.reshape(-1, 8) / np.linalg.norm(table.reshape(-1, 8), axis=1, keepdims=True)
    z32, table32 = float32(z, table)
    z, table = np.asarray(z32, np.float64), np.asarray(table32, np.float64)
    alpha, sigma = exact(gamma)
    rows = table / np.linalg.norm(table, axis=1, keepdims=True)
    squares = ((z[:, :, None] - alpha * rows[None, None]) ** 2).sum(axis=-1)
    expected = -squares / (2 * sigma**2)
    value = np.asarray(logit_bias(z32, jnp.full((4, 3), gamma), table32), np.float64)
    error = value - value[..., :1] - (expected - expected[..., :1])
    size = alpha / sigma**2 * np.linalg.norm(z, axis=-1, keepdims=True)
    assert (np.abs(error) <= 32 * EPSILON * size).all()


NEAR = 2.0**-10
PAIRS = [(-15.0, -15.0 + NEAR), (15.0 - NEAR, 15.0), (-15.0, 15.0), (-1.0, 0.5), (3.0, 3.0 + NEAR)]


@pytest.mark.parametrize(("gamma_s", "gamma_t"), PAIRS)
def test_posterior_is_that_of_two_jointly_normal_variables(gamma_s, gamma_t):
    """Reference: z_s and z_t given x are normal with covariance alpha_t / alpha_s sigma_s^2."""
    x, z_t = vectors(2)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = exact(gamma_s), exact(gamma_t)
    covariance = alpha_t / alpha_s * sigma_s**2
    slope = covariance / sigma_t**2
    expected = alpha_s * x + slope * (z_t - alpha_t * x)
    # sigma_s^2 - covariance^2 / sigma_t^2, where float64 would cancel: 1 - exp(gamma_s - gamma_t)
    variance = sigma_s**2 * -np.expm1(gamma_s - gamma_t)
    np.testing.assert_allclose(variance, sigma_s**2 - covariance * slope, rtol=1e-9)
    mean_32, variance_32 = posterior(
        *float32(z_t, x), jnp.full((4, 3), gamma_t), jnp.full((4, 3), gamma_s)
    )
    assert variance_32.shape == (4, 3, 1)
    np.testing.assert_allclose(variance_32, variance, rtol=32 * EPSILON)
    size = slope * np.abs(z_t) + alpha_s * -np.expm1(gamma_s - gamma_t) * np.abs(x)
    assert (np.abs(mean_32 - expected) <= 32 * EPSILON * size + 1e-12).all()


@pytest.mark.parametrize("gamma", [-2.0, 0.0, 6.0, 15.0])
@pytest.mark.parametrize("size", [1, 2048])
def test_prior_kl_is_that_of_two_normal_distributions(gamma, size):
    x = vectors(1)[0, :, :, :1].repeat(size, axis=-1) / np.sqrt(size)
    alpha_squared = 1 / (1 + np.exp(gamma))
    spread = -alpha_squared - np.log1p(-alpha_squared)
    expected = 0.5 * (alpha_squared * (x**2).sum(axis=-1) + size * spread)
    np.testing.assert_allclose(prior_kl(*float32(x), gamma), expected, rtol=1e-3, atol=1e-9)
