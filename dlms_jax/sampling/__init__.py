"""DENOISER -> TEXT: canvases with holes, and the processes that fill them."""

from dlms_jax.diffusion import Autoregressive, Masked
from dlms_jax.sampling.ancestral import Ancestral
from dlms_jax.sampling.canvas import Canvas, make_canvas, parse_infill
from dlms_jax.sampling.next_token import NextToken

__all__ = ["Ancestral", "Canvas", "NextToken", "make_canvas", "make_sampler", "parse_infill"]


def make_sampler(objective, steps: int, temperature: float, guidance: float):
    """Returns the sampler that fits an objective."""
    if isinstance(objective, Masked):
        return Ancestral(objective.vocabulary, objective.schedule, steps, temperature, guidance)
    assert isinstance(objective, Autoregressive)
    return NextToken(objective.vocabulary, temperature)
