"""Uniform diffusion: UDLM (arXiv 2412.10193), Duo (2506.10892); with masks GIDD (2503.04482).

A token keeps its value with probability alpha(t) and is noise otherwise: q(y | x) = alpha 1[y = x]
+ (1 - alpha) pi(y). pi gives the mask the probability `mask_share` and each text token an equal
part u of the rest. The network estimates p(x_i | x_t except position i). Then qbar(y) = alpha p(y)
+ (1 - alpha) pi(y) is the distribution of x_t,i given the other positions, and the reverse process
jumps from z to y at the rate beta pi(z) qbar(y) / qbar(z), beta = -alpha' / alpha. The bound is
tight only for this p; although the network also reads position i, the bound trains it to ignore it.
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
    """Each token is replaced by noise with probability 1 - alpha(t).

    The network is conditioned on t, since the text does not show how much of it is noise; t is 0
    for BOS and prompts.

    Attributes:
      schedule: the noise schedule.
      mask_share: the share of the noise that is the mask, below 1; the rest is uniform over the
        text tokens.
      prompts: hides prompts and makes random ones.
      annealing: limits attention in the first steps.
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
        """Returns the bound at one t for each document."""
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
        """Returns nats_BxL of the bound at one alpha for each document.

        1 - alpha = s^2, with s uniform and stratified over the samples. The integral is the same
        for every schedule. With this one the estimate has a finite variance, although near
        alpha = 1 the few noise tokens weigh 1 / (1 - alpha).
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
            # jax.random.uniform has steps of 2^-23, too coarse for a probability below that.
            uniform_L = jax.random.bits(whether_key, x_L.shape).astype(jnp.float32) * 2.0**-32
            return jnp.where(uniform_L < noise_L, symbol_L, x_L)

        z_BxL = jax.vmap(row)(example_keys(key, batch.row_B), batch.tokens_BxL, noise_BxL)
        z_BxL = jnp.where(batch.scored_BxL, z_BxL, batch.tokens_BxL)
        t_BxL = jnp.where(batch.scored_BxL, t_BxL, 0.0)
        return Corrupted(z_BxL, t_BxL, z_BxL != batch.tokens_BxL)

    def _integrand(self, denoise, batch, corrupted: Corrupted, noise_BxL):
        """Returns (`integrand` from a pass of the network, 0 where not scored; routers)."""
        logits_BxLxV, routers = denoise.forward(corrupted.inputs, corrupted.t_BxL, batch.layout)
        logits_BxLxV = logits_BxLxV.astype(jnp.float32) + self.vocabulary.text_bias_V()[None, None]
        u = (1 - self.mask_share) / len(self.vocabulary.text_ids())
        x_BxL, z_BxL = batch.tokens_BxL, corrupted.inputs
        integrand_BxL = integrand(logits_BxLxV, x_BxL, z_BxL, noise_BxL, u)
        return jnp.where(batch.scored_BxL, integrand_BxL, 0.0), routers


@jax.checkpoint  # the only B x L x V array kept for the backward pass is the logits
def integrand(logits_BxLxV, x_BxL, z_BxL, noise_BxL, u) -> jax.Array:
    """Returns nats_BxL, the bound's integrand over log m, with m = 1 - alpha(t).

    The bound of a jump process is the integral over time of the sum over jumps from z to y of
    r' - r + r log(r / r'): r = beta pi(z) q(y | x) / q(z | x) is the rate given x, and r' the
    learned rate. With g = log(qbar(z) / q(z | x)) the sum is
        beta pi(z) / q(z | x) * [KL(q(. | x) || qbar) + g + expm1(-g)],
    where no term is negative, and beta dt = m / alpha d(log m). With a = m u, b = a + alpha and c =
    alpha / a, qbar(y) is a (1 + c p(y)), and q(y | x) is b if y = x, else a. The KL is then a sum
    over tokens of log1p(c p), without cancellation near alpha = 0.

    Args:
      logits_BxLxV: the logits of p, -inf for tokens that are not text.
      x_BxL: the clean tokens.
      z_BxL: the noisy tokens.
      noise_BxL: m.
      u: the probability that pi gives each text token.
    """
    # Outside these limits the integrand is at its limit in float32, and would be 0 / 0.
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
    # log(q(x | x) / qbar(x)) = log((1 + c) / (1 + c p(x))), which may be small although c is large.
    gap_BxL = jnp.log1p(-c_BxL * jnp.expm1(log_p_x_BxL) / (1 + cp_x_BxL))
    kl_BxL = (a_BxL + alpha_BxL) * gap_BxL - a_BxL * (sum_BxL - jnp.log1p(cp_x_BxL))
    # If z is the mask, p(z) is 0, and so is g.
    g_BxL = jnp.where(z_BxL == x_BxL, -gap_BxL, jnp.log1p(cp_z_BxL))
    # m pi(z) / q(z | x) is a / b = 1 / (1 + c) if z = x, else 1.
    share_BxL = jnp.where(z_BxL == x_BxL, 1 / (1 + c_BxL), 1.0)
    return share_BxL / alpha_BxL * (kl_BxL + _excess(g_BxL))


def _excess(g):
    """Returns g + expm1(-g), without cancellation at small g."""
    series = g**2 * (1 / 2 - g / 6 + g**2 / 24)
    return jnp.where(abs(g) < 0.01, series, g + jnp.expm1(-g))
