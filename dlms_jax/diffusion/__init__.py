"""BATCH -> CORRUPTED BATCH -> LOSS: the objectives, as pure functions without parameters.

An objective uses the network only through the `Denoiser` that is passed to it (protocol.py).
"""

from collections.abc import Callable

from dlms_jax.config import Config, ObjectiveConfig, traits_of
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
from dlms_jax.diffusion.schedules import Cosine, Linear, Polynomial, Schedule
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
    common = prompts, annealing
    makers: dict[str, Callable[[], Objective]] = {
        "masked": lambda: Masked(vocabulary, _token_schedule(c), *common),
        "uniform": lambda: Uniform(vocabulary, _token_schedule(c), c.mask_share, *common),
        "gaussian": lambda: Gaussian(vocabulary, config.gaussian, c.schedule, *common),
        "block": lambda: Block(vocabulary, _token_schedule(c), config.block, *common),
        "autoregressive": lambda: Autoregressive(vocabulary, prompts),
    }
    return makers[c.name]()


def _token_schedule(config: ObjectiveConfig) -> Schedule:
    """Returns the schedule of a process on tokens; Gaussian diffusion has its own."""
    schedules: dict[str, Schedule] = {
        "linear": Linear(),
        "cosine": Cosine(),
        "polynomial": Polynomial(config.schedule_power),
    }
    return schedules[config.schedule]


def schedule_size(config: Config) -> int:
    """Returns the number of parameters of a config's noise schedule; 0 if it is fixed."""
    if traits_of(config).inputs == "tokens":
        return 0
    return gaussian.schedule_size(config.objective.schedule)
