"""The config.json and generation_config.json for our own PyTorch files (pytorch/)."""

from typing import Any

import numpy as np

from dlms_jax.config import Config, traits_of
from dlms_jax.data.tokenizers import ROLES, Tokenizer
from dlms_jax.diffusion import schedule_size
from dlms_jax.diffusion.gaussian import make_schedule
from dlms_jax.models import gaussian_of

FILES = (
    "configuration_dlms.py",
    "modeling_dlms.py",
    "layers_dlms.py",
    "unet_dlms.py",
    "generation_dlms.py",
    "canvas_dlms.py",
    "noise_dlms.py",
)
_SAMPLERS = ("ancestral", "confidence", "margin", "entropy", "ddim")  # those of generation_dlms.py


def native_config(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the keys of a DLMConfig (pytorch/configuration_dlms.py), except for `gaussian`."""
    m, objective = config.model, config.objective
    classes = {"AutoModelForMaskedLM": "modeling_dlms.DLMForDiffusion"}
    if traits_of(config).order == "left_to_right":  # others do not predict the next token
        classes["AutoModelForCausalLM"] = classes["AutoModelForMaskedLM"]
    return {
        "architectures": ["DLMForDiffusion"],
        "model_type": "dlms",
        "auto_map": {
            "AutoConfig": "configuration_dlms.DLMConfig",
            "AutoModel": "modeling_dlms.DLMModel",
            **classes,
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
        "source": "concatenation" if m.prompt_encoder == "none" else m.prompt_encoder,
        "source_layers": m.prompt_encoder_layers,
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
    """Returns the value of DLMConfig.gaussian; None for objectives other than Gaussian diffusion.

    The schedule is written as its end points and, if it was learned, the share of time of each bin
    of gamma. So a sampler does not need the parameters that it was learned with.

    Args:
      config: the config of the run.
      schedule_P: the learned parameters of the noise schedule; None if it is fixed.
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
    """Returns the defaults of `generate`: the settings of config.sampling.

    A sampler that generation_dlms.py does not have becomes "default", the objective's own.
    """
    s = config.sampling
    return {
        "max_new_tokens": s.length,
        "sampler": s.sampler if s.sampler in _SAMPLERS else "default",
        "steps": s.steps,
        "grid": s.timestep_spacing,
        "temperature": s.temperature,
        "top_k": s.top_k,
        "top_p": s.top_p,
        "guidance_scale": s.guidance,
        "eta": s.eta,
        "do_sample": s.temperature > 0,  # without it, transformers warns about the temperature
        **token_ids(tokenizer),
    }
