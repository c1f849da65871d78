"""BATCH -> CORRUPTED BATCH -> LOSS: the objectives, as pure functions with no parameters.

An objective meets the network only through the `Denoiser` that is passed to it (protocol.py).
"""

from dlms_jax.config import Config
from dlms_jax.diffusion import gaussian
from dlms_jax.diffusion.annealing import Annealing
from dlms_jax.diffusion.autoregressive import Autoregressive
from dlms_jax.diffusion.block import Block
from dlms_jax.diffusion.gaussian import Gaussian
from dlms_jax.diffusion.masked import Masked
from dlms_jax.diffusion.prompts import Prompts, hide_prompts
from dlms_jax.diffusion.protocol import (
    Batch,
    Cached,
    Denoiser,
    Layout,
    Loss,
    Noisy,
    Objective,
    Vocabulary,
    make_batch,
)
from dlms_jax.diffusion.schedules import Cosine, Linear, Polynomial
from dlms_jax.diffusion.shift import shifted
from dlms_jax.diffusion.uniform import Uniform

__all__ = [
    "Annealing", "Autoregressive", "Batch", "Block", "Cached", "Cosine", "Denoiser", "Gaussian",
    "Layout", "Linear", "Loss", "Masked", "Noisy", "Objective", "Polynomial", "Prompts", "Uniform",
    "Vocabulary", "hide_prompts", "make_batch", "make_objective", "schedule_size", "shifted",
]  # fmt: skip


def make_objective(config: Config, vocabulary: Vocabulary) -> Objective:
    """Returns the objective that a config names."""
    c = config.objective
    prompts = Prompts(c.prompt_drop, c.random_context)
    annealing = Annealing(c.anneal_steps)
    if c.name == "autoregressive":
        return Autoregressive(vocabulary, prompts)
    if c.name == "gaussian":
        return Gaussian(vocabulary, config.gaussian, c.schedule, prompts, annealing)
    schedules = {"linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(c.schedule_power)}
    schedule = schedules[c.schedule]
    if c.name == "uniform":
        return Uniform(vocabulary, schedule, c.mask_share, prompts, annealing)
    if c.name == "block":
        return Block(vocabulary, schedule, config.block, prompts, annealing)
    return Masked(vocabulary, schedule, prompts, annealing)


def schedule_size(config: Config) -> int:
    """Returns how many parameters a config's noise schedule learns; 0 where it is fixed."""
    if config.objective.name != "gaussian":
        return 0
    return gaussian.schedule_size(config.objective.schedule)
