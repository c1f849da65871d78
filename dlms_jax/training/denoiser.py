"""The network with its weights, as the `Denoiser` that objectives and samplers take."""

import functools

import jax
from jax.sharding import Mesh

from dlms_jax.config import Config
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.diffusion import Cached, Denoiser, Objective, Vocabulary, schedule_size, shifted
from dlms_jax.models import (
    Network,
    Transformer,
    UNet,
    gaussian_of,
    head_kernel_DxV,
    noise_schedule,
    noise_table,
)
from dlms_jax.parallel.mesh import constrain
from dlms_jax.training.cross_entropy import fused_nll


def make_model(config: Config, rows: int, mesh: Mesh) -> Network:
    """Returns the network of a config, its activations pinned to the mesh by rows."""
    pin = functools.partial(constrain, mesh=mesh)
    gaussian = gaussian_of(config)
    network = {"transformer": Transformer, "unet": UNet}[config.model.name]
    return network(config.model, rows, pin, gaussian, schedule_size(config))


def make_denoiser(
    config: Config, model: Network, params, objective: Objective, mesh: Mesh
) -> Denoiser:
    """Returns the Denoiser of a network and its parameters."""
    denoise = _denoiser(config, model, params, objective, mesh)
    return shifted(denoise) if config.objective.shift else denoise


def _denoiser(config, model, params, objective, mesh) -> Denoiser:
    """Returns the Denoiser whose outputs stand where the network gives them."""
    apply = functools.partial(model.apply, {"params": params})

    def logits(inputs, t_BxL, layout):
        return apply(inputs, t_BxL, layout, objective.attention)

    if config.objective.name == "gaussian":
        return Denoiser.from_logits(
            logits,
            table_VxE=noise_table(params, config.gaussian),
            schedule=noise_schedule(params),
        )
    cached = None
    if objective.attention != "full":  # else what is written changes the keys of what was read

        def step(inputs, t_BxC, layout, start, cache):
            return apply(inputs, t_BxC, layout, start, cache, objective.attention, method="step")

        cached = Cached(model.empty_cache, step)
    if config.training.head == "plain":
        return Denoiser.from_logits(logits, cached=cached)

    def nll(inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
        h_BxLxD = apply(inputs, t_BxL, layout, objective.attention, method="features")
        kernel_DxV = head_kernel_DxV(params)
        return fused_nll(
            h_BxLxD, kernel_DxV, targets_BxL, jax.lax.stop_gradient(weights_BxL), bias_V,
            mesh, config.training.head_chunk,
        )  # fmt: skip

    return Denoiser(logits, nll, cached=cached)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Returns a tokenizer's symbols, as objectives and samplers see them."""
    return Vocabulary(
        tokenizer.size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id
    )
