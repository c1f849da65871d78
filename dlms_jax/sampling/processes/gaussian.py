"""The reverse processes of Gaussian diffusion: noise becomes embeddings, and at the end tokens.

A step estimates the clean embeddings x from noisy ones z = alpha x + sigma eps, by one pass of the
network or, with self-conditioning, two; then it moves z to the next gamma, which is smaller (the
log of noise to signal). The first step is at t=1, where the holes hold pure noise, the last at t=0,
where tokens are drawn; until then holes show the most probable symbols. Heun estimates twice in
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
from dlms_jax.sampling.guidance import halves, with_unconditional
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import SamplerState, advance, begin, row_keys
from dlms_jax.sampling.timesteps import Spacing, time


class Noised(NamedTuple):
    """SamplerState.extra. Given tokens read nothing of it.

    z_BxLxE: the noisy embeddings.
    x_hat_BxLxE: the last estimate of the clean ones.
    """

    z_BxLxE: jax.Array
    x_hat_BxLxE: jax.Array


@dataclasses.dataclass(frozen=True)
class GaussianSampler:
    """What the samplers share: their gammas, the passes of the network, the draw of tokens.

    The prediction (guidance, temperature, cuts) is of p(symbol | z), and x_hat is its mean. That p
    includes the bias that z gives the network's logits: at low noise z decides, and the network's
    own part can be anything. With head="embedding" only guidance changes x_hat; the rest acts on
    the last draw. The unconditional pass of guidance sees the mask's embedding in place of the
    prompt.

    With self-conditioning each step passes the network twice: the estimate that it reads is made at
    the same noise, as in training. The estimate of the step before (Analog Bits, arXiv 2208.04202)
    would save a pass, but the network trusts it as if it knew no more than z does, and over many
    steps feeds on itself: symbols repeat (docs/family.md).

    spacing: of the times, as in other diffusions, through the noise schedule; but "quantile" is
    equal steps of sigma^2. clamp: moves x_hat to the nearest embedding (Diffusion-LM, arXiv
    2205.14217).
    """

    prediction: Prediction
    objective: Gaussian
    steps: int
    spacing: Spacing = "uniform"
    clamp: bool = False

    def num_steps(self, canvas: Canvas) -> int:
        return self.steps

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> SamplerState:
        """Returns the canvas with pure noise in its holes."""
        shape = canvas.tokens_BxL.shape[1:] + denoise.table_VxE.shape[1:]
        z_BxLxE = _normal(row_keys(keys_B, self.steps, 0), shape)  # no step has this number
        return begin(canvas, keys_B, Noised(z_BxLxE, jnp.zeros_like(z_BxLxE)))

    def step(self, denoise: Denoiser, state: SamplerState) -> SamplerState:
        gamma_B = self.gamma(denoise, state.step_B)
        log_p_BxLxV, noised = self._pass(denoise, state, gamma_B)
        last_B = state.step_B + 1 >= self.steps
        likeliest_BxL = jnp.argmax(log_p_BxLxV, axis=-1).astype(jnp.int32)

        def drawn():
            keys_B = row_keys(state.keys_B, state.step_B, 0)
            return jax.vmap(self.prediction.draw)(keys_B, log_p_BxLxV)

        def moved():
            keys_B = row_keys(state.keys_B, state.step_B, 1)
            gammas = (g[:, None, None] for g in (gamma_B, self.gamma(denoise, state.step_B + 1)))
            return self._move(denoise, state, noised, keys_B, *gammas)

        # Both cost much; most steps need the second only.
        drawn_BxL = jax.lax.cond((last_B & ~state.done_B).any(), drawn, lambda: likeliest_BxL)
        noised = jax.lax.cond((last_B | state.done_B).all(), lambda: noised, moved)
        tokens_BxL = jnp.where(last_B[:, None], drawn_BxL, likeliest_BxL)
        return advance(state, tokens_BxL, last_B, noised)

    def _move(self, denoise, state, noised, keys_B, gamma_t, gamma_s) -> Noised:
        """Returns the embeddings at gamma_s (Bx1x1). noised: state.extra with the estimate at
        gamma_t."""
        raise NotImplementedError

    def gamma(self, denoise: Denoiser, i) -> jax.Array:
        """Returns the i-th gamma of `steps` (i may be an array), from the greatest to the least,
        and the least after these."""
        schedule, moves = self.objective.noise_schedule(denoise), max(self.steps - 1, 1)
        i = jnp.minimum(i, self.steps - 1)
        if self.spacing != "quantile":
            return schedule.gamma(time(self.spacing, None, moves, i))
        left = time("uniform", None, moves, i)

        def share(sign):  # of sigma^2, or with -1 of alpha^2
            first, last = (
                jax.nn.sigmoid(sign * g) for g in (schedule.gamma_max, schedule.gamma_min)
            )
            return left * first + (1 - left) * last

        return jnp.log(share(1)) - jnp.log(share(-1))

    def _pass(self, denoise, state, gamma_B) -> tuple[jax.Array, Noised]:
        """Returns (log_p_BxLxV, the state's embeddings with a new estimate)."""
        gamma_BxL = jnp.broadcast_to(gamma_B[:, None], state.tokens_BxL.shape)
        tokens_BxL, gamma_BxL, layout, noisy_BxL, z_BxLxE = with_unconditional(
            self.prediction,
            state.tokens_BxL,
            gamma_BxL,
            state.layout,
            state.holes_BxL,
            state.extra.z_BxLxE,
        )
        clean_BxLxE = jnp.take(denoise.table_VxE, tokens_BxL, axis=0)
        z_BxLxE = jnp.where(noisy_BxL[..., None], z_BxLxE, clean_BxLxE)
        log_p_BxLxV, own_BxLxE = self.objective.predict(
            denoise, z_BxLxE, gamma_BxL, layout, noisy_BxL
        )
        log_p_BxLxV = self.prediction.log_p(*halves(self.prediction, log_p_BxLxV))
        x_hat_BxLxE = self._x_hat(denoise, log_p_BxLxV, *halves(self.prediction, own_BxLxE))
        return log_p_BxLxV, state.extra._replace(x_hat_BxLxE=x_hat_BxLxE)

    def _x_hat(self, denoise, log_p_BxLxV, own_BxLxE, without_BxLxE=None):
        """Returns the estimate to step by, from the prediction and the network's own estimates."""
        table_VxE = denoise.table_VxE
        if self.objective.config.head == "embedding":
            x_hat_BxLxE = own_BxLxE
            if without_BxLxE is not None:
                x_hat_BxLxE += self.prediction.guidance * (own_BxLxE - without_BxLxE)
        elif self.prediction.temperature == 0:
            x_hat_BxLxE = jnp.take(table_VxE, jnp.argmax(log_p_BxLxV, axis=-1), axis=0)
        else:
            x_hat_BxLxE = mean_embedding(log_p_BxLxV, table_VxE)
        if not self.clamp:
            return x_hat_BxLxE
        # All rows have length 1: the nearest has the largest product.
        nearness_BxLxV = jnp.matmul(x_hat_BxLxE, table_VxE.T, precision="highest")
        nearness_BxLxV += self.prediction.vocabulary.text_bias_V()[None, None]
        return jnp.take(table_VxE, jnp.argmax(nearness_BxLxV, axis=-1), axis=0)


@dataclasses.dataclass(frozen=True)
class DDIM(GaussianSampler):
    """z_s = alpha_s x_hat + sqrt(sigma_s^2 - eta^2 tau^2) eps_hat + eta tau noise, tau^2 being the
    variance of q(z_s | z_t, x_0) (arXiv 2010.02502, equation 12). eta 0: no new noise; 1: the
    ancestral step, a draw of q(z_s | z_t, x_hat)."""

    eta: float = 0.0

    def _move(self, denoise, state, noised, keys_B, gamma_t, gamma_s) -> Noised:
        z_BxLxE = toward(noised.z_BxLxE, noised.x_hat_BxLxE, gamma_t, gamma_s, self.eta)
        if self.eta:
            _, sigma_s = alpha_sigma(gamma_s)
            tau = sigma_s * jnp.sqrt(-jnp.expm1(gamma_s - gamma_t))
            z_BxLxE += self.eta * tau * _normal(keys_B, z_BxLxE.shape[1:])
        return noised._replace(z_BxLxE=z_BxLxE)


@dataclasses.dataclass(frozen=True)
class ProbabilityFlow(GaussianSampler):
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

    def _move(self, denoise, state, noised, keys_B, gamma_t, gamma_s) -> Noised:
        x_hat_BxLxE = noised.x_hat_BxLxE
        z_BxLxE = toward(noised.z_BxLxE, x_hat_BxLxE, gamma_t, gamma_s)
        if self.order == "heun":
            there = noised._replace(z_BxLxE=z_BxLxE)
            _, there = self._pass(denoise, state._replace(extra=there), gamma_s[:, 0, 0])
            h = 0.5 * (gamma_t - gamma_s)
            # Half where the step is short, 1 where it is long; by its series where 1 / h is large.
            share = jnp.where(h > 0.02, 1 / -jnp.expm1(-h) - 1 / h, 0.5 + h / 12)
            x_hat_BxLxE += share * (there.x_hat_BxLxE - x_hat_BxLxE)
            z_BxLxE = toward(noised.z_BxLxE, x_hat_BxLxE, gamma_t, gamma_s)
            noised = there
        elif self.order == "dpm++":
            step_Bx1x1 = state.step_B[:, None, None]
            gamma_before = self.gamma(denoise, jnp.maximum(step_Bx1x1 - 1, 0))
            share = 0.5 * (gamma_t - gamma_s) / (gamma_before - gamma_t)
            share = jnp.where(step_Bx1x1 > 0, share, 0.0)
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
    """Returns standard normal draws, [B, *shape], each row's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_B)
