"""The network with its weights, as the `Denoiser` that objectives and samplers take."""

import functools

import jax
from jax.sharding import Mesh

from dlms_jax.config import Config
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.denoiser.cross_entropy import fused_nll
from dlms_jax.diffusion import Cached, Denoiser, Objective, Vocabulary, shifted
from dlms_jax.models import (
    ROUTER,
    Network,
    RouterSums,
    head_kernel_DxV,
    noise_schedule,
    noise_table,
)


def make_denoiser(
    config: Config, model: Network, params, objective: Objective, mesh: Mesh,
    routed: dict[str, RouterSums] | None = None,
) -> Denoiser:  # fmt: skip
    """Returns the Denoiser of a network and its parameters.

    routed: a dict in which each pass through a network with experts leaves, as "sums", what its
    routers did, in place of what the pass before left: of a loss, that is the pass which is learned
    from, for a first estimate comes before it. To be read in the same trace.
    """
    denoise = _denoiser(config, model, params, objective, mesh, routed)
    return shifted(denoise) if config.objective.shift else denoise


def _denoiser(config, model, params, objective, mesh, routed) -> Denoiser:
    """Returns the Denoiser whose outputs stand where the network gives them."""

    def apply(*inputs, **how):
        if routed is None or not config.model.experts:
            return model.apply({"params": params}, *inputs, **how)
        outputs, left = model.apply({"params": params}, *inputs, **how, mutable=[ROUTER])
        routed["sums"] = left[ROUTER]["layers"]["mlp"]["sums"]
        return outputs

    def logits(inputs, t_BxL, layout, **how):
        return apply(inputs, t_BxL, layout, objective.attention, **how)

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
    # Of what is trained and scored; samplers of blocks ask for logits of single rows.
    in_pairs = {"doubled": True} if config.objective.name == "block" else {}
    if config.training.loss_implementation == "plain":
        scored = Denoiser.from_logits(functools.partial(logits, **in_pairs))
        return Denoiser(logits, scored.nll, cached=cached)

    def nll(inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
        h_BxLxD = apply(
            inputs, t_BxL, layout, objective.attention, **in_pairs, method="features"
        )  # fmt: skip
        kernel_DxV = head_kernel_DxV(params)
        return fused_nll(
            h_BxLxD, kernel_DxV, targets_BxL, jax.lax.stop_gradient(weights_BxL), bias_V,
            mesh, config.training.loss_chunk_size,
        )  # fmt: skip

    return Denoiser(logits, nll, cached=cached)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Returns a tokenizer's symbols, as objectives and samplers see them."""
    return Vocabulary(
        tokenizer.size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id
    )
