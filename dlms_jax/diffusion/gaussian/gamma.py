"""Noise schedules of Gaussian diffusion: gamma(t), the log noise-to-signal ratio, t in [0, 1].

All rise from gamma_min at t=0 to gamma_max at t=1. The bound depends only on the end points (VDM,
arXiv 2107.00630); the values between decide which noise levels training draws, and the variance of
its estimates.
"""

import dataclasses
import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Schedule(Protocol):
    """An increasing gamma(t). Both methods are elementwise."""

    @property
    def gamma_min(self) -> float | jax.Array:
        """The least gamma, at t=0."""

    @property
    def gamma_max(self) -> float | jax.Array:
        """The largest gamma, at t=1."""

    def gamma(self, t: jax.Array) -> jax.Array:
        """Returns log(sigma^2 / alpha^2) at time t."""

    def gamma_prime(self, t: jax.Array) -> jax.Array:
        """Returns d gamma / dt, which is positive."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """gamma is linear in t (VDM; Plaid, arXiv 2305.18619)."""

    gamma_min: float
    gamma_max: float

    def gamma(self, t):
        return self.gamma_min + (self.gamma_max - self.gamma_min) * t

    def gamma_prime(self, t):
        return jnp.full_like(t, self.gamma_max - self.gamma_min)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """alpha = cos(angle), sigma = sin(angle), the angle linear in t (iDDPM, arXiv 2102.09672).

    The end points of the angle follow from gamma = 2 log tan(angle).
    """

    gamma_min: float
    gamma_max: float

    def gamma(self, t):
        angle, rest = self._angles(t)
        return 2 * (jnp.log(jnp.sin(angle)) - jnp.log(jnp.sin(rest)))

    def gamma_prime(self, t):
        angle, rest = self._angles(t)
        turn = math.atan(math.exp(self.gamma_max / 2)) - math.atan(math.exp(self.gamma_min / 2))
        return 2 * turn / (jnp.sin(angle) * jnp.sin(rest))

    def _angles(self, t):
        """Returns (angle, pi/2 - angle), each accurate where it is small."""
        angle = _between(*(math.atan(math.exp(g / 2)) for g in (self.gamma_min, self.gamma_max)), t)
        rest = _between(*(math.atan(math.exp(-g / 2)) for g in (self.gamma_min, self.gamma_max)), t)
        return angle, rest


@dataclasses.dataclass(frozen=True)
class Sqrt:
    """sigma^2 = sqrt(u), u linear in t (Diffusion-LM, arXiv 2205.14217; its s is u at t=0)."""

    gamma_min: float
    gamma_max: float

    def gamma(self, t):
        u, rest = self._arguments(t)
        # log sigma^2 - log(1 - sigma^2), with 1 - sqrt(u) = (1 - u) / (1 + sqrt(u)).
        return 0.5 * jnp.log(u) - jnp.log(rest) + jnp.log1p(jnp.sqrt(u))

    def gamma_prime(self, t):
        u, rest = self._arguments(t)
        rise = _sigmoid(self.gamma_max) ** 2 - _sigmoid(self.gamma_min) ** 2
        return rise * (1 + jnp.sqrt(u)) / (2 * u * rest)

    def _arguments(self, t):
        """Returns (u, 1 - u), each accurate where it is small."""
        u = _between(_sigmoid(self.gamma_min) ** 2, _sigmoid(self.gamma_max) ** 2, t)
        # 1 - u = alpha^2 (1 + sigma^2)
        ends = (_sigmoid(-g) * (1 + _sigmoid(g)) for g in (self.gamma_min, self.gamma_max))
        return u, _between(*ends, t)


class Binned(NamedTuple):
    """A piecewise linear gamma(t), the form of the learned schedules (fit.py).

    The range of gamma is divided into K equal bins. With t uniform, gamma falls into bin k with
    probability mass_K[k].
    """

    gamma_min: jax.Array | float
    gamma_max: jax.Array | float
    mass_K: jax.Array

    def gamma(self, t):
        k, share = self.place(t)
        return self.gamma_min + (self.gamma_max - self.gamma_min) * (k + share) / len(self.mass_K)

    def gamma_prime(self, t):
        return (self.gamma_max - self.gamma_min) / self.density(t)

    def density(self, t):
        """Returns the density of gamma at gamma(t), as a multiple of the uniform density."""
        return self.mass_K[self.place(t)[0]] * len(self.mass_K)

    def place(self, t):
        """Returns (k, share): the bin of gamma(t), and its relative position in the bin."""
        ends_K = jnp.cumsum(self.mass_K).at[-1].set(1.0)
        starts_K = jnp.concatenate([jnp.zeros(1), ends_K[:-1]])
        k = jnp.searchsorted(ends_K[:-1], t, side="right", method="compare_all")
        return k, (t - starts_K[k]) / (ends_K[k] - starts_K[k])


def _between(first, last, t):
    return (1 - t) * first + t * last


def _sigmoid(gamma: float) -> float:
    return 1 / (1 + math.exp(-gamma))
