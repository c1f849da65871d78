"""Noise schedules: alpha(t), the probability that a token is still clean at time t in [0, 1]."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from dlms_jax.config.traits import masked_share


class Schedule(Protocol):
    """A decreasing alpha(t) with alpha(0) = 1 and alpha(1) = 0. All methods are elementwise."""

    @property
    def masked_share(self) -> float:
        """The mean of 1 - alpha(t) over t: the mean share of tokens that training masks."""

    def alpha(self, t: jax.Array) -> jax.Array:
        """Returns the probability that a token is clean at time t."""

    def alpha_prime(self, t: jax.Array) -> jax.Array:
        """Returns d alpha / dt, which is at most 0."""

    def masked(self, t: jax.Array) -> jax.Array:
        """Returns 1 - alpha(t), computed without cancellation at small t."""

    def weight(self, t: jax.Array) -> jax.Array:
        """Returns -alpha'(t) / (1 - alpha(t)), the weight of the bound (MDLM eq. 10, MD4 eq. 4)."""

    def time(self, masked: jax.Array) -> jax.Array:
        """Returns the t at which 1 - alpha(t) = masked."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """alpha(t) = 1 - t."""

    @property
    def masked_share(self):
        return masked_share("linear")

    def alpha(self, t):
        return 1 - t

    def alpha_prime(self, t):
        return -jnp.ones_like(t)

    def masked(self, t):
        return t

    def weight(self, t):
        return 1 / t

    def time(self, masked):
        return masked


@dataclasses.dataclass(frozen=True)
class Cosine:
    """alpha(t) = 1 - cos(pi/2 (1 - t)) (MD4, table 1)."""

    @property
    def masked_share(self):
        return masked_share("cosine")

    def alpha(self, t):
        return 1 - self.masked(t)

    def alpha_prime(self, t):
        return -jnp.pi / 2 * jnp.cos(jnp.pi / 2 * t)

    def masked(self, t):
        return jnp.sin(jnp.pi / 2 * t)  # = cos(pi/2 (1 - t))

    def weight(self, t):
        return jnp.pi / 2 / jnp.tan(jnp.pi / 2 * t)

    def time(self, masked):
        return 2 / jnp.pi * jnp.arcsin(masked)


@dataclasses.dataclass(frozen=True)
class Polynomial:
    """alpha(t) = 1 - t^power (MD4, table 1)."""

    power: float = 2.0

    @property
    def masked_share(self):
        return masked_share("polynomial", self.power)

    def alpha(self, t):
        return 1 - self.masked(t)

    def alpha_prime(self, t):
        return -self.power * t ** (self.power - 1)

    def masked(self, t):
        return t**self.power

    def weight(self, t):
        return self.power / t

    def time(self, masked):
        return masked ** (1 / self.power)
