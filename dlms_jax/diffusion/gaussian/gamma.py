"""Noise schedules of Gaussian diffusion: gamma(t), the log of noise to signal, for t in [0, 1].

All rise from gamma_min at t=0 to gamma_max at t=1. The bound depends on the end points alone (VDM,
arXiv 2107.00630): what lies between decides where training looks, and how noisy its estimates are.
"""

import dataclasses
import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Schedule(Protocol):
    """An increasing gamma(t). Both methods are elementwise."""

    gamma_min: float | jax.Array
    gamma_max: float | jax.Array

    def gamma(self, t: jax.Array) -> jax.Array:
        """Returns log(sigma^2 / alpha^2) at time t."""

    def gamma_prime(self, t: jax.Array) -> jax.Array:
        """Returns d gamma / dt (positive)."""


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
    """alpha = cos(angle), sigma = sin(angle), the angle linear in t (iDDPM, arXiv 2102.09672); its
    end points are those at which gamma = 2 log tan(angle) is what it should be."""

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
        """Returns the angle and what it lacks of pi/2, each accurate where it is small."""
        angle = _between(*(math.atan(math.exp(g / 2)) for g in (self.gamma_min, self.gamma_max)), t)
        rest = _between(*(math.atan(math.exp(-g / 2)) for g in (self.gamma_min, self.gamma_max)), t)
        return angle, rest


@dataclasses.dataclass(frozen=True)
class Sqrt:
    """sigma^2 = sqrt(u), u linear in t (Diffusion-LM, arXiv 2205.14217, whose s is u at t=0)."""

    gamma_min: float
    gamma_max: float

    def gamma(self, t):
        u, rest = self._arguments(t)
        # log sigma^2 - log(1 - sigma^2), where 1 - sqrt(u) = (1 - u) / (1 + sqrt(u)).
        return 0.5 * jnp.log(u) - jnp.log(rest) + jnp.log1p(jnp.sqrt(u))

    def gamma_prime(self, t):
        u, rest = self._arguments(t)
        rise = _sigmoid(self.gamma_max) ** 2 - _sigmoid(self.gamma_min) ** 2
        return rise * (1 + jnp.sqrt(u)) / (2 * u * rest)

    def _arguments(self, t):
        """Returns u and 1 - u, each accurate where it is small."""
        u = _between(_sigmoid(self.gamma_min) ** 2, _sigmoid(self.gamma_max) ** 2, t)
        # 1 - u = alpha^2 (1 + sigma^2)
        ends = (_sigmoid(-g) * (1 + _sigmoid(g)) for g in (self.gamma_min, self.gamma_max))
        return u, _between(*ends, t)


class Binned(NamedTuple):
    """gamma(t) is piecewise linear: the range of gamma is cut into K equal bins, each of which a
    uniform t meets with its own probability. What is learned or fitted is of this kind (fit.py)."""

    gamma_min: jax.Array | float
    gamma_max: jax.Array | float
    mass_K: jax.Array

    def gamma(self, t):
        k, share = self.place(t)
        return self.gamma_min + (self.gamma_max - self.gamma_min) * (k + share) / len(self.mass_K)

    def gamma_prime(self, t):
        return (self.gamma_max - self.gamma_min) / self.density(t)

    def density(self, t):
        """Returns the density of gamma at gamma(t), as a multiple of the uniform one."""
        return self.mass_K[self.place(t)[0]] * len(self.mass_K)

    def place(self, t):
        """Returns (k, share): the bin that gamma(t) lies in, and how far into the bin."""
        ends_K = jnp.cumsum(self.mass_K).at[-1].set(1.0)
        starts_K = jnp.concatenate([jnp.zeros(1), ends_K[:-1]])
        k = jnp.searchsorted(ends_K[:-1], t, side="right", method="compare_all")
        return k, (t - starts_K[k]) / (ends_K[k] - starts_K[k])


def _between(first, last, t):
    return (1 - t) * first + t * last


def _sigmoid(gamma: float) -> float:
    return 1 / (1 + math.exp(-gamma))
