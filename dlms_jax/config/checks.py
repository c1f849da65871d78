"""Checks that settings fit one another. The range of each setting is part of its definition."""

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
    """Checks a config before anything is compiled.

    Raises:
      UserError: two settings do not fit one another.
    """
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
    if not re.fullmatch(
        r"[A-Za-z0-9_.-]{0,100}", training.goodput_job
    ):  # it becomes part of queries
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
            "config.data.max_unique_tokens needs config.data.packing=concat, because best-fit rows "
            "are not in document order"
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
            f"config.model.head_size={model.per_head} is odd; rotary positions need an even size"
        )
    both_ways = objective.name in ("masked", "uniform", "gaussian")
    if model.name == "unet" and not both_ways:
        raise UserError(
            f"config.model.name=unet reads both sides of a position, which "
            f"config.objective.name={objective.name} does not allow; use model.name=transformer"
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
            "config.model.prompt_encoder=cross_attention needs config.model.name=transformer and "
            "objective.name masked, uniform or gaussian; use none"
        )
    if model.classes and model.conditioning == "none":
        raise UserError(
            f"config.model.classes={model.classes} needs config.model.conditioning=film or "
            "adaln_zero, which pass the class to the layers"
        )
    if model.classes and model.classes != len(config.data.mixture):
        raise UserError(
            f"config.model.classes={model.classes} should be the number of corpora in "
            f"config.data.mixture, which is {len(config.data.mixture)}"
        )
    if model.name == "unet" and model.remat == "offload":
        raise UserError(
            "config.model.remat=offload needs config.model.name=transformer; use dots or full"
        )
    if model.quantization != "none" and (model.name == "unet" or model.experts):
        what = "a U-Net's blocks" if model.name == "unet" else "experts"
        raise UserError(
            f"config.model.quantization={model.quantization} does not support {what}, only a "
            "Transformer without experts; use none"
        )
    if objective.name == "gaussian" and model.tie_embeddings:
        raise UserError(
            "config.model.tie_embeddings is not possible with Gaussian diffusion, whose network "
            "reads embeddings; set it to false"
        )


def _check_experts(config):
    model, objective = config.model, config.objective
    if not model.experts:
        if config.mesh.expert != 1:
            raise UserError(
                f"config.mesh.expert={config.mesh.expert} splits experts, but config.model.experts "
                "is 0; set it to 1, or set model.experts"
            )
        if model.routing != "token_choice":
            raise UserError(
                f"config.model.routing={model.routing} routes tokens to experts, but "
                "config.model.experts is 0; set it to token_choice, or set model.experts"
            )
        return
    if model.name == "unet" or model.prompt_encoder == "cross_attention":
        raise UserError(
            f"config.model.experts={model.experts} needs config.model.name=transformer and "
            "model.prompt_encoder=none; set it to 0"
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
                "config.model.routing=expert_choice compares all tokens of a row, but with "
                f"config.objective.name={objective.name} they are not all visible; use token_choice"
            )
    elif model.experts_per_token == 1 < model.experts and model.normalise_routing:
        raise UserError(
            "config.model.normalise_routing sets the weight of a single expert to 1, so that the "
            "router gets no gradient; set it to false, or experts_per_token to 2 or more"
        )


def _check_objective(config):
    objective, gaussian, block = config.objective, config.gaussian, config.block
    if objective.schedule not in _SCHEDULES.get(objective.name, (objective.schedule,)):
        raise UserError(
            f"config.objective.schedule={objective.schedule} does not support "
            f"config.objective.name={objective.name}; use {', '.join(_SCHEDULES[objective.name])}"
        )
    if objective.mask_share and objective.name != "uniform":
        raise UserError(
            f"config.objective.mask_share={objective.mask_share} needs objective.name=uniform"
        )
    if objective.shift and objective.name != "masked":
        raise UserError(
            f"config.objective.shift needs objective.name=masked, not {objective.name}; set it to "
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
            f"config.gaussian.parameterisation={gaussian.parameterisation} has no effect with "
            f"gaussian.head=logits and gaussian.loss={gaussian.loss}; set it to x0, or set "
            "head=embedding or loss=score_matching"
        )
    for step, size in block.curriculum.items():
        if not step.isdecimal() or size != int(size):
            raise UserError(
                f"config.block.curriculum has {step!r}: {size}; it should map steps to whole sizes "
                'of at least 1, such as {"0": 1, "1000": 16}'
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
                f"config.objective.anneal_steps={objective.anneal_steps} needs a bidirectional "
                f"Transformer without a prompt encoder, not config.{key}={value}; set it to 0"
            )
