"""Learned noise schedules, which adapt to the network. Their parameters start at 0.

learned: minimises the variance of the estimate of the bound (VDM, arXiv 2107.00630, section 5.1);
    with loss="bound" the bound also trains the two end points.
warped: the density of gamma is proportional to the slope of the cross-entropy (CDCD, arXiv
    2211.15089, section 3.3).
gumbel: the same, with a Gumbel distribution as the slope (LangFlow, arXiv 2604.11748).

`fit_loss` has gradients only for these parameters; of these, the network's loss has gradients only
for the end points. A share of the draws stays uniform in gamma, so that every region is visited and
the weight 1 / density is at most 1 / _UNIFORM.
"""

from collections.abc import Callable
import math

import jax
from jax.lax import stop_gradient
import jax.numpy as jnp

from dlms_jax.config import GaussianConfig
from dlms_jax.diffusion.gaussian.gamma import Binned, Cosine, Linear, Schedule, Sqrt
from dlms_jax.diffusion.protocol import Array

_FIXED: dict[str, Callable[[float, float], Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "sqrt": Sqrt,
}
_BINS = 64
_UNIFORM = 0.05
# Adam moves each parameter by about the learning rate a step, whatever the scale of the loss. With
# this factor a schedule converges in some hundreds of steps at a rate of 1e-3 (stable at 3e-3).
_GAIN = 20.0
# The location and scale of the Gumbel distribution that all kinds start from: about those of
# LangFlow's fit, for embeddings of norm 1. A small network on bytes had a bound of 2.88 nats after
# 400 steps, and of 3.04 from a uniform start.
_START = (-2.0, 1.0)
_LEAST = -4.0  # lower limit of the log of a bin's initial share over the largest: it can grow


def schedule_size(kind: str) -> int:
    """Returns the number of parameters of a kind of schedule."""
    # learned: bins, two end points. warped: bins, least and rise of the cross-entropy. gumbel:
    # location, scale, rise.
    return {"learned": _BINS + 2, "warped": _BINS + 2, "gumbel": 3}.get(kind, 0)


def make_schedule(kind: str, config: GaussianConfig, parameters_P: Array | None = None) -> Schedule:
    """Returns a noise schedule.

    Args:
      kind: config.objective.schedule.
      config: gives the end points, gamma_min and gamma_max.
      parameters_P: the parameters of a learned schedule.
    """
    if kind in _FIXED:
        return _FIXED[kind](config.gamma_min, config.gamma_max)
    assert parameters_P is not None  # all other kinds have some
    return _learned(kind, config, parameters_P)


def _learned(kind: str, config: GaussianConfig, parameters_P: Array) -> Binned:
    low, high = config.gamma_min, config.gamma_max
    mass_K = (1 - _UNIFORM) * _shares(kind, config, parameters_P) + _UNIFORM / _BINS
    if kind != "learned":
        return Binned(low, high, mass_K)
    # Each end moves by less than a quarter of the range, so that low stays below high.
    reach = (high - low) / 4
    moved_2 = reach * jnp.tanh(_GAIN * parameters_P[_BINS:] / reach)
    return Binned(low + moved_2[0], high + moved_2[1], mass_K)


def without_gradient_to_shape(kind: str, parameters_P: jax.Array | None) -> jax.Array | None:
    """Returns the parameters of a schedule, with gradients only for the end points."""
    if kind != "learned" or parameters_P is None:
        return stop_gradient(parameters_P)
    return jnp.concatenate([stop_gradient(parameters_P[:_BINS]), parameters_P[_BINS:]])


def fit_loss(kind: str, config: GaussianConfig, parameters_P, t, nats, symbols: int) -> jax.Array:
    """Returns, for each token, the loss of a learned schedule's parameters, of the order of 1.

    Args:
      kind: "learned", "warped" or "gumbel".
      config: gives the end points.
      parameters_P: the parameters of the schedule.
      t: the times, drawn uniformly.
      nats: for learned, the document's mean of the bound's integrand over gamma; else the token's
        cross-entropy.
      symbols: the number of text tokens, which sets the scale.
    """
    schedule = _learned(kind, config, parameters_P)
    drawn = stop_gradient(schedule)
    density = drawn.density(t)
    k, share = drawn.place(t)
    nats = stop_gradient(nats) / math.log(max(symbols, 2))
    if kind == "learned":
        # E_t[(gamma'(t) nats)^2], estimated by importance sampling from the present schedule.
        span = drawn.gamma_max - drawn.gamma_min
        return (span * nats) ** 2 / (density * schedule.mass_K[k] * _BINS)
    # A regression of the cross-entropy on gamma, weighted as if gamma were drawn uniformly.
    if kind == "warped":
        shares_K = _shares(kind, config, parameters_P)
        starts_K = jnp.cumsum(shares_K) - shares_K
        least, rise = _GAIN * parameters_P[_BINS], jnp.exp(_GAIN * parameters_P[_BINS + 1])
        expected = least + rise * (starts_K[k] + share * shares_K[k])
    else:
        location, scale, rise = _gumbel(parameters_P)
        expected = rise * jnp.exp(-jnp.exp((location - drawn.gamma(t)) / scale))
    return (nats - expected) ** 2 / density


def _shares(kind, config, parameters_P):
    """Returns shares_K, the share of the non-uniform draws that falls into each bin."""
    if kind == "gumbel":
        return jax.nn.softmax(_gumbel_logits(config, *_gumbel(parameters_P)[:2]))
    start_K = _gumbel_logits(config, *_START)
    start_K = jnp.maximum(start_K - jnp.max(start_K), _LEAST)
    return jax.nn.softmax(start_K + _GAIN * parameters_P[:_BINS])


def _gumbel(parameters_P):
    """Returns (location, scale, rise) of the cross-entropy as a function of gamma."""
    location, scale = _START
    location += _GAIN * parameters_P[0]
    return location, scale * jnp.exp(_GAIN * parameters_P[1]), jnp.exp(_GAIN * parameters_P[2])


def _gumbel_logits(config, location, scale):
    """Returns the log, up to a constant, of a Gumbel distribution's share of each bin."""
    edges = jnp.linspace(config.gamma_min, config.gamma_max, _BINS + 1)
    # The distribution function is exp(-u). Its differences are written as products, which are also
    # accurate at u ~ 0. Bins too far out for float32 get equal shares.
    u = jnp.exp(jnp.minimum((location - edges) / scale, 80.0))
    return -u[1:] + jnp.log(jnp.maximum(-jnp.expm1(u[1:] - u[:-1]), 1e-30))
