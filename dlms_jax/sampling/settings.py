"""Makes the sampler that config.sampling names."""

from typing import Any

from dlms_jax.config import SamplingConfig
from dlms_jax.diffusion import Objective
from dlms_jax.errors import UserError
from dlms_jax.sampling.decoding.block import BlockSampler
from dlms_jax.sampling.decoding.next_token import NextToken
from dlms_jax.sampling.decoding.orders import Ordered
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes import gaussian, uniform
from dlms_jax.sampling.processes.ancestral import Ancestral
from dlms_jax.sampling.processes.first_hitting import FirstHitting
from dlms_jax.sampling.processes.masked import MaskedSampler
from dlms_jax.sampling.processes.remasking import Remasking
from dlms_jax.sampling.sampler import Sampler

_MASKED = (
    "ancestral",
    "confidence",
    "margin",
    "entropy",
    "remdm_cap",
    "remdm_rescale",
    "remdm_confidence",
    "first_hitting",
)
# By objective; the first one is the default.
SAMPLERS = {
    "masked": _MASKED,
    "block": _MASKED,
    "uniform": ("ancestral", "ddim", "predictor_corrector"),
    "gaussian": ("ancestral", "ddim", "euler", "heun", "dpm++"),
    "autoregressive": ("ancestral",),
}


def make_sampler(name: str, objective: Objective, config: SamplingConfig) -> Sampler:
    """Returns the sampler that a config names.

    Args:
      name: the objective's name, a key of SAMPLERS.
      objective: the objective.
      config: the sampling settings.

    Raises:
      UserError: the sampler or its settings do not fit the objective.
    """
    sampler = _sampler_of(name, config)
    prediction = Prediction(
        objective.vocabulary, config.temperature, config.top_k, config.top_p, config.guidance
    )
    steps, spacing = config.steps, config.timestep_spacing
    process: Any = objective  # its fields depend on the name
    if name == "autoregressive":
        return NextToken(prediction, config.cache)
    if name == "gaussian":
        flow = (prediction, process, steps, spacing, config.clamp)
        if sampler in ("ancestral", "ddim"):
            return gaussian.DDIM(*flow, eta=1.0 if sampler == "ancestral" else config.eta)
        return gaussian.ProbabilityFlow(*flow, order=sampler)
    if name == "uniform":
        jumps = (prediction, process.schedule, steps, spacing, process.mask_share)
        if sampler == "ddim":
            return uniform.UniformDDIM(*jumps, eta=config.eta)
        if sampler == "predictor_corrector":
            return uniform.PredictorCorrector(*jumps, corrector_steps=config.corrector_steps)
        return uniform.UniformAncestral(*jumps)
    masked = _masked_sampler(sampler, prediction, process.schedule, config)
    if name == "block":
        return BlockSampler(masked, process.config.size, config.cache)
    return masked


def settings_of(name: str, config: SamplingConfig) -> set[str]:
    """Returns the settings of config.sampling that its sampler reads.

    Args:
      name: the objective's name.
      config: the sampling settings.

    Raises:
      UserError: the sampler does not fit the objective.
    """
    used = {"sampler", "temperature", "top_k", "top_p", "guidance", "length", "prompt"}
    sampler = _sampler_of(name, config)
    if name in ("autoregressive", "block"):
        used.add("cache")
    if name != "autoregressive" and sampler != "first_hitting":
        used |= {"steps", "timestep_spacing"}
    if name == "gaussian":
        used.add("clamp")
    if sampler == "ddim" or sampler.startswith("remdm"):
        used.add("eta")
    if sampler == "predictor_corrector":
        used.add("corrector_steps")
    return used


def _sampler_of(name, config):
    sampler = SAMPLERS[name][0] if config.sampler == "default" else config.sampler
    if sampler not in SAMPLERS[name]:
        raise UserError(
            f"config.sampling.sampler={sampler} does not support objective {name}; "
            f"use {', '.join(SAMPLERS[name])}, or default"
        )
    return sampler


def _masked_sampler(sampler, prediction, schedule, config) -> MaskedSampler:
    if sampler == "first_hitting":
        return FirstHitting(prediction, schedule)
    stepped = prediction, schedule, config.steps, config.timestep_spacing
    if sampler == "ancestral":
        return Ancestral(*stepped)
    if sampler in ("confidence", "margin", "entropy"):
        return Ordered(*stepped, order=sampler)
    if not config.eta:
        raise UserError(
            f"config.sampling.sampler={sampler} needs config.sampling.eta above 0; use for example "
            "0.02 for remdm_cap, 0.2 for the others"
        )
    return Remasking(*stepped, kind=sampler.removeprefix("remdm_"), eta=config.eta)
