"""BATCH -> CORRUPTED BATCH -> LOSS: the objectives, as pure functions with no parameters.

An objective meets the network only through the `Denoiser` that is passed to it (protocol.py).
"""

from dlms_jax.config import ObjectiveConfig
from dlms_jax.diffusion.autoregressive import Autoregressive
from dlms_jax.diffusion.masked import Masked
from dlms_jax.diffusion.protocol import Batch, Denoiser, Layout, Loss, Objective, Vocabulary
from dlms_jax.diffusion.schedules import Cosine, Linear, Polynomial

__all__ = [
    "Autoregressive", "Batch", "Cosine", "Denoiser", "Layout", "Linear", "Loss", "Masked",
    "Objective", "Polynomial", "Vocabulary", "make_objective",
]  # fmt: skip


def make_objective(config: ObjectiveConfig, vocabulary: Vocabulary) -> Objective:
    """Returns the objective that a config names."""
    if config.name == "autoregressive":
        return Autoregressive(vocabulary)
    schedules = {
        "linear": Linear(),
        "cosine": Cosine(),
        "polynomial": Polynomial(config.schedule_power),
    }
    return Masked(vocabulary, schedules[config.schedule])
