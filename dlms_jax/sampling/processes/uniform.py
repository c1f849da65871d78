"""The reverse processes of uniform diffusion, also where a part of its noise is the mask.

q(x_t = y | x_0) = alpha_t 1[y = x_0] + (1 - alpha_t) pi(y); pi gives the mask `mask_share` and each
symbol of text an equal part of the rest. The network gives p = p(x_0 at a place | all other places
at t), so qbar_t = alpha_t p + (1 - alpha_t) pi is the law of the place's own x_t given the others.
Two identities spare the posterior over the vocabulary and differences of nearly equal numbers. Of a
place that holds z at time t:

- With probability r = (1 - alpha_t) pi(z) / qbar_t(z) it holds noise, and x_0 is a draw of p; else
  x_0 = z.
- With a = alpha_t / alpha_s, qbar_t = a qbar_s + (1 - a) pi: with probability (1 - a) pi(z) /
  qbar_t(z) it jumped to z between s and t, and x_s is a draw of qbar_s; else x_s = z.

Guidance, temperature and cuts change p. The network is told the time of each token, 0 where given.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import State, begin, row_keys
from dlms_jax.sampling.timesteps import Grid, times


@dataclasses.dataclass(frozen=True)
class UniformAncestral:
    """The reverse process in `steps` steps, exact in the limit of many (D3PM, arXiv 2107.03006;
    UDLM, 2412.10193; with masks GIDD, 2503.04482)."""

    prediction: Prediction
    schedule: Schedule
    steps: int
    grid: Grid = "uniform"
    mask_share: float = 0.0  # of the noise; less than 1

    def num_steps(self, canvas: Canvas) -> int:
        return self.steps

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> State:
        """Returns the canvas with noise in its holes."""
        keys_B = row_keys(keys_B, self.steps, 0)  # no step has this number
        noise_BxL = jax.vmap(self._noise, in_axes=(0, None))(keys_B, canvas.tokens_BxL.shape[1])
        tokens_BxL = jnp.where(canvas.holes_BxL, noise_BxL, canvas.tokens_BxL)
        return begin(canvas._replace(tokens_BxL=tokens_BxL))

    def step(self, denoise: Denoiser, state: State, keys_B, i) -> State:
        t, s = self._times(i)
        log_p_BxLxV = self._log_p(denoise, state, t)
        moved_BxL = jax.vmap(lambda *row: self._move(*row, t, s))(
            row_keys(keys_B, i, 0), state.tokens_BxL, log_p_BxLxV
        )
        return state._replace(tokens_BxL=jnp.where(state.holes_BxL, moved_BxL, state.tokens_BxL))

    def _move(self, key, z_L, log_p_LxV, t, s):
        """Returns a row's x_s."""
        whether_key, which_key = jax.random.split(key)
        masked_t, masked_s = self.schedule.masked(t), self.schedule.masked(s)
        # (1 - a) / (1 - alpha_t): 1 where s is 0.
        share = (masked_t - masked_s) / ((1 - masked_s) * masked_t)
        jumped_L = jax.random.uniform(whether_key, z_L.shape) < share * self.is_noise(
            z_L, log_p_LxV, t
        )
        return jnp.where(jumped_L, self._noisy(which_key, log_p_LxV, s), z_L)

    def _times(self, i):
        return times(self.grid, self.schedule, self.steps, i)

    def _log_p(self, denoise, state, t):
        t_BxL = jnp.where(state.holes_BxL, t, 0.0)
        return self.prediction.log_p(denoise, state.tokens_BxL, t_BxL, state.layout)

    def is_noise(self, z_L, log_p_LxV, t):
        """Returns r, the probability that what a place holds is noise; of a mask 1."""
        masked, v = self.schedule.masked(t), self.prediction.vocabulary
        if self.prediction.temperature == 0:
            p_L = (z_L == jnp.argmax(log_p_LxV, axis=-1)).astype(jnp.float32)
        else:
            p_L = jnp.exp(jnp.take_along_axis(log_p_LxV, z_L[:, None], axis=-1)[:, 0])
        noise = masked * (1 - self.mask_share) / len(v.text_ids())
        return jnp.where(z_L == v.mask_id, 1.0, noise / ((1 - masked) * p_L + noise))

    def _noisy(self, key, log_p_LxV, s):
        """Returns draws of qbar_s."""
        whether_key, clean_key, noise_key = jax.random.split(key, 3)
        clean_L = self.prediction.draw(clean_key, log_p_LxV)
        noise_L = self._noise(noise_key, clean_L.shape[0])
        noise = jax.random.uniform(whether_key, clean_L.shape) < self.schedule.masked(s)
        return jnp.where(noise, noise_L, clean_L)

    def _noise(self, key, length):
        """Returns draws of pi."""
        whether_key, which_key = jax.random.split(key)
        text_L = jax.random.choice(which_key, self.prediction.vocabulary.text_ids(), (length,))
        masks_L = jax.random.uniform(whether_key, (length,)) < self.mask_share
        return jnp.where(masks_L, self.prediction.vocabulary.mask_id, text_L)


@dataclasses.dataclass(frozen=True)
class UniformDDIM(UniformAncestral):
    """The discrete analogue of DDIM (arXiv 2010.02502, appendix A): x_s is what x_t holds, with
    probability sigma; or new noise; else a draw of x_0.

    sigma = (1 - eta) (1 - alpha_s) / (1 - alpha_t) gives x_s the right law when x_t and x_0 have
    theirs. eta 0: nothing but moves to predictions, all else stays; eta 1: all noise is drawn anew.
    """

    eta: float = 0.0

    def _move(self, key, z_L, log_p_LxV, t, s):
        noise_key, renew_key, clean_key, which_key, stay_key = jax.random.split(key, 5)
        masked_t, masked_s = self.schedule.masked(t), self.schedule.masked(s)
        uniform = lambda key: jax.random.uniform(key, z_L.shape)  # noqa: E731
        clean_L = jnp.where(
            uniform(clean_key) < self.is_noise(z_L, log_p_LxV, t),
            self.prediction.draw(which_key, log_p_LxV), z_L,
        )  # fmt: skip
        # (1 - alpha_s) - (1 - alpha_t) sigma = eta (1 - alpha_s) is new noise.
        renewed = self.eta * masked_s
        sigma = (1 - self.eta) * masked_s / masked_t
        kept_L = jnp.where(uniform(stay_key) < sigma / (1 - renewed), z_L, clean_L)
        noise_L = self._noise(noise_key, z_L.shape[0])
        return jnp.where(uniform(renew_key) < renewed, noise_L, kept_L)


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(UniformAncestral):
    """After each ancestral step to s, `corrector_steps` times one hole of the row, chosen at
    random, is drawn again from qbar_s.

    That is a step of Gibbs sampling. It leaves q_s as it is, and so mends what too long a step has
    spoilt: a corrector in the sense of arXiv 2205.14987, but without the error of its time steps.
    Each is one more pass of the network.
    """

    corrector_steps: int = 1

    def step(self, denoise: Denoiser, state: State, keys_B, i) -> State:
        _, s = self._times(i)

        def correct(j, state):
            return self.correct(denoise, state, row_keys(keys_B, i, 1 + j), s)

        state = super().step(denoise, state, keys_B, i)
        return jax.lax.fori_loop(0, self.corrector_steps, correct, state)

    def correct(self, denoise: Denoiser, state: State, keys_B, s) -> State:
        """Returns the state with one hole a row drawn again at level s."""
        log_p_BxLxV = self._log_p(denoise, state, s)

        def row(key, z_L, holes_L, log_p_LxV):
            where_key, which_key = jax.random.split(key)
            place = jnp.argmax(jnp.where(holes_L, jax.random.uniform(where_key, z_L.shape), -1.0))
            drawn_1 = self._noisy(which_key, log_p_LxV[place][None], s)
            return jnp.where(holes_L & (jnp.arange(z_L.shape[0]) == place), drawn_1, z_L)

        tokens_BxL = jax.vmap(row)(keys_B, state.tokens_BxL, state.holes_BxL, log_p_BxLxV)
        return state._replace(tokens_BxL=tokens_BxL)
