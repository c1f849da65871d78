"""Uniform diffusion: UDLM (arXiv 2412.10193), Duo (2506.10892); with masks GIDD (2503.04482).

A token keeps its value with probability alpha(t), else it is noise: q(y | x) = alpha 1[y = x] +
(1 - alpha) pi(y). pi gives the mask `mask_share` and each symbol of text an equal part u of the
rest. The network gives p(x_i | x_t without its place i): with it qbar(y) = alpha p(y) + (1 - alpha)
pi(y) is the law of x_t,i given the other places, and the reverse process jumps from z to y at the
rate of beta pi(z) qbar(y) / qbar(z), beta = -alpha' / alpha. Only so is the bound tight; the bound
itself teaches the network to leave the place out, which it reads as all others.
"""

import dataclasses

import jax
import jax.numpy as jnp

from dlms_jax.config import Traits
from dlms_jax.config.traits import UNIFORM
from dlms_jax.diffusion.annealing import Annealing
from dlms_jax.diffusion.objective import Objective
from dlms_jax.diffusion.prompts import Prompts
from dlms_jax.diffusion.protocol import Batch, Corrupted, Loss, example_keys
from dlms_jax.diffusion.schedules import Schedule
from dlms_jax.diffusion.times import document_fractions, document_times


@dataclasses.dataclass(frozen=True)
class Uniform(Objective):
    """Each token is noise with probability 1 - alpha(t); the network is told t, 0 where the token
    is not noisy (BOS, prompts), for the text itself does not show how much of it is noise.

    mask_share: the part of the noise that is the mask, below 1; the rest is uniform over what a
    text may hold.
    """

    schedule: Schedule
    mask_share: float = 0.0
    prompts: Prompts = Prompts()
    annealing: Annealing = Annealing()

    @property
    def traits(self) -> Traits:
        return UNIFORM

    @property
    def protocol(self) -> str:
        return "uniform bound in continuous time"

    def draw_times(self, batch, key):
        time_key, _ = jax.random.split(key)
        return document_times(time_key, batch.row_B, batch.layout.segments_BxL)

    def corrupt(self, batch, t_BxL, key, denoise=None):
        _, noise_key = jax.random.split(key)
        return self._corrupt(batch, t_BxL, self.schedule.masked(t_BxL), noise_key)

    def loss(self, denoise, batch, key, step=0):
        """Returns the bound at one t a document."""
        count = batch.num_scored
        batch = self.annealing(self.prompts(batch, key, self.vocabulary.mask_id), key, step)
        t_BxL = self.draw_times(batch, key)
        corrupted = self.corrupt(batch, t_BxL, key)
        integrand_BxL, routers = self._integrand(
            denoise, batch, corrupted, self.schedule.masked(t_BxL)
        )
        # d log(1 - alpha) / dt is the weight.
        total = jnp.sum(batch.weights_BxL * self.schedule.weight(t_BxL) * integrand_BxL)
        return Loss(total, count, {"changed": jnp.sum(corrupted.hidden_BxL)}, routers)

    def bound(self, denoise, batch, key, sample, num_samples):
        """Returns nats_BxL of the bound at one alpha a document: 1 - alpha = s^2, s uniform and
        stratified over the samples.

        By any schedule the integral is the same. By this one its estimate has a finite variance:
        near alpha = 1 the few tokens that are noise weigh 1 / (1 - alpha).
        """
        stratum_key, noise_key = jax.random.split(key)
        fraction_BxL = document_fractions(stratum_key, batch.row_B, batch.layout.segments_BxL)
        s_BxL = 1 - (fraction_BxL + sample / num_samples) % 1.0
        noise_BxL = s_BxL**2
        noise_key = jax.random.fold_in(noise_key, sample)
        corrupted = self._corrupt(batch, self.schedule.time(noise_BxL), noise_BxL, noise_key)
        return 2 / s_BxL * self._integrand(denoise, batch, corrupted, noise_BxL)[0]

    def _corrupt(self, batch: Batch, t_BxL, noise_BxL, key) -> Corrupted:
        """Returns one draw of the forward process at 1 - alpha = noise."""
        text = jnp.asarray(self.vocabulary.text_ids())

        def row(key, x_L, noise_L):
            whether_key, mask_key, which_key = jax.random.split(key, 3)
            text_L = text[jax.random.randint(which_key, x_L.shape, 0, len(text))]
            symbol_L = jnp.where(
                jax.random.uniform(mask_key, x_L.shape) < self.mask_share,
                self.vocabulary.mask_id,
                text_L,
            )
            # jax.random.uniform has steps of 2^-23: where less is noise, far too much would be.
            uniform_L = jax.random.bits(whether_key, x_L.shape).astype(jnp.float32) * 2.0**-32
            return jnp.where(uniform_L < noise_L, symbol_L, x_L)

        z_BxL = jax.vmap(row)(example_keys(key, batch.row_B), batch.tokens_BxL, noise_BxL)
        z_BxL = jnp.where(batch.scored_BxL, z_BxL, batch.tokens_BxL)
        t_BxL = jnp.where(batch.scored_BxL, t_BxL, 0.0)
        return Corrupted(z_BxL, t_BxL, z_BxL != batch.tokens_BxL)

    def _integrand(self, denoise, batch, corrupted: Corrupted, noise_BxL):
        """Returns (`integrand` of what the network says of z, 0 where not scored; routers)."""
        logits_BxLxV, routers = denoise.forward(corrupted.inputs, corrupted.t_BxL, batch.layout)
        logits_BxLxV = logits_BxLxV.astype(jnp.float32) + self.vocabulary.text_bias_V()[None, None]
        u = (1 - self.mask_share) / len(self.vocabulary.text_ids())
        x_BxL, z_BxL = batch.tokens_BxL, corrupted.inputs
        integrand_BxL = integrand(logits_BxLxV, x_BxL, z_BxL, noise_BxL, u)
        return jnp.where(batch.scored_BxL, integrand_BxL, 0.0), routers


@jax.checkpoint  # of what is B x L x V, the logits alone are kept for the gradient
def integrand(logits_BxLxV, x_BxL, z_BxL, noise_BxL, u) -> jax.Array:
    """Returns nats_BxL: the bound's integrand over log m, m = 1 - alpha(t), where x has become z.

    logits: of p, -inf for what is not text. u: what pi gives each symbol of text.
    The bound of a jump process is the integral over time of the sum over jumps from z to y of
    r' - r + r log(r / r'), r = beta pi(z) q(y | x) / q(z | x) the rate given x and r' the one that
    is learned. With g = log(qbar(z) / q(z | x)) it comes to
        beta pi(z) / q(z | x) * [KL(q(. | x) || qbar) + g + expm1(-g)],
    where no part is negative, and beta dt = m / alpha d(log m). With a = m u, b = a + alpha and c =
    alpha / a, qbar(y) is a (1 + c p(y)), and q(y | x) is b where y = x, else a: a sum over symbols
    of log1p(c p) gives the KL, without differences of numbers that are nearly equal near alpha = 0.
    """
    # At the ends of float32's range the limits are as good as reached, and 0 / 0 is near.
    m_BxL = jnp.clip(noise_BxL, 1e-30, 1 - 2.0**-24)
    alpha_BxL, a_BxL = 1 - m_BxL, m_BxL * u
    c_BxL = alpha_BxL / a_BxL
    norm_BxL = jax.nn.logsumexp(logits_BxLxV, axis=-1)
    p_BxLxV = jnp.exp(logits_BxLxV - norm_BxL[..., None])
    sum_BxL = jnp.sum(jnp.log1p(c_BxL[..., None] * p_BxLxV), axis=-1)

    def log_p(y_BxL):
        return jnp.take_along_axis(logits_BxLxV, y_BxL[..., None], axis=-1)[..., 0] - norm_BxL

    log_p_x_BxL = log_p(x_BxL)
    cp_x_BxL, cp_z_BxL = c_BxL * jnp.exp(log_p_x_BxL), c_BxL * jnp.exp(log_p(z_BxL))
    # log(q(x | x) / qbar(x)) = log((1 + c) / (1 + c p(x))), which may be small where c is large.
    gap_BxL = jnp.log1p(-c_BxL * jnp.expm1(log_p_x_BxL) / (1 + cp_x_BxL))
    kl_BxL = (a_BxL + alpha_BxL) * gap_BxL - a_BxL * (sum_BxL - jnp.log1p(cp_x_BxL))
    # Of a mask p is 0, and so is g.
    g_BxL = jnp.where(z_BxL == x_BxL, -gap_BxL, jnp.log1p(cp_z_BxL))
    # m pi(z) / q(z | x): a / b = 1 / (1 + c) where z = x, else 1.
    share_BxL = jnp.where(z_BxL == x_BxL, 1 / (1 + c_BxL), 1.0)
    return share_BxL / alpha_BxL * (kl_BxL + _excess(g_BxL))


def _excess(g):
    """Returns g + expm1(-g), also where that is the small difference of larger numbers."""
    series = g**2 * (1 / 2 - g / 6 + g**2 / 24)
    return jnp.where(abs(g) < 0.01, series, g + jnp.expm1(-g))
