"""The config.json and generation_config.json of our own PyTorch files (pytorch/)."""

from typing import Any

import numpy as np

from dlms_jax.config import Config, traits_of
from dlms_jax.data.tokenizers import ROLES, Tokenizer
from dlms_jax.diffusion import schedule_size
from dlms_jax.diffusion.gaussian import make_schedule
from dlms_jax.models import gaussian_of

FILES = (
    "configuration_dlms.py", "modeling_dlms.py", "layers_dlms.py", "unet_dlms.py",
    "generation_dlms.py", "canvas_dlms.py", "noise_dlms.py",
)  # fmt: skip
_SAMPLERS = ("ancestral", "confidence", "margin", "entropy", "ddim")  # of generation_dlms.py


def native_config(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the settings of a DLMConfig."""
    m, objective = config.model, config.objective
    return {
        "architectures": ["DLMForDiffusion"],
        "model_type": "dlms",
        "auto_map": {
            "AutoConfig": "configuration_dlms.DLMConfig",
            "AutoModel": "modeling_dlms.DLMModel",
            "AutoModelForCausalLM": "modeling_dlms.DLMForDiffusion",
            "AutoModelForMaskedLM": "modeling_dlms.DLMForDiffusion",
        },
        "denoiser": m.name,
        "vocab_size": tokenizer.size,
        "hidden_size": m.width,
        "num_hidden_layers": m.num_layers,
        "num_attention_heads": m.num_heads,
        "num_key_value_heads": m.kv_heads,
        "head_dim": m.per_head,
        "intermediate_size": m.hidden,
        "num_experts": m.experts,
        "num_experts_per_tok": m.experts_per_token,
        "moe_intermediate_size": m.expert_hidden,
        "norm_topk_prob": m.normalise_routing,
        "routing": m.routing,
        "qk_norm": m.qk_norm,
        "qkv_bias": m.qkv_bias,
        "rms_norm_eps": m.norm_epsilon,
        "rope_theta": m.rope_theta,
        "max_position_embeddings": config.data.sequence_length,
        "tie_word_embeddings": m.tie_embeddings,
        "conditioning": m.conditioning,
        "conditioning_size": m.conditioning_size,
        "class_names": list(config.data.mixture) if m.classes else [],
        "source": m.source,
        "source_layers": m.source_layers,
        "unet_levels": m.unet_levels,
        "unet_blocks": m.unet_blocks,
        "unet_attention_levels": m.unet_attention_levels,
        "objective": objective.name,
        "attention": traits_of(config).attention,
        "shift": objective.shift,
        "schedule": objective.schedule,
        "schedule_power": objective.schedule_power,
        "mask_share": objective.mask_share,
        "block_size": config.block.size,
        "gaussian": None,
        **token_ids(tokenizer),
    }


def token_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Returns pad_token_id, bos_token_id, eos_token_id and mask_token_id."""
    return {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in ROLES}


def gaussian_config(config: Config, schedule_P: np.ndarray | None) -> dict[str, Any] | None:
    """Returns the settings of Gaussian diffusion; None for the other objectives.

    schedule_P: the learned parameters of the noise schedule. What it comes to, its end points and
    the share of time of each bin of gamma, is written out, so that a sampler need not know how it
    was learned.
    """
    gaussian = gaussian_of(config)
    if gaussian is None:
        return None
    schedule = make_schedule(config.objective.schedule, gaussian, schedule_P)
    mass = getattr(schedule, "mass_K", None)
    return {
        "embedding_size": gaussian.embedding_size,
        "gamma_min": gaussian.gamma_min,
        "gamma_max": gaussian.gamma_max,
        "head": gaussian.head,
        "parameterisation": gaussian.parameterisation,
        "self_conditioning": gaussian.self_conditioning,
        "schedule": config.objective.schedule,
        "schedule_size": schedule_size(config),
        "schedule_gamma_min": float(schedule.gamma_min),
        "schedule_gamma_max": float(schedule.gamma_max),
        "schedule_mass": None if mass is None else np.asarray(mass, np.float64).tolist(),
    }


def generation_config(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the defaults of `generate`: those of config.sampling, with the objective's own
    sampler where theirs is not among those of generation_dlms.py."""
    s = config.sampling
    return {
        "max_new_tokens": s.length,
        "sampler": s.sampler if s.sampler in _SAMPLERS else "default",
        "steps": s.steps,
        "grid": s.grid,
        "temperature": s.temperature,
        "top_k": s.top_k,
        "top_p": s.top_p,
        "guidance_scale": s.guidance,
        "eta": s.eta,
        "do_sample": s.temperature > 0,  # transformers warns of a temperature without it
        **token_ids(tokenizer),
    }
