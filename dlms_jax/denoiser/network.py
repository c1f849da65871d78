"""Builds the network of a config for a device mesh, and its initial parameters."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from dlms_jax.config import Config
from dlms_jax.denoiser.attention_kernels import make_attend
from dlms_jax.diffusion import Layout, Noisy, schedule_size
from dlms_jax.errors import UserError
from dlms_jax.models import Network, Transformer, UNet, expert_outputs, gaussian_of
from dlms_jax.parallel.experts import over_experts
from dlms_jax.parallel.mesh import SEQUENCE_AXIS, AnyMesh, check_length, constrain_places, make_mesh


def make_network(config: Config, vocab_size: int, mesh: AnyMesh) -> Network:
    """Returns the network of a config for a mesh.

    Its activations are sharded by rows and positions, its experts are distributed, and it uses the
    attention kernel of the devices. It is not quantised: config.model.quantization is only for the
    train step.

    Args:
      config: the config of the run.
      vocab_size: the padded size of the vocabulary.
      mesh: the device mesh.

    Raises:
      UserError: the mesh cannot split the rows, or the attention kernel does not fit.
    """
    check_length(mesh, config.data.sequence_length)
    if config.model.name == "unet" and mesh.shape[SEQUENCE_AXIS] > 1:
        raise UserError(
            f"config.mesh.sequence={mesh.shape[SEQUENCE_AXIS]} splits rows, which a U-Net's "
            "convolutions do not support; set it to 1, or use config.model.name=transformer"
        )
    pin = functools.partial(constrain_places, mesh=mesh)
    gaussian = gaussian_of(config)
    network = {"transformer": Transformer, "unet": UNet}[config.model.name]
    attend, outputs = make_attend(config, mesh), over_experts(expert_outputs, mesh)
    model = dataclasses.replace(config.model, quantization="none")
    return network(model, vocab_size, pin, gaussian, schedule_size(config), attend, outputs)


def initial_params(model: Network, key: jax.Array) -> Any:
    """Returns a network's random initial parameters."""
    tokens_1x2 = jnp.zeros((1, 2), jnp.int32)
    layout = Layout(tokens_1x2, tokens_1x2, tokens_1x2 > 0, tokens_1x2[:, 0])
    inputs: jax.Array | Noisy = tokens_1x2
    if model.gaussian is not None:
        z_1x2xE = jnp.zeros((1, 2, model.gaussian.embedding_size))
        inputs = Noisy(z_1x2xE, z_1x2xE)
    return model.init(key, inputs, jnp.zeros((1, 2)), layout, "full")["params"]


def abstract_params(config: Config, vocab_size: int) -> Any:
    """Returns the parameter tree of a config's network as ShapeDtypeStructs."""
    network = make_network(config, vocab_size, make_mesh(devices=jax.devices()[:1]))
    return jax.eval_shape(lambda: initial_params(network, jax.random.key(0)))
