"""The Gaussian process and its algebra, in float32-safe forms (VDM, arXiv 2107.00630).

z = alpha x + sigma eps with alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma): gamma is the log
of noise to signal, so exp(-gamma) is the signal-to-noise ratio. Every gamma has the leading axes of
what it goes with (gamma_BxL beside z_BxLxE) or none. Of two times, s is the less noisy, t the more.
"""

import jax
from jax.nn import log_sigmoid
import jax.numpy as jnp


def alpha_sigma(gamma) -> tuple[jax.Array, jax.Array]:
    """Returns (alpha, sigma), each accurate relative to itself, however small."""
    return jnp.exp(0.5 * log_sigmoid(-gamma)), jnp.exp(0.5 * log_sigmoid(gamma))


def diffuse(x0, noise, gamma) -> jax.Array:
    """Returns z of the clean x0 and standard normal noise."""
    alpha, sigma = alpha_sigma(_beside(gamma, x0))
    return alpha * x0 + sigma * noise


def to_x0(output, z, gamma, parameterisation: str) -> jax.Array:
    """Returns the x0 that a network's output stands for: x0 itself, the noise, v = alpha noise -
    sigma x0 (arXiv 2202.00512), or the score -noise / sigma."""
    alpha, sigma = alpha_sigma(_beside(gamma, z))
    if parameterisation == "x0":
        return output
    if parameterisation == "noise":
        return (z - sigma * output) / alpha
    if parameterisation == "v":
        return alpha * z - sigma * output
    if parameterisation == "score":
        return (z + sigma**2 * output) / alpha
    raise ValueError(f"unknown parameterisation {parameterisation!r}")


def from_x0(x0, z, gamma, parameterisation: str) -> jax.Array:
    """Returns what a network whose estimate is x0 would give in the parameterisation."""
    alpha, sigma = alpha_sigma(_beside(gamma, z))
    if parameterisation == "x0":
        return x0
    if parameterisation == "noise":
        return (z - alpha * x0) / sigma
    if parameterisation == "v":
        return (alpha * z - x0) / sigma
    if parameterisation == "score":
        return (alpha * x0 - z) / sigma**2
    raise ValueError(f"unknown parameterisation {parameterisation!r}")


def logit_bias(z, gamma, table) -> jax.Array:
    """Returns (alpha / sigma^2) z E^T over the rows of table_VxE, in float32: log p(z | symbol), up
    to what all symbols share, for all rows have length 1. Under a flat prior it is the logits of
    p(symbol | z)."""
    gamma = _beside(gamma, z)
    scale = jnp.exp(-gamma - 0.5 * log_sigmoid(-gamma))  # alpha / sigma^2
    # A default product would round z to bfloat16 on a TPU: 1e-2 of a logit of hundreds.
    return scale * jnp.matmul(z.astype(jnp.float32), table.T, precision="highest")


def posterior(z_t, x0, gamma_t, gamma_s) -> tuple[jax.Array, jax.Array]:
    """Returns (mean, variance) of q(z_s | z_t, x0); the variance is that of each component."""
    gamma_t, gamma_s = _beside(gamma_t, z_t), _beside(gamma_s, z_t)
    alpha_s, sigma_s = alpha_sigma(gamma_s)
    log_ratio = 0.5 * (log_sigmoid(-gamma_s) - log_sigmoid(-gamma_t))  # of alpha_s to alpha_t
    kept = jnp.exp(log_ratio + gamma_s - gamma_t)
    gained = -jnp.expm1(gamma_s - gamma_t)
    return kept * z_t + alpha_s * gained * x0, sigma_s**2 * gained


def prior_kl(x0, gamma_max) -> jax.Array:
    """Returns KL(q(z_1 | x0) || N(0, I)) of each position, in nats; gamma_max is a scalar."""
    alpha_squared = jax.nn.sigmoid(-gamma_max)
    # Of each component, sigma^2 - 1 - log sigma^2.
    spread = -alpha_squared - log_sigmoid(gamma_max)
    return 0.5 * (alpha_squared * jnp.sum(x0**2, axis=-1) + x0.shape[-1] * spread)


def _beside(gamma, x):
    """Returns gamma with axes of size 1 at its end, as many as x has more."""
    gamma = jnp.asarray(gamma)
    return gamma.reshape(gamma.shape + (1,) * (x.ndim - gamma.ndim))
