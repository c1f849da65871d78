"""Gaussian diffusion on embeddings: Diffusion-LM (arXiv 2205.14217), CDCD (2211.15089), Plaid
(2305.18619), LangFlow (2604.11748)."""

from dlms_jax.diffusion.gaussian.fit import make_schedule, schedule_size
from dlms_jax.diffusion.gaussian.gamma import Schedule
from dlms_jax.diffusion.gaussian.objective import Gaussian, mean_embedding
from dlms_jax.diffusion.gaussian.process import (
    alpha_sigma,
    diffuse,
    from_x0,
    logit_bias,
    posterior,
    prior_kl,
    to_x0,
)

__all__ = [
    "Gaussian",
    "Schedule",
    "alpha_sigma",
    "diffuse",
    "from_x0",
    "logit_bias",
    "make_schedule",
    "mean_embedding",
    "posterior",
    "prior_kl",
    "schedule_size",
    "to_x0",
]
