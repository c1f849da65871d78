"""The Gaussian process and its algebra, in forms that are stable in float32 (arXiv 2107.00630).

z = alpha x + sigma eps with alpha^2 = sigmoid(-gamma), sigma^2 = sigmoid(gamma): gamma is the log
noise-to-signal ratio, so exp(-gamma) is the signal-to-noise ratio. A gamma is a scalar or has the
leading axes of its array (gamma_BxL for z_BxLxE). Of two times s < t, t is the noisier.
"""

import jax
from jax.nn import log_sigmoid
import jax.numpy as jnp


def alpha_sigma(gamma) -> tuple[jax.Array, jax.Array]:
    """Returns (alpha, sigma), each with a small relative error for any gamma."""
    return jnp.exp(0.5 * log_sigmoid(-gamma)), jnp.exp(0.5 * log_sigmoid(gamma))


def diffuse(x0, noise, gamma) -> jax.Array:
    """Returns z = alpha x0 + sigma noise; `noise` is standard normal."""
    alpha, sigma = alpha_sigma(_beside(gamma, x0))
    return alpha * x0 + sigma * noise


def to_x0(output, z, gamma, parameterisation: str) -> jax.Array:
    """Returns the estimate of x0 that a network's output implies.

    Args:
      output: the output of the network.
      z: the noisy input.
      gamma: its noise level.
      parameterisation: what the output estimates: "x0", "noise", "v" = alpha noise - sigma x0
        (arXiv 2202.00512), or "score" = -noise / sigma.

    Raises:
      ValueError: the parameterisation is unknown.
    """
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
    """Returns the inverse of `to_x0`: the network output that corresponds to an estimate x0."""
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
    """Returns (alpha / sigma^2) z table^T in float32: the logits of p(token | z), flat prior.

    It is log p(z | token) up to a constant, since all rows of the table have norm 1.

    Args:
      z: noisy embeddings, [..., E].
      gamma: their noise level.
      table: table_VxE.
    """
    gamma = _beside(gamma, z)
    scale = jnp.exp(-gamma - 0.5 * log_sigmoid(-gamma))  # alpha / sigma^2
    # At the default precision a TPU rounds z to bfloat16: an error of 1e-2 of logits of hundreds.
    return scale * jnp.matmul(z.astype(jnp.float32), table.T, precision="highest")


def posterior(z_t, x0, gamma_t, gamma_s) -> tuple[jax.Array, jax.Array]:
    """Returns (mean, variance) of q(z_s | z_t, x0), with the variance of each component."""
    gamma_t, gamma_s = _beside(gamma_t, z_t), _beside(gamma_s, z_t)
    alpha_s, sigma_s = alpha_sigma(gamma_s)
    log_ratio = 0.5 * (log_sigmoid(-gamma_s) - log_sigmoid(-gamma_t))  # log(alpha_s / alpha_t)
    kept = jnp.exp(log_ratio + gamma_s - gamma_t)
    gained = -jnp.expm1(gamma_s - gamma_t)
    return kept * z_t + alpha_s * gained * x0, sigma_s**2 * gained


def prior_kl(x0, gamma_max) -> jax.Array:
    """Returns KL(q(z_1 | x0) || N(0, I)) for each position, in nats; gamma_max is a scalar."""
    alpha_squared = jax.nn.sigmoid(-gamma_max)
    # sigma^2 - 1 - log sigma^2, for each component.
    spread = -alpha_squared - log_sigmoid(gamma_max)
    return 0.5 * (alpha_squared * jnp.sum(x0**2, axis=-1) + x0.shape[-1] * spread)


def _beside(gamma, x):
    """Returns gamma with axes of size 1 appended up to the rank of x."""
    gamma = jnp.asarray(gamma)
    return gamma.reshape(gamma.shape + (1,) * (x.ndim - gamma.ndim))
