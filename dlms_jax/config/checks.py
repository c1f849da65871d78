"""What settings must agree on with one another; each setting's own range is at its definition."""

import re
import types

from dlms_jax.errors import UserError

_DISCRETE = ("linear", "cosine", "polynomial")
_SCHEDULES = types.MappingProxyType(
    {
        "masked": _DISCRETE,
        "uniform": _DISCRETE,
        "block": _DISCRETE,
        "gaussian": ("linear", "cosine", "sqrt", "learned", "warped", "gumbel"),
    }
)


def check(config):
    """Raises UserError where settings do not fit one another, before anything is compiled."""
    _check_data(config)
    _check_model(config)
    _check_experts(config)
    _check_objective(config)
    directory, every = config.checkpoint.local_directory, config.checkpoint.local_every
    if bool(directory) != bool(every):
        raise UserError(
            f"config.checkpoint.local_directory={directory!r} and "
            f"config.checkpoint.local_every={every} go together; set both, or neither"
        )
    training = config.training
    if not re.fullmatch(r"[A-Za-z0-9_.-]{0,100}", training.goodput_job):  # it goes into queries
        raise UserError(
            f"config.training.goodput_job={training.goodput_job!r} should be at most 100 letters, "
            "digits, '_', '.' and '-'"
        )
    if training.batch_size % training.accumulation_steps:
        raise UserError(
            f"config.training.batch_size={training.batch_size} is not a multiple of "
            f"config.training.accumulation_steps={training.accumulation_steps}"
        )


def _check_data(config):
    if config.data.max_unique_tokens and config.data.packing != "concat":
        raise UserError(
            "config.data.max_unique_tokens needs config.data.packing=concat: rows of best-fit are "
            "not in document order"
        )


def _check_model(config):
    model, objective = config.model, config.objective
    if not model.head_size and model.width % model.num_heads:
        raise UserError(
            f"config.model.width={model.width} is not a multiple of "
            f"config.model.num_heads={model.num_heads}; change one, or set config.model.head_size"
        )
    if model.num_heads % model.kv_heads:
        raise UserError(
            f"config.model.num_heads={model.num_heads} is not a multiple of "
            f"config.model.num_kv_heads={model.kv_heads}"
        )
    if model.per_head % 2:
        raise UserError(
            f"config.model.head_size={model.per_head} is odd; rotary positions need an even one"
        )
    both_ways = objective.name in ("masked", "uniform", "gaussian")
    if model.name == "unet" and not both_ways:
        raise UserError(
            f"config.model.name=unet mixes a token with its neighbours on both sides, which "
            f"config.objective.name={objective.name} must not see; use model.name=transformer"
        )
    if model.unet_attention_levels > model.unet_levels:
        raise UserError(
            f"config.model.unet_attention_levels={model.unet_attention_levels} should be at most "
            f"config.model.unet_levels={model.unet_levels}"
        )
    if model.prompt_encoder == "cross_attention" and not (
        both_ways and model.name == "transformer"
    ):
        raise UserError(
            "config.model.prompt_encoder=cross_attention is for config.model.name=transformer with "
            "objective.name masked, uniform or gaussian; leave it at none"
        )
    if model.classes and model.conditioning == "none":
        raise UserError(
            f"config.model.classes={model.classes} needs config.model.conditioning=film or "
            "adaln_zero, by which a class reaches the layers"
        )
    if model.classes and model.classes != len(config.data.mixture):
        raise UserError(
            f"config.model.classes={model.classes}: classes are the corpora of config.data.mixture,"
            f" which has {len(config.data.mixture)}"
        )
    if model.name == "unet" and model.remat == "offload":
        raise UserError(
            "config.model.remat=offload is for config.model.name=transformer, whose layers are "
            "alike; use dots or full"
        )
    if model.quantization != "none" and (model.name == "unet" or model.experts):
        what = "a U-Net's blocks" if model.name == "unet" else "experts"
        raise UserError(
            f"config.model.quantization={model.quantization} leaves {what} as they are; it is for "
            "a Transformer without experts, so leave it at none"
        )
    if objective.name == "gaussian" and model.tie_embeddings:
        raise UserError(
            "config.model.tie_embeddings has nothing to tie in Gaussian diffusion, whose network "
            "reads no tokens; leave it false"
        )


def _check_experts(config):
    model, objective = config.model, config.objective
    if not model.experts:
        if config.mesh.expert != 1:
            raise UserError(
                f"config.mesh.expert={config.mesh.expert} splits experts, and config.model.experts "
                "is 0; leave it at 1, or set model.experts"
            )
        if model.routing != "token_choice":
            raise UserError(
                f"config.model.routing={model.routing} routes tokens to experts, and "
                "config.model.experts is 0; leave it at token_choice, or set model.experts"
            )
        return
    if model.name == "unet" or model.prompt_encoder == "cross_attention":
        raise UserError(
            f"config.model.experts={model.experts} is for config.model.name=transformer with "
            "model.prompt_encoder=none; leave it at 0"
        )
    if model.experts_per_token > model.experts:
        raise UserError(
            f"config.model.experts_per_token={model.experts_per_token} should be at most "
            f"config.model.experts={model.experts}"
        )
    if config.mesh.expert > 0 and model.experts % config.mesh.expert:
        raise UserError(
            f"config.model.experts={model.experts} is not a multiple of "
            f"config.mesh.expert={config.mesh.expert}"
        )
    if model.routing == "expert_choice":
        if objective.name in ("autoregressive", "block"):
            raise UserError(
                "config.model.routing=expert_choice compares all tokens of a row, of which "
                f"config.objective.name={objective.name} must not see those ahead; use token_choice"
            )
    elif model.experts_per_token == 1 < model.experts and model.normalise_routing:
        raise UserError(
            "config.model.normalise_routing makes the weight of a token's only expert 1, so that "
            "nothing teaches the router; set it to false, or experts_per_token to 2 or more"
        )


def _check_objective(config):
    objective, gaussian, block = config.objective, config.gaussian, config.block
    if objective.schedule not in _SCHEDULES.get(objective.name, (objective.schedule,)):
        raise UserError(
            f"config.objective.schedule={objective.schedule} is none of those of "
            f"config.objective.name={objective.name}: {', '.join(_SCHEDULES[objective.name])}"
        )
    if objective.mask_share and objective.name != "uniform":
        raise UserError(
            f"config.objective.mask_share={objective.mask_share} is for objective.name=uniform"
        )
    if objective.shift and objective.name != "masked":
        raise UserError(
            f"config.objective.shift is for objective.name=masked, not {objective.name}; leave it "
            "false"
        )
    if objective.anneal_steps:
        _check_annealing(config)
    if gaussian.gamma_min >= gaussian.gamma_max:
        raise UserError(
            f"config.gaussian.gamma_min={gaussian.gamma_min} should be below "
            f"config.gaussian.gamma_max={gaussian.gamma_max}"
        )
    if (
        gaussian.parameterisation != "x0"
        and gaussian.head == "logits"
        and gaussian.loss != "score_matching"
    ):
        raise UserError(
            f"config.gaussian.parameterisation={gaussian.parameterisation} changes nothing with "
            f"gaussian.head=logits and gaussian.loss={gaussian.loss}; leave it at x0, or set "
            "head=embedding or loss=score_matching"
        )
    for step, size in block.curriculum.items():
        if not step.isdecimal() or size != int(size):
            raise UserError(
                f"config.block.curriculum has {step!r}: {size}; it should map steps to whole sizes "
                'of at least 1, as {"0": 1, "1000": 16}'
            )


def _check_annealing(config):
    objective, model = config.objective, config.model
    for key, value, has_none in (
        ("objective.name", objective.name, "autoregressive"),
        ("model.name", model.name, "unet"),
        ("model.prompt_encoder", model.prompt_encoder, "cross_attention"),
    ):
        if value == has_none:
            raise UserError(
                f"config.objective.anneal_steps={objective.anneal_steps} is for a Transformer that "
                f"reads one sequence both ways, which config.{key}={value} is not; leave it at 0"
            )
