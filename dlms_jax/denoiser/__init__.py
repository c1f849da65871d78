"""NETWORK + WEIGHTS -> DENOISER: the network on a mesh, its attention kernel, and its head loss."""

from dlms_jax.denoiser.denoiser import make_denoiser, vocabulary_of
from dlms_jax.denoiser.network import abstract_params, initial_params, make_network

__all__ = ["abstract_params", "initial_params", "make_denoiser", "make_network", "vocabulary_of"]
