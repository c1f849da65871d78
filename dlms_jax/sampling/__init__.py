"""Sampling: canvases with holes, and the samplers that fill them with text."""

from dlms_jax.sampling.canvas import Canvas, make_canvas, parse_infill
from dlms_jax.sampling.decoding.block import BlockSampler
from dlms_jax.sampling.decoding.next_token import NextToken
from dlms_jax.sampling.decoding.orders import Ordered
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes.ancestral import Ancestral
from dlms_jax.sampling.processes.first_hitting import FirstHitting
from dlms_jax.sampling.processes.remasking import Remasking
from dlms_jax.sampling.sampler import Sampler, SamplerState, run_sampler
from dlms_jax.sampling.settings import SAMPLERS, make_sampler, settings_of
from dlms_jax.sampling.text_generator import TextGenerator

__all__ = [
    "SAMPLERS",
    "Ancestral",
    "BlockSampler",
    "Canvas",
    "FirstHitting",
    "NextToken",
    "Ordered",
    "Prediction",
    "Remasking",
    "Sampler",
    "SamplerState",
    "TextGenerator",
    "make_canvas",
    "make_sampler",
    "parse_infill",
    "run_sampler",
    "settings_of",
]
