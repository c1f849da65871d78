"""The reverse processes of Gaussian diffusion: noise becomes embeddings, and at the end tokens.

A step estimates the clean embeddings x from noisy ones z = alpha x + sigma eps, by one pass of the
network or, with self-conditioning, two; the rule then moves z to the next gamma, which is smaller
(the log of noise to signal). The first step is at t=1, where the holes hold pure noise, the last at
t=0, where tokens are drawn; until then holes show the likeliest symbols. Heun estimates twice in
each step but the last.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
from jax.nn import log_sigmoid
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.gaussian import Gaussian, alpha_sigma, mean_embedding
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import State, begin, row_keys
from dlms_jax.sampling.timesteps import Grid, time


class Noised(NamedTuple):
    """State.extra. What stands at given tokens is not read.

    z_BxLxE: the noisy embeddings.
    x_hat_BxLxE: the last estimate of the clean ones.
    """

    z_BxLxE: jax.Array
    x_hat_BxLxE: jax.Array


@dataclasses.dataclass(frozen=True)
class GaussianRule:
    """What the rules share: the grid, the passes of the network, and how tokens come of them.

    The prediction (guidance, temperature, cuts) is of p(symbol | z), and x_hat is its mean. That p,
    not the network's logits without the bias that z gives them: at low noise z decides, and the
    network's own part can be anything. With head="embedding" guidance alone changes x_hat; the rest
    only the last draw. The unconditional pass of guidance sees the mask's embedding in place of the
    prompt.

    With self-conditioning each step passes the network twice: the estimate that it reads is made at
    the same noise, as in training. That of the step before (Analog Bits, arXiv 2208.04202) would
    spare a pass, but the network trusts it as if it knew no more than z does, and over many steps
    feeds on itself: symbols repeat (docs/family.md).

    grid: times as those of other diffusions, through the noise schedule; but "quantile" is equal
    steps of sigma^2. rounding: x_hat is moved to the nearest embedding (the clamping trick of
    Diffusion-LM, arXiv 2205.14217).
    """

    prediction: Prediction
    objective: Gaussian
    steps: int
    grid: Grid = "uniform"
    rounding: bool = False

    def num_steps(self, canvas: Canvas) -> int:
        return self.steps

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> State:
        """Returns the canvas with pure noise in its holes."""
        shape = canvas.tokens_BxL.shape[1:] + denoise.table_VxE.shape[1:]
        z_BxLxE = _normal(row_keys(keys_B, self.steps, 0), shape)  # no step has this number
        return begin(canvas, Noised(z_BxLxE, jnp.zeros_like(z_BxLxE)))

    def step(self, denoise: Denoiser, state: State, keys_B, i) -> State:
        log_p_BxLxV, noised = self._pass(denoise, state, self.gamma(denoise, i))

        def finish():
            draw = jax.vmap(self.prediction.draw)
            return draw(row_keys(keys_B, i, 0), log_p_BxLxV), noised

        def go_on():
            likeliest_BxL = jnp.argmax(log_p_BxLxV, axis=-1).astype(jnp.int32)
            return likeliest_BxL, self._move(denoise, state, noised, row_keys(keys_B, i, 1), i)

        tokens_BxL, noised = jax.lax.cond(i + 1 >= self.steps, finish, go_on)
        tokens_BxL = jnp.where(state.holes_BxL, tokens_BxL, state.tokens_BxL)
        return state._replace(tokens_BxL=tokens_BxL, extra=noised)

    def _move(self, denoise, state, noised, keys_B, i) -> Noised:
        """Returns the embeddings at the next gamma. state.extra: those before this step's pass."""
        raise NotImplementedError

    def gamma(self, denoise: Denoiser, i) -> jax.Array:
        """Returns the i-th gamma of `steps`, from the greatest to the least."""
        schedule, moves = self.objective.noise_schedule(denoise), max(self.steps - 1, 1)
        if self.grid != "quantile":
            return schedule.gamma(time(self.grid, None, moves, i))
        left = time("uniform", None, moves, i)

        def share(sign):  # of sigma^2, or with -1 of alpha^2
            first, last = (
                jax.nn.sigmoid(sign * g) for g in (schedule.gamma_max, schedule.gamma_min)
            )
            return left * first + (1 - left) * last

        return jnp.log(share(1)) - jnp.log(share(-1))

    def _pass(self, denoise, state, gamma) -> tuple[jax.Array, Noised]:
        """Returns (log_p_BxLxV, the state's embeddings with a new estimate)."""
        noised, own_BxLxE = state.extra, None

        def logits(tokens_BxL, no_time_BxL, layout):  # called once; with guidance, of 2B rows
            nonlocal own_BxLxE
            noisy_BxL = self._twice(state.holes_BxL)
            clean_BxLxE = jnp.take(denoise.table_VxE, tokens_BxL, axis=0)
            z_BxLxE = jnp.where(noisy_BxL[..., None], self._twice(noised.z_BxLxE), clean_BxLxE)
            gamma_BxL = jnp.full(tokens_BxL.shape, gamma)
            log_p_BxLxV, own_BxLxE = self.objective.predict(
                denoise, z_BxLxE, gamma_BxL, layout, noisy_BxL
            )
            return log_p_BxLxV

        log_p_BxLxV = self.prediction.log_p(
            Denoiser.from_logits(logits), state.tokens_BxL,
            jnp.zeros(state.tokens_BxL.shape), state.layout,
        )  # fmt: skip
        return log_p_BxLxV, noised._replace(
            x_hat_BxLxE=self._x_hat(denoise, log_p_BxLxV, own_BxLxE)
        )

    def _x_hat(self, denoise, log_p_BxLxV, own_BxLxE):
        """Returns the estimate that the rule steps by, of the prediction and of the network's own,
        with guidance both passes' in 2B rows."""
        table_VxE, w = denoise.table_VxE, self.prediction.guidance
        if self.objective.config.head == "embedding":
            x_hat_BxLxE, *without = jnp.split(own_BxLxE, 2 if w else 1)
            if w:
                x_hat_BxLxE += w * (x_hat_BxLxE - without[0])
        elif self.prediction.temperature == 0:
            x_hat_BxLxE = jnp.take(table_VxE, jnp.argmax(log_p_BxLxV, axis=-1), axis=0)
        else:
            x_hat_BxLxE = mean_embedding(log_p_BxLxV, table_VxE)
        if not self.rounding:
            return x_hat_BxLxE
        # All rows have length 1: the nearest has the largest product.
        nearness_BxLxV = jnp.matmul(x_hat_BxLxE, table_VxE.T, precision="highest")
        nearness_BxLxV += self.prediction.vocabulary.text_bias_V()[None, None]
        return jnp.take(table_VxE, jnp.argmax(nearness_BxLxV, axis=-1), axis=0)

    def _twice(self, x):
        """Returns x, with guidance its rows twice."""
        return jnp.concatenate([x, x]) if self.prediction.guidance else x


@dataclasses.dataclass(frozen=True)
class DDIM(GaussianRule):
    """z_s = alpha_s x_hat + sqrt(sigma_s^2 - eta^2 tau^2) eps_hat + eta tau noise, tau^2 being the
    variance of q(z_s | z_t, x_0) (arXiv 2010.02502, equation 12). eta 0: no new noise; 1: the
    ancestral step, a draw of q(z_s | z_t, x_hat)."""

    eta: float = 0.0

    def _move(self, denoise, state, noised, keys_B, i) -> Noised:
        gamma_t, gamma_s = self.gamma(denoise, i), self.gamma(denoise, i + 1)
        z_BxLxE = toward(noised.z_BxLxE, noised.x_hat_BxLxE, gamma_t, gamma_s, self.eta)
        if self.eta:
            _, sigma_s = alpha_sigma(gamma_s)
            tau = sigma_s * jnp.sqrt(-jnp.expm1(gamma_s - gamma_t))
            z_BxLxE += self.eta * tau * _normal(keys_B, z_BxLxE.shape[1:])
        return noised._replace(z_BxLxE=z_BxLxE)


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow(GaussianRule):
    """The deterministic flow with the same law of z at each gamma: with r = sigma / alpha =
    exp(gamma / 2), d(z / alpha) = (z / alpha - x_hat) dr / r (EDM, arXiv 2206.00364).

    Its linear part is integrated exactly: each step is Euler's (DDIM's with eta 0) with another
    x_hat. euler: that at the step's start. heun: second order; x_hat is taken to be linear in gamma
    between the start and, by a second pass, where Euler's step ends. dpm++: second order by the
    estimate of the step before (DPM-Solver++(2M), arXiv 2211.01095).

    EDM's own Heun, the mean of the slopes in r at both ends, weighs the second estimate by half of
    exp(change of gamma / 2), far too much in a long step: with a cosine schedule and 8 steps its
    total variation from a small joint was 0.15; of this form 0.005, of Euler 0.03.
    """

    order: Literal["euler", "heun", "dpm++"] = "euler"

    def _move(self, denoise, state, noised, keys_B, i) -> Noised:
        gamma_t, gamma_s = self.gamma(denoise, i), self.gamma(denoise, i + 1)
        x_hat_BxLxE = noised.x_hat_BxLxE
        z_BxLxE = toward(noised.z_BxLxE, x_hat_BxLxE, gamma_t, gamma_s)
        if self.order == "heun":
            there = noised._replace(z_BxLxE=z_BxLxE)
            _, there = self._pass(denoise, state._replace(extra=there), gamma_s)
            h = 0.5 * (gamma_t - gamma_s)
            # Half where the step is short, 1 where it is long; by its series where 1 / h is large.
            share = jnp.where(h > 0.02, 1 / -jnp.expm1(-h) - 1 / h, 0.5 + h / 12)
            x_hat_BxLxE += share * (there.x_hat_BxLxE - x_hat_BxLxE)
            z_BxLxE = toward(noised.z_BxLxE, x_hat_BxLxE, gamma_t, gamma_s)
            noised = there
        elif self.order == "dpm++":
            gamma_before = self.gamma(denoise, jnp.maximum(i - 1, 0))
            share = 0.5 * (gamma_t - gamma_s) / (gamma_before - gamma_t)
            share = jnp.where(i > 0, share, 0.0)
            x_hat_BxLxE += share * (x_hat_BxLxE - state.extra.x_hat_BxLxE)
            z_BxLxE = toward(noised.z_BxLxE, x_hat_BxLxE, gamma_t, gamma_s)
        return noised._replace(z_BxLxE=z_BxLxE)


def toward(z_t, x_hat, gamma_t, gamma_s, eta=0.0) -> jax.Array:
    """Returns alpha_s x_hat + sqrt(sigma_s^2 - eta^2 tau^2) (z_t - alpha_t x_hat) / sigma_t, as a
    sum of z_t and x_hat without a difference of nearly equal numbers."""
    # alpha_t times the weight of z_t is alpha_s exp(log_kept).
    log_kept = 0.5 * (gamma_s - gamma_t + jnp.log1p(eta**2 * jnp.expm1(gamma_s - gamma_t)))
    log_alpha_t, log_alpha_s = 0.5 * log_sigmoid(-gamma_t), 0.5 * log_sigmoid(-gamma_s)
    z_weight = jnp.exp(log_alpha_s - log_alpha_t + log_kept)
    return z_weight * z_t - jnp.exp(log_alpha_s) * jnp.expm1(log_kept) * x_hat


def _normal(keys_B, shape):
    """Returns standard normal draws, [B, *shape], each row from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_B)
