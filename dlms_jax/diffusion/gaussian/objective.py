"""The objective of Gaussian diffusion on embeddings: network inputs, losses, bound.

A token's clean embedding is its row of the table. Prompts and BOS stay clean, with t=0. A hidden
prompt token gets the mask's row of the table, the null embedding.
"""

import dataclasses

import jax
from jax.lax import stop_gradient
import jax.numpy as jnp

from dlms_jax.config import GaussianConfig, Traits
from dlms_jax.config.traits import GAUSSIAN
from dlms_jax.diffusion.annealing import Annealing
from dlms_jax.diffusion.gaussian.fit import (
    fit_loss,
    make_schedule,
    schedule_size,
    without_gradient_to_shape,
)
from dlms_jax.diffusion.gaussian.gamma import Schedule
from dlms_jax.diffusion.gaussian.process import alpha_sigma, diffuse, logit_bias, prior_kl, to_x0
from dlms_jax.diffusion.groups import group_mean
from dlms_jax.diffusion.objective import Objective
from dlms_jax.diffusion.prompts import Prompts
from dlms_jax.diffusion.protocol import Corrupted, Denoiser, Layout, Loss, Noisy, example_keys
from dlms_jax.diffusion.times import document_fractions, document_times
from dlms_jax.errors import UserError

# The schedule's gradient should not affect how the global norm is clipped. Adam's updates do not
# depend on its scale.
_FIT_WEIGHT = 0.01


@dataclasses.dataclass(frozen=True)
class Gaussian(Objective):
    """Embeddings get Gaussian noise; the network estimates the clean ones.

    The losses, per token, at gamma(t), where e is the squared distance between a clean embedding
    and its estimate:
    cross_entropy: -log p(x | z) (CDCD, LangFlow).
    bound: the bound on -log p(x), with one draw of t (VDM, Plaid).
    score_matching: half the squared error of the quantity that config.parameterisation names,
        summed over the embedding, plus the reconstruction -log p(x | z_0), which keeps the
        embeddings apart (Diffusion-LM). For x0 the error is e / 2; for noise it is
        exp(-gamma) e / 2, the bound's integrand over gamma.

    Attributes:
      config: the settings of Gaussian diffusion.
      schedule: the kind of noise schedule (fit.py).
      prompts: hides prompts and makes random ones.
      annealing: limits attention in the first steps.
    """

    config: GaussianConfig
    schedule: str = "linear"
    prompts: Prompts = Prompts()
    annealing: Annealing = Annealing()

    @property
    def traits(self) -> Traits:
        return GAUSSIAN

    @property
    def protocol(self) -> str:
        return "Gaussian bound: reconstruction, diffusion at log-SNRs drawn uniformly, prior"

    def noise_schedule(self, denoise: Denoiser) -> Schedule:
        """Returns the noise schedule with the present parameters.

        Only its end points have gradients, and only for loss="bound".
        """
        parameters_P = without_gradient_to_shape(self.schedule, denoise.schedule)
        if self.config.loss != "bound":
            parameters_P = stop_gradient(parameters_P)
        return make_schedule(self.schedule, self.config, parameters_P)

    def predict(
        self,
        denoise: Denoiser,
        z_BxLxE,
        gamma_BxL,
        layout: Layout,
        noisy_BxL,
        estimate_BxLxE=None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (log_p_BxLxV, x_hat_BxLxE): log p(token | z) and the estimated clean embeddings.

        log p is -inf for tokens that are not text. x_hat equals z where z is not noisy.

        With head="embedding", p(token | z) is the posterior under a flat prior of an observation
        alpha x_hat with noise of level gamma; as gamma falls, it tends to the nearest embedding.

        Args:
          denoise: the network with its weights.
          z_BxLxE: the noisy embeddings.
          gamma_BxL: their noise level.
          layout: the layout of the rows.
          noisy_BxL: True where z is noisy.
          estimate_BxLxE: the estimate that the network reads beside z. None: `first_estimate`,
            improved by a first pass if config.self_conditioning is set.
        """
        if estimate_BxLxE is None:
            estimate_BxLxE = self.first_estimate(denoise, z_BxLxE, gamma_BxL, noisy_BxL)
            if self.config.self_conditioning:
                _, estimate_BxLxE, _ = self._pass(
                    denoise, z_BxLxE, gamma_BxL, layout, noisy_BxL, estimate_BxLxE
                )
        return self._pass(denoise, z_BxLxE, gamma_BxL, layout, noisy_BxL, estimate_BxLxE)[:2]

    def first_estimate(self, denoise: Denoiser, z_BxLxE, gamma_BxL, noisy_BxL) -> jax.Array:
        """Returns x_hat_BxLxE without the network: each token's posterior mean, flat prior.

        Args:
          denoise: holds the embeddings.
          z_BxLxE: the noisy embeddings.
          gamma_BxL: their noise level.
          noisy_BxL: True where z is noisy; elsewhere the result is z.
        """
        log_p_BxLxV = self._decoded(logit_bias(z_BxLxE, gamma_BxL, denoise.table_VxE))
        mean_BxLxE = mean_embedding(log_p_BxLxV, denoise.table_VxE)
        return jnp.where(noisy_BxL[..., None], mean_BxLxE, z_BxLxE)

    def draw_times(self, batch, key):
        time_key, *_ = jax.random.split(key, 4)
        return document_times(time_key, batch.row_B, batch.layout.segments_BxL)

    def corrupt(self, batch, t_BxL, key, denoise=None):
        """Returns z at gamma(t) as a Noisy, whose estimate is `first_estimate`.

        Raises:
          UserError: `denoise` is None.
        """
        if denoise is None:
            raise UserError("Gaussian diffusion needs the network's embeddings; pass its Denoiser")
        _, noise_key, *_ = jax.random.split(key, 4)
        gamma_BxL, scored_BxL = self.noise_schedule(denoise).gamma(t_BxL), batch.scored_BxL
        _, z_BxLxE = self._corrupt(denoise, batch, gamma_BxL, noise_key)
        estimate_BxLxE = self.first_estimate(denoise, z_BxLxE, gamma_BxL, scored_BxL)
        inputs = Noisy(z_BxLxE, estimate_BxLxE)
        return Corrupted(inputs, self._told(gamma_BxL, scored_BxL), scored_BxL)

    def loss(self, denoise, batch, key, step=0):
        """Returns the loss that config.loss names, at one t for each document."""
        count = batch.num_scored
        batch = self.annealing(self.prompts(batch, key, self.vocabulary.mask_id), key, step)
        _, noise_key, first_noise_key, coin_key = jax.random.split(key, 4)
        schedule, scored_BxL = self.noise_schedule(denoise), batch.scored_BxL
        t_BxL = self.draw_times(batch, key)
        gamma_BxL = schedule.gamma(t_BxL)
        # Like `corrupt`, but x and gamma, which have gradients, are computed once.
        x_BxLxE, z_BxLxE = self._corrupt(denoise, batch, gamma_BxL, noise_key)
        estimate_BxLxE = self._training_estimate(denoise, batch, z_BxLxE, gamma_BxL, coin_key)
        log_p_BxLxV, x_hat_BxLxE, routers = self._pass(
            denoise, z_BxLxE, gamma_BxL, batch.layout, scored_BxL, estimate_BxLxE
        )
        nll_BxL = _nll(log_p_BxLxV, batch)
        error_BxL = _squared_error(x_BxLxE, x_hat_BxLxE)
        integrand_BxL = 0.5 * jnp.exp(-gamma_BxL) * error_BxL
        metrics = {"cross_entropy": jnp.sum(nll_BxL), "squared_error": jnp.sum(error_BxL)}
        if self.config.loss == "cross_entropy":
            losses_BxL = nll_BxL
        else:
            reconstruction_BxL = self._reconstruction(denoise, batch, schedule, first_noise_key)
            metrics["reconstruction"] = jnp.sum(reconstruction_BxL)
            if self.config.loss == "bound":
                diffusion_BxL = schedule.gamma_prime(t_BxL) * integrand_BxL
                losses_BxL = diffusion_BxL + prior_kl(x_BxLxE, schedule.gamma_max)
            else:
                losses_BxL = 0.5 * error_BxL * self._error_weight(gamma_BxL)
            losses_BxL += reconstruction_BxL
        total = jnp.sum(batch.weights_BxL * jnp.where(scored_BxL, losses_BxL, 0.0))
        if schedule_size(self.schedule):
            fit = self._fit(denoise, batch, t_BxL, nll_BxL, integrand_BxL)
            metrics["schedule_fit"] = stop_gradient(fit)
            # Adds the gradient of the fit, but nothing to the reported loss.
            total += _FIT_WEIGHT * (fit - stop_gradient(fit))
        return Loss(total, count, metrics, routers)

    def bound(self, denoise, batch, key, sample, num_samples):
        """Returns nats_BxL of the bound, for any config.loss (VDM, eq. 12).

        It is the reconstruction by a flat-prior decoder, half the integral over gamma of
        exp(-gamma) |x - x_hat|^2, and the prior KL. gamma is uniform in its range and stratified
        over the samples: the integral is the same for every schedule, and this one has no rare
        draws of large weight. x_hat depends only on z at gamma, self-conditioning included, so the
        bound is valid.
        """
        time_key, noise_key, first_noise_key = jax.random.split(key, 3)
        schedule = self.noise_schedule(denoise)
        t_BxL = document_fractions(time_key, batch.row_B, batch.layout.segments_BxL)
        t_BxL = (t_BxL + sample / num_samples) % 1.0
        span = schedule.gamma_max - schedule.gamma_min
        gamma_BxL = schedule.gamma_min + span * t_BxL
        x_BxLxE, z_BxLxE = self._corrupt(
            denoise, batch, gamma_BxL, jax.random.fold_in(noise_key, sample)
        )
        _, x_hat_BxLxE = self.predict(denoise, z_BxLxE, gamma_BxL, batch.layout, batch.scored_BxL)
        diffusion_BxL = 0.5 * span * jnp.exp(-gamma_BxL) * _squared_error(x_BxLxE, x_hat_BxLxE)
        reconstruction_BxL = self._reconstruction(
            denoise, batch, schedule, jax.random.fold_in(first_noise_key, sample)
        )
        nats_BxL = reconstruction_BxL + diffusion_BxL + prior_kl(x_BxLxE, schedule.gamma_max)
        return jnp.where(batch.scored_BxL, nats_BxL, 0.0)

    def _pass(self, denoise, z_BxLxE, gamma_BxL, layout, noisy_BxL, estimate_BxLxE):
        """Returns (log_p_BxLxV, x_hat_BxLxE, routers) of one pass of the network."""
        c, table_VxE = self.config, denoise.table_VxE
        t_BxL = self._told(gamma_BxL, noisy_BxL)
        output, routers = denoise.forward(Noisy(z_BxLxE, estimate_BxLxE), t_BxL, layout)
        if c.head == "logits":
            bias_BxLxV = logit_bias(z_BxLxE, gamma_BxL, table_VxE)
            log_p_BxLxV = self._decoded(output + bias_BxLxV)
            x_hat_BxLxE = mean_embedding(log_p_BxLxV, table_VxE)
        else:
            x_hat_BxLxE = to_x0(output, z_BxLxE, gamma_BxL, c.parameterisation)
            alpha, _ = alpha_sigma(gamma_BxL)
            seen_BxLxE = alpha[..., None] * x_hat_BxLxE
            log_p_BxLxV = self._decoded(logit_bias(seen_BxLxE, gamma_BxL, table_VxE))
        return log_p_BxLxV, jnp.where(noisy_BxL[..., None], x_hat_BxLxE, z_BxLxE), routers

    def _told(self, gamma_BxL, noisy_BxL):
        """Returns the network's t_BxL: gamma's relative position in its range, 0 where clean."""
        c = self.config
        t_BxL = jnp.clip((gamma_BxL - c.gamma_min) / (c.gamma_max - c.gamma_min), 0.0, 1.0)
        return jnp.where(noisy_BxL, t_BxL, 0.0)

    def _training_estimate(self, denoise, batch, z_BxLxE, gamma_BxL, coin_key):
        """Returns the estimate that the network reads in training (Analog Bits, arXiv 2208.04202).

        In half of the steps it is that of a first pass without gradient. All rows of a step share
        the coin, so the other half of the steps need no first pass.
        """
        noisy_BxL = batch.scored_BxL
        first_BxLxE = self.first_estimate(denoise, z_BxLxE, gamma_BxL, noisy_BxL)
        if not self.config.self_conditioning:
            return first_BxLxE

        def refined():
            found = self._pass(denoise, z_BxLxE, gamma_BxL, batch.layout, noisy_BxL, first_BxLxE)
            return stop_gradient(found[1])

        return jax.lax.cond(jax.random.bernoulli(coin_key), refined, lambda: first_BxLxE)

    def _corrupt(self, denoise, batch, gamma_BxL, key):
        """Returns (x_BxLxE, z_BxLxE): clean embeddings, and the same with noise where scored."""
        x_BxLxE = jnp.take(denoise.table_VxE, batch.tokens_BxL, axis=0)
        z_BxLxE = diffuse(x_BxLxE, _example_normal(key, batch.row_B, x_BxLxE.shape[1:]), gamma_BxL)
        return x_BxLxE, jnp.where(batch.scored_BxL[..., None], z_BxLxE, x_BxLxE)

    def _reconstruction(self, denoise, batch, schedule, key):
        """Returns nats_BxL = -log p(x | z_0) under a flat prior; it does not use the network."""
        gamma_BxL = jnp.full(batch.tokens_BxL.shape, schedule.gamma_min)
        _, z_BxLxE = self._corrupt(denoise, batch, gamma_BxL, key)
        log_p_BxLxV = self._decoded(logit_bias(z_BxLxE, gamma_BxL, denoise.table_VxE))
        return _nll(log_p_BxLxV, batch)

    def _error_weight(self, gamma_BxL):
        """Returns the squared error of the parameterisation divided by that of x0."""
        noise = jnp.exp(-gamma_BxL)  # alpha^2 / sigma^2
        per_variance = 1 + noise  # 1 / sigma^2
        weights = {
            "x0": jnp.ones_like(noise),
            "noise": noise,
            "v": per_variance,
            "score": noise * per_variance,
        }
        return weights[self.config.parameterisation]

    def _fit(self, denoise, batch, t_BxL, nll_BxL, integrand_BxL):
        """Returns `fit_loss` summed over the scored tokens, without their weights."""
        nats_BxL = nll_BxL
        if self.schedule == "learned":
            nats_BxL = group_mean(integrand_BxL, batch.scored_BxL, batch.layout.segments_BxL)
        symbols = len(self.vocabulary.text_ids())
        fit_BxL = fit_loss(self.schedule, self.config, denoise.schedule, t_BxL, nats_BxL, symbols)
        return jnp.sum(jnp.where(batch.scored_BxL, fit_BxL, 0.0))

    def _decoded(self, logits_BxLxV):
        """Returns log p from logits, -inf for tokens that are not text."""
        return jax.nn.log_softmax(logits_BxLxV + self.vocabulary.text_bias_V()[None, None])


def mean_embedding(log_p_BxLxV, table_VxE) -> jax.Array:
    """Returns mean_BxLxE, the expected embedding under p.

    It has full precision on any hardware: at low noise its squared error is multiplied by
    exp(-gamma).
    """
    return jnp.matmul(jnp.exp(log_p_BxLxV), table_VxE, precision="highest")


def _nll(log_p_BxLxV, batch):
    """Returns -log p of the scored tokens, and 0 elsewhere, where it may be infinite."""
    log_p_BxL = jnp.take_along_axis(log_p_BxLxV, batch.tokens_BxL[..., None], axis=-1)[..., 0]
    return jnp.where(batch.scored_BxL, -log_p_BxL, 0.0)


def _squared_error(x_BxLxE, x_hat_BxLxE):
    return jnp.sum((x_BxLxE - x_hat_BxLxE) ** 2, axis=-1)


def _example_normal(key, row_B, shape):
    """Returns standard normal draws of shape [B, *shape], for each row from its own key."""
    return jax.vmap(lambda k: jax.random.normal(k, shape))(example_keys(key, row_B))
