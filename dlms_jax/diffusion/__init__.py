"""BATCH -> CORRUPTED BATCH -> LOSS: the objectives, as pure functions without parameters.

An objective uses the network only through the `Denoiser` that is passed to it (protocol.py).
"""

from dlms_jax.config import Config, traits_of
from dlms_jax.diffusion import gaussian
from dlms_jax.diffusion.annealing import Annealing
from dlms_jax.diffusion.autoregressive import Autoregressive
from dlms_jax.diffusion.block import Block
from dlms_jax.diffusion.gaussian import Gaussian
from dlms_jax.diffusion.masked import Masked
from dlms_jax.diffusion.objective import Objective
from dlms_jax.diffusion.prompts import Prompts, hide_prompts
from dlms_jax.diffusion.protocol import (
    Batch,
    Cached,
    Corrupted,
    Denoiser,
    Layout,
    Loss,
    Nll,
    Noisy,
    Vocabulary,
    make_batch,
)
from dlms_jax.diffusion.schedules import Cosine, Linear, Polynomial
from dlms_jax.diffusion.shift import shifted
from dlms_jax.diffusion.uniform import Uniform

__all__ = [
    "Annealing",
    "Autoregressive",
    "Batch",
    "Block",
    "Cached",
    "Corrupted",
    "Cosine",
    "Denoiser",
    "Gaussian",
    "Layout",
    "Linear",
    "Loss",
    "Masked",
    "Nll",
    "Noisy",
    "Objective",
    "Polynomial",
    "Prompts",
    "Uniform",
    "Vocabulary",
    "hide_prompts",
    "make_batch",
    "make_objective",
    "schedule_size",
    "shifted",
]


def make_objective(config: Config, vocabulary: Vocabulary) -> Objective:
    """Returns the objective that a config names."""
    c = config.objective
    prompts, annealing = Prompts(c.prompt_drop, c.random_context), Annealing(c.anneal_steps)
    schedule = {
        "linear": Linear(),
        "cosine": Cosine(),
        "polynomial": Polynomial(c.schedule_power),
    }.get(c.schedule)  # None: a schedule of Gaussian diffusion
    common = prompts, annealing
    return {
        "masked": lambda: Masked(vocabulary, schedule, *common),
        "uniform": lambda: Uniform(vocabulary, schedule, c.mask_share, *common),
        "gaussian": lambda: Gaussian(vocabulary, config.gaussian, c.schedule, *common),
        "block": lambda: Block(vocabulary, schedule, config.block, *common),
        "autoregressive": lambda: Autoregressive(vocabulary, prompts),
    }[c.name]()


def schedule_size(config: Config) -> int:
    """Returns the number of parameters of a config's noise schedule; 0 if it is fixed."""
    if traits_of(config).inputs == "tokens":
        return 0
    return gaussian.schedule_size(config.objective.schedule)
