"""The network with its weights, as the `Denoiser` that objectives and samplers take."""

import functools

import jax
from jax.sharding import Mesh

from dlms_jax.config import Config
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.diffusion import Denoiser, Vocabulary
from dlms_jax.models import Transformer, head_kernel_DxV
from dlms_jax.parallel.mesh import constrain
from dlms_jax.training.cross_entropy import fused_nll


def make_model(config: Config, rows: int, mesh: Mesh) -> Transformer:
    """Returns the network of a config, its activations pinned to the mesh by rows."""
    return Transformer(config.model, rows, functools.partial(constrain, mesh=mesh))


def make_denoiser(
    config: Config, model: Transformer, params, attention: str, mesh: Mesh
) -> Denoiser:
    """Returns the Denoiser of a network and its parameters; t is not used (DESIGN: the optimal
    masked denoiser needs none)."""

    def logits(inputs_BxL, t_BxL, layout):
        return model.apply({"params": params}, inputs_BxL, *layout, attention)

    if config.training.head == "plain":
        return Denoiser.from_logits(logits)

    def nll(inputs_BxL, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
        h_BxLxD = model.apply(
            {"params": params}, inputs_BxL, *layout, attention, method=Transformer.features
        )
        kernel_DxV = head_kernel_DxV(params)
        return fused_nll(
            h_BxLxD, kernel_DxV, targets_BxL, jax.lax.stop_gradient(weights_BxL), bias_V,
            mesh, config.training.head_chunk,
        )  # fmt: skip

    return Denoiser(logits, nll)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Returns a tokenizer's symbols, as objectives and samplers see them."""
    return Vocabulary(
        tokenizer.size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id
    )
