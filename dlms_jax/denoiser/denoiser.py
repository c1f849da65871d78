"""Builds the `Denoiser` that objectives and samplers use from a network and its weights."""

import jax

from dlms_jax.config import Config
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.denoiser.cross_entropy import fused_nll
from dlms_jax.diffusion import Cached, Denoiser, Nll, Objective, Vocabulary, shifted
from dlms_jax.models import ROUTER, Network, head_kernel_DxV, noise_schedule, noise_table
from dlms_jax.parallel.mesh import AnyMesh


def make_denoiser(
    config: Config, model: Network, params, objective: Objective, mesh: AnyMesh
) -> Denoiser:
    """Returns the Denoiser of a network.

    Args:
      config: the config of the run.
      model: the network.
      params: its parameters.
      objective: what the network is trained on.
      mesh: the device mesh.
    """
    denoise = _denoiser(config, model, params, objective, mesh)
    return shifted(denoise) if config.objective.shift else denoise


def _denoiser(config, model, params, objective, mesh) -> Denoiser:
    """Returns the Denoiser of a network without config.objective.shift."""
    traits = objective.traits

    def run(*inputs, **how):
        """Returns (outputs, RouterSums of all layers, or None without experts)."""
        inputs = {"params": params}, *inputs, traits.attention
        if not config.model.experts:
            return model.apply(*inputs, **how), None
        outputs, left = model.apply(*inputs, **how, mutable=[ROUTER])
        return outputs, left[ROUTER]["layers"]["mlp"]["sums"]

    if traits.inputs == "embeddings":
        table_VxE = noise_table(params, config.gaussian)
        return Denoiser.from_forward(run, table_VxE=table_VxE, schedule=noise_schedule(params))
    cached = None
    if traits.attention != "full":  # with full attention, new tokens change all earlier keys

        def step(inputs, t_BxC, layout, start_B, cache):
            read = inputs, t_BxC, layout, start_B, cache, traits.attention
            return model.apply({"params": params}, *read, method="step")

        cached = Cached(model.empty_cache, step)
    # Only for losses: block samplers ask for the logits of rows that are not doubled.
    in_pairs = {"doubled": True} if traits.copies == 2 else {}
    if config.training.loss_implementation == "plain":
        scored = Denoiser.from_forward(lambda *inputs: run(*inputs, **in_pairs))
        return Denoiser(run, scored.nll, cached=cached)

    def nll(inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
        h_BxLxD, routers = run(inputs, t_BxL, layout, **in_pairs, method="features")
        total, nll_BxL = fused_nll(
            h_BxLxD,
            head_kernel_DxV(params),
            targets_BxL,
            jax.lax.stop_gradient(weights_BxL),
            bias_V,
            mesh,
            config.training.loss_chunk_size,
        )
        return Nll(total, nll_BxL, routers)

    return Denoiser(run, nll, cached=cached)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Returns the Vocabulary of a tokenizer."""
    return Vocabulary(
        tokenizer.size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.mask_id
    )
