"""The reverse processes of uniform diffusion, whose noise may partly be masks.

The forward process is q(x_t = y | x_0) = alpha_t 1[y = x_0] + (1 - alpha_t) pi(y). The noise pi
gives the mask the probability `mask_share` and every text token an equal part of the rest.

The network predicts p = p(x_0 at a position | x_t at all other positions). So the distribution of
x_t at the position given the others is qbar_t = alpha_t p + (1 - alpha_t) pi. For a position that
holds z at time t, two identities avoid both the posterior over the vocabulary and cancellation:

- z is noise with probability r = (1 - alpha_t) pi(z) / qbar_t(z). Then x_0 is a draw from p;
  otherwise x_0 = z.
- With a = alpha_t / alpha_s, qbar_t = a qbar_s + (1 - a) pi. So the position jumped to z between s
  and t with probability (1 - a) pi(z) / qbar_t(z). Then x_s is a draw from qbar_s; otherwise
  x_s = z.

Guidance, temperature and cuts change p. The network reads the time of each token, 0 if it is given.
After the last step, holes after the first EOS get EOS.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.diffusion import Denoiser
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.sampling.canvas import Canvas
from dlms_jax.sampling.guidance import predict
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.sampler import SamplerState, advance, begin, end_at_eos, row_keys
from dlms_jax.sampling.timesteps import Spacing, times


@dataclasses.dataclass(frozen=True)
class UniformAncestral:
    """Ancestral sampling of uniform diffusion, exact in the limit of many steps.

    See D3PM (arXiv 2107.03006), UDLM (2412.10193) and, for noise with masks, GIDD (2503.04482).
    """

    prediction: Prediction
    schedule: Schedule
    steps: int
    spacing: Spacing = "uniform"
    mask_share: float = 0.0  # share of masks in the noise; less than 1

    def num_steps(self, canvas: Canvas) -> int:
        return self.steps

    def start(self, denoise: Denoiser, canvas: Canvas, keys_B) -> SamplerState:
        """Returns the state with noise in the holes."""
        noise_keys_B = row_keys(keys_B, self.steps, 0)  # no step has this number
        noise = jax.vmap(self._noise, in_axes=(0, None))
        noise_BxL = noise(noise_keys_B, canvas.tokens_BxL.shape[1])
        tokens_BxL = jnp.where(canvas.holes_BxL, noise_BxL, canvas.tokens_BxL)
        return begin(canvas._replace(tokens_BxL=tokens_BxL), keys_B)

    def step(self, denoise: Denoiser, state: SamplerState) -> SamplerState:
        tokens_BxL, last_B = self._moved(denoise, state), state.step_B + 1 >= self.steps
        ended_BxL = end_at_eos(tokens_BxL, state.holes_BxL, self.prediction.vocabulary)
        return advance(state, jnp.where(last_B[:, None], ended_BxL, tokens_BxL), last_B)

    def _moved(self, denoise, state):
        """Returns tokens_BxL at the end of the rows' steps."""
        t_B, s_B = self._times(state)
        log_p_BxLxV = self._log_p(denoise, state, t_B)
        keys_B = row_keys(state.keys_B, state.step_B, 0)
        return jax.vmap(self._move)(keys_B, state.tokens_BxL, log_p_BxLxV, t_B, s_B)

    def _move(self, key, z_L, log_p_LxV, t, s):
        """Returns a row's x_s."""
        whether_key, which_key = jax.random.split(key)
        masked_t, masked_s = self.schedule.masked(t), self.schedule.masked(s)
        # (1 - a) / (1 - alpha_t); it is 1 at s=0.
        share = (masked_t - masked_s) / ((1 - masked_s) * masked_t)
        jumped_L = jax.random.uniform(whether_key, z_L.shape) < share * self.is_noise(
            z_L, log_p_LxV, t
        )
        return jnp.where(jumped_L, self._noisy(which_key, log_p_LxV, s), z_L)

    def _times(self, state):
        return times(self.spacing, self.schedule, self.steps, state.step_B)

    def _log_p(self, denoise, state, t_B):
        t_BxL = jnp.where(state.holes_BxL, t_B[:, None], 0.0)
        inputs = state.tokens_BxL, t_BxL, state.layout
        return self.prediction.log_p(*predict(denoise, self.prediction, *inputs))

    def is_noise(self, z_L, log_p_LxV, t):
        """Returns r_L, the probability that a position of a row is noise; 1 for masks.

        Args:
          z_L: the row's tokens.
          log_p_LxV: the prediction.
          t: the row's time.
        """
        masked, v = self.schedule.masked(t), self.prediction.vocabulary
        if self.prediction.temperature == 0:
            p_L = (z_L == jnp.argmax(log_p_LxV, axis=-1)).astype(jnp.float32)
        else:
            p_L = jnp.exp(jnp.take_along_axis(log_p_LxV, z_L[:, None], axis=-1)[:, 0])
        noise = masked * (1 - self.mask_share) / len(v.text_ids())
        return jnp.where(z_L == v.mask_id, 1.0, noise / ((1 - masked) * p_L + noise))

    def _noisy(self, key, log_p_LxV, s):
        """Returns draws from qbar_s."""
        whether_key, clean_key, noise_key = jax.random.split(key, 3)
        clean_L = self.prediction.draw(clean_key, log_p_LxV)
        noise_L = self._noise(noise_key, clean_L.shape[0])
        noise = jax.random.uniform(whether_key, clean_L.shape) < self.schedule.masked(s)
        return jnp.where(noise, noise_L, clean_L)

    def _noise(self, key, length):
        """Returns draws from pi."""
        whether_key, which_key = jax.random.split(key)
        text_L = jax.random.choice(which_key, self.prediction.vocabulary.text_ids(), (length,))
        masks_L = jax.random.uniform(whether_key, (length,)) < self.mask_share
        return jnp.where(masks_L, self.prediction.vocabulary.mask_id, text_L)


@dataclasses.dataclass(frozen=True)
class UniformDDIM(UniformAncestral):
    """The discrete analogue of DDIM (arXiv 2010.02502, appendix A).

    x_s is x_t with probability sigma, new noise with probability eta (1 - alpha_s), and otherwise a
    draw of x_0. With sigma = (1 - eta) (1 - alpha_s) / (1 - alpha_t), x_s has the right marginal if
    x_t and x_0 have theirs. With eta=0 tokens stay or move to predictions; with eta=1 all noise is
    new.
    """

    eta: float = 0.0

    def _move(self, key, z_L, log_p_LxV, t, s):
        noise_key, renew_key, clean_key, which_key, stay_key = jax.random.split(key, 5)
        masked_t, masked_s = self.schedule.masked(t), self.schedule.masked(s)
        uniform = lambda key: jax.random.uniform(key, z_L.shape)  # noqa: E731
        clean_L = jnp.where(
            uniform(clean_key) < self.is_noise(z_L, log_p_LxV, t),
            self.prediction.draw(which_key, log_p_LxV),
            z_L,
        )
        # (1 - alpha_s) - (1 - alpha_t) sigma = eta (1 - alpha_s) is new noise.
        renewed = self.eta * masked_s
        sigma = (1 - self.eta) * masked_s / masked_t
        kept_L = jnp.where(uniform(stay_key) < sigma / (1 - renewed), z_L, clean_L)
        noise_L = self._noise(noise_key, z_L.shape[0])
        return jnp.where(uniform(renew_key) < renewed, noise_L, kept_L)


@dataclasses.dataclass(frozen=True)
class PredictorCorrector(UniformAncestral):
    """After each ancestral step to s, redraws one random hole per row, `corrector_steps` times.

    The redraw from qbar_s is a Gibbs step. Its stationary distribution is q_s, so it reduces the
    error of long steps. It is a corrector in the sense of arXiv 2205.14987, but without
    discretization error. Each redraw takes one more pass of the network.
    """

    corrector_steps: int = 1

    def _moved(self, denoise, state):
        _, s_B = self._times(state)

        def correct(j, tokens_BxL):
            keys_B = row_keys(state.keys_B, state.step_B, 1 + j)
            return self.correct(denoise, state._replace(tokens_BxL=tokens_BxL), keys_B, s_B)

        tokens_BxL = jnp.where(state.holes_BxL, super()._moved(denoise, state), state.tokens_BxL)
        return jax.lax.fori_loop(0, self.corrector_steps, correct, tokens_BxL)

    def correct(self, denoise: Denoiser, state: SamplerState, keys_B, s_B) -> jax.Array:
        """Returns tokens_BxL with one hole of each row redrawn at time s_B from keys_B."""
        log_p_BxLxV = self._log_p(denoise, state, s_B)

        def row(key, z_L, holes_L, log_p_LxV, s):
            where_key, which_key = jax.random.split(key)
            place = jnp.argmax(jnp.where(holes_L, jax.random.uniform(where_key, z_L.shape), -1.0))
            drawn_1 = self._noisy(which_key, log_p_LxV[place][None], s)
            return jnp.where(holes_L & (jnp.arange(z_L.shape[0]) == place), drawn_1, z_L)

        return jax.vmap(row)(keys_B, state.tokens_BxL, state.holes_BxL, log_p_BxLxV, s_B)
