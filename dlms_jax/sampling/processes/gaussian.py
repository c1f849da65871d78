"""The reverse processes of Gaussian diffusion: from noise to embeddings, and at the end to tokens.

A step estimates the clean embeddings x from noisy ones z = alpha x + sigma eps, with one pass of
the network, or two with self-conditioning. Then it moves z to the next, smaller gamma (the log of
the noise-to-signal ratio). At the first step, t=1, the holes hold pure noise. At the last step,
t=0, tokens are drawn, and holes after the first EOS get EOS; until then the holes show the most
probable tokens. Heun estimates x twice in each step but the last.
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
from dlms_jax.sampling.sampler import SamplerState, advance, begin, end_at_eos, row_keys
from dlms_jax.sampling.timesteps import Spacing, fixed_time


class Noised(NamedTuple):
    """SamplerState.extra of Gaussian samplers. Its values at given tokens are not used.

    Attributes:
      z_BxLxE: the noisy embeddings.
      x_hat_BxLxE: the last estimate of the clean embeddings.
    """

    z_BxLxE: jax.Array
    x_hat_BxLxE: jax.Array


@dataclasses.dataclass(frozen=True)
class GaussianSampler:
    """Base class: the gammas, the network passes and the draw of tokens.

    Guidance, temperature and cuts act on p(token | z), and x_hat is its mean. This p includes the
    bias that z adds to the network's logits, which dominates at low noise. With head="embedding"
    only guidance changes x_hat; temperature and cuts act on the final draw. The unconditional pass
    of guidance reads the mask's embedding in place of the prompt.

    With self-conditioning each step runs the network twice, so that the estimate it reads is made
    at the same noise level, as in training. Reusing the estimate of the previous step (Analog Bits,
    arXiv 2208.04202) would save a pass. But the network trusts that estimate as if it were made
    from z only, so that errors feed back over many steps and tokens repeat (docs/family.md).

    Attributes:
      prediction: guidance, temperature and cuts.
      objective: the Gaussian objective.
      steps: the number of steps.
      spacing: of the times, as for other processes; "quantile" means equal steps of sigma^2.
      clamp: moves x_hat to the nearest embedding (Diffusion-LM, arXiv 2205.14217).
    """

    prediction: Prediction
    objective: Gaussian
    steps: int
    spacing: Spacing = "uniform"
    clamp: bool = False

    def num_steps(self, canvas: Canvas) -> int:
        return self.steps

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> SamplerState:
        """Returns the state with pure noise in the holes."""
        assert denoise.table_VxE is not None  # Gaussian diffusion's networks have one
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

        # Both are expensive; most steps need only the second.
        drawn_BxL = jax.lax.cond((last_B & ~state.done_B).any(), drawn, lambda: likeliest_BxL)
        noised = jax.lax.cond((last_B | state.done_B).all(), lambda: noised, moved)
        ended_BxL = end_at_eos(drawn_BxL, state.holes_BxL, self.prediction.vocabulary)
        tokens_BxL = jnp.where(last_B[:, None], ended_BxL, likeliest_BxL)
        return advance(state, tokens_BxL, last_B, noised)

    def _move(self, denoise, state, noised, keys_B, gamma_t, gamma_s) -> Noised:
        """Returns the embeddings at gamma_s (Bx1x1); `noised` holds the estimate at gamma_t."""
        raise NotImplementedError

    def gamma(self, denoise: Denoiser, i) -> jax.Array:
        """Returns the i-th of `steps` gammas, from the largest to the smallest.

        Args:
          denoise: the network, which may hold a learned noise schedule.
          i: an index or an array of them; beyond the last step it gives the smallest gamma.
        """
        schedule, moves = self.objective.noise_schedule(denoise), max(self.steps - 1, 1)
        i = jnp.minimum(i, self.steps - 1)
        if self.spacing != "quantile":
            return schedule.gamma(fixed_time(self.spacing, moves, i))
        left = fixed_time("uniform", moves, i)

        def share(sign):  # interpolates sigma^2; with sign=-1, alpha^2
            first, last = (
                jax.nn.sigmoid(sign * g) for g in (schedule.gamma_max, schedule.gamma_min)
            )
            return left * first + (1 - left) * last

        return jnp.log(share(1)) - jnp.log(share(-1))

    def _pass(self, denoise, state, gamma_B) -> tuple[jax.Array, Noised]:
        """Returns (log_p_BxLxV, state.extra with a new estimate)."""
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
        """Returns x_hat_BxLxE, from the prediction or from the network's own estimates."""
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
        # All embeddings have norm 1, so the nearest one has the largest product.
        nearness_BxLxV = jnp.matmul(x_hat_BxLxE, table_VxE.T, precision="highest")
        nearness_BxLxV += self.prediction.vocabulary.text_bias_V()[None, None]
        return jnp.take(table_VxE, jnp.argmax(nearness_BxLxV, axis=-1), axis=0)


@dataclasses.dataclass(frozen=True)
class DDIM(GaussianSampler):
    """DDIM (arXiv 2010.02502, equation 12).

    z_s = alpha_s x_hat + sqrt(sigma_s^2 - eta^2 tau^2) eps_hat + eta tau noise, where tau^2 is the
    variance of q(z_s | z_t, x_0). eta=0 adds no noise. eta=1 is the ancestral step, a draw from
    q(z_s | z_t, x_hat).
    """

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
    """The probability-flow ODE, which has the same marginals of z at each gamma.

    With r = sigma / alpha = exp(gamma / 2) it is d(z / alpha) = (z / alpha - x_hat) dr / r (EDM,
    arXiv 2206.00364). The linear part is integrated exactly, so a step of any order is a DDIM step
    with eta=0 and a different x_hat:

    - euler: the estimate at the start of the step.
    - heun: second order. x_hat is linear in gamma between the estimate at the start and a second
      one at the end of the Euler step.
    - dpm++: second order, from the estimate of the previous step (DPM-Solver++(2M), arXiv
      2211.01095).

    EDM's own Heun averages the slopes in r at both ends. That gives the second estimate the weight
    exp(change of gamma / 2) / 2, which is too large in long steps: with a cosine schedule and 8
    steps the total variation from a small joint distribution was 0.15, against 0.005 of this form
    and 0.03 of Euler.
    """

    order: Literal["euler", "heun", "dpm++"] = "euler"

    def _move(self, denoise, state, noised, keys_B, gamma_t, gamma_s) -> Noised:
        x_hat_BxLxE = noised.x_hat_BxLxE
        z_BxLxE = toward(noised.z_BxLxE, x_hat_BxLxE, gamma_t, gamma_s)
        if self.order == "heun":
            there = noised._replace(z_BxLxE=z_BxLxE)
            _, there = self._pass(denoise, state._replace(extra=there), gamma_s[:, 0, 0])
            h = 0.5 * (gamma_t - gamma_s)
            # 1/2 for short steps, 1 for long ones; a series expansion where 1 / h is large.
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
    """Returns alpha_s x_hat + sqrt(sigma_s^2 - eta^2 tau^2) (z_t - alpha_t x_hat) / sigma_t.

    It is computed as a sum of z_t and x_hat without cancellation.

    Args:
      z_t: the noisy embeddings at gamma_t.
      x_hat: the estimate of the clean embeddings.
      gamma_t, gamma_s: log noise-to-signal ratios; they broadcast against z_t.
      eta: the share of new noise that is added later, in 0..1.
    """
    # alpha_t times the weight of z_t is alpha_s exp(log_kept).
    log_kept = 0.5 * (gamma_s - gamma_t + jnp.log1p(eta**2 * jnp.expm1(gamma_s - gamma_t)))
    log_alpha_t, log_alpha_s = 0.5 * log_sigmoid(-gamma_t), 0.5 * log_sigmoid(-gamma_s)
    z_weight = jnp.exp(log_alpha_s - log_alpha_t + log_kept)
    return z_weight * z_t - jnp.exp(log_alpha_s) * jnp.expm1(log_kept) * x_hat


def _normal(keys_B, shape):
    """Returns standard normal draws of shape [B, *shape], each row's from its own key."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_B)
