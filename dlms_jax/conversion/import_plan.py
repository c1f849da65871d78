"""Models that other programs trained: their config.json as our settings, their names as ours.

A model can be imported if our Transformer computes the same function. For any other, the error
names the part that our Transformer does not have. docs/release.md says which published sources
define each model.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from dlms_jax.config import Config, from_dict
from dlms_jax.conversion.formats import SDAR_MASK_ID, llada_name
from dlms_jax.errors import UserError

_CONTEXT = 2048  # tokens per row, if the model allows more and the user does not say
# Why the tensors of some known models do not map to our network.
_REFUSED = {
    "mdlm": "MDLM's network has LayerNorm, GELU and biases, ours has RMSNorm and SwiGLU",
    "bd3lm": "BD3-LM's network has LayerNorm, GELU and biases, ours has RMSNorm and SwiGLU",
    "md4": "MD4's text models have LayerNorm, ours has RMSNorm",
    "diffusion_gemma": "our network has none of its layers (experts, softcapped logits, shared "
    "encoder)",
}


@dataclasses.dataclass(frozen=True)
class ImportPlan:
    """How the tensors of a model become a checkpoint of ours.

    Attributes:
      config: our settings.
      rename: our PyTorch name of a tensor -> the model's.
      mask_id: the mask token that config.json names; None leaves it to the tokenizer's files.
      zeros: names of biases that our network does not have, so they must be 0.
      ignored: suffixes of the names of tensors that are not weights.
    """

    config: Config
    rename: Callable[[str], str] = lambda name: name
    mask_id: int | None = None
    zeros: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)


def plan_import(described: dict[str, Any], where: str, context: int | None) -> ImportPlan:
    """Returns how to import a model of another program.

    Args:
      described: the content of its config.json.
      where: the path of that file, for errors.
      context: tokens per row; None takes those of the model, at most 2048.

    Raises:
      UserError: our network cannot hold the model.
    """
    kind = str(described.get("model_type") or (described.get("architectures") or [""])[0])
    if kind.lower() in _REFUSED:
        raise UserError(f"{where} cannot be imported: {_REFUSED[kind.lower()]}")
    if kind not in _KINDS:
        raise UserError(
            f"{where}: model_type {kind!r} cannot be imported; use our own exports (dlms), or one "
            f"of {', '.join(_KINDS)}"
        )
    try:
        return _KINDS[kind](described, context)
    except KeyError as error:
        raise UserError(
            f"{where} has no {error}; check that it is the config.json of these weights"
        ) from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} has a value of a wrong type ({error}); correct it") from None


def _like_llama(
    c, context, *, objective, qk_norm=False, qkv_bias=False, moe=False, **more
) -> ImportPlan:
    """Reads the keys that Llama, Qwen2, Qwen3 and their descendants share; with `moe`, also those
    of Qwen3-MoE."""
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    theta = rope.get("rope_theta", c.get("rope_theta", 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    sliding = "sliding_attention" in (c.get("layer_types") or ()) or (
        c.get("use_sliding_window", False) and c.get("sliding_window")
    )
    _refuse(
        {
            f"rope of type {kind!r}": kind not in ("default", "mrope"),
            "rotary embedding of a part of each head": rope.get("partial_rotary_factor", 1) != 1,
            "sliding-window attention": sliding,
            f"hidden_act {c.get('hidden_act')!r}": c.get("hidden_act", "silu") != "silu",
            "biases in the MLP": c.get("mlp_bias", False),
            "experts": not moe and (c.get("num_experts") or c.get("num_local_experts")),
            "a mixture of layers with and without experts": moe
            and (c.get("mlp_only_layers") or c.get("decoder_sparse_step", 1) != 1),
        }
    )
    heads, layers = c["num_attention_heads"], c["num_hidden_layers"]
    bias = qkv_bias or bool(c.get("attention_bias", False))
    zeros: tuple[str, ...] = ()
    if bias and not qkv_bias:  # then the output projection has a bias, too
        zeros = tuple(f"model.layers.{n}.self_attn.o_proj.bias" for n in range(layers))
    model = {
        "width": c["hidden_size"],
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": c.get("num_key_value_heads") or heads,
        "head_size": c.get("head_dim") or c["hidden_size"] // heads,
        "feed_forward": c["intermediate_size"],
        "qk_norm": qk_norm,
        "qkv_bias": bias,
        "tie_embeddings": bool(c.get("tie_word_embeddings", False)),
        "rope_theta": float(theta),
        "norm_epsilon": float(c.get("rms_norm_eps", 1e-6)),
    }
    if moe:
        model |= {
            "experts": c.get("num_experts") or c["num_local_experts"],
            "experts_per_token": c["num_experts_per_tok"],
            "expert_feed_forward": c["moe_intermediate_size"],
            "normalise_routing": bool(c.get("norm_topk_prob", False)),
            "load_balance_weight": float(c.get("router_aux_loss_coef", 0.001)),
        }
    longest = c.get("max_position_embeddings", _CONTEXT)
    config = _config(c, model, longest, context, objective, **more)
    return ImportPlan(config, mask_id=c.get("mask_token_id"), zeros=zeros)


def _llada(c, context) -> ImportPlan:
    expected = {
        "activation_type": "silu",
        "block_type": "llama",
        "block_group_size": 1,
        "rope": True,
        "alibi": False,
        "layer_norm_type": "rms",
        "attention_layer_norm": False,
        "include_bias": False,
        "scale_logits": False,
        "input_emb_norm": False,
    }
    _refuse({f"{k}={c[k]!r}": c[k] != v for k, v in expected.items() if k in c})
    model = {
        "width": c["d_model"],
        "num_layers": c["n_layers"],
        "num_heads": c["n_heads"],
        "num_kv_heads": c.get("n_kv_heads") or c["n_heads"],
        "feed_forward": c.get("mlp_hidden_size") or int(c["mlp_ratio"] * c["d_model"]),
        "qk_norm": False,
        "qkv_bias": bool(c.get("include_qkv_bias", False)),
        "tie_embeddings": bool(c.get("weight_tying", True)),
        "rope_theta": float(c.get("rope_theta", 10_000.0)),
        "norm_epsilon": float(c.get("rms_norm_eps", 1e-5)),
    }
    config = _config(c, model, c["max_sequence_length"], context, {"name": "masked"})
    return ImportPlan(config, llada_name, c.get("mask_token_id"))


def _sdar(c, context, *, moe=False) -> ImportPlan:
    objective, block = {"name": "block"}, {"size": c.get("block_size", 4)}
    found = _like_llama(c, context, objective=objective, qk_norm=True, moe=moe, block=block)
    return dataclasses.replace(found, mask_id=c.get("mask_token_id", SDAR_MASK_ID))


def _config(c, model, longest, context, objective, **more) -> Config:
    stored = str(c.get("dtype") or c.get("torch_dtype") or "float32").removeprefix("torch.")
    model["dtype"] = "bfloat16" if stored in ("bfloat16", "float16") else "float32"
    length = min(longest, _CONTEXT) if context is None else context
    name = str(c.get("model_type") or "imported").lower()
    return from_dict(
        {
            "name": name,
            "model": model,
            "objective": objective,
            "tokenizer": {"name": "hf"},
            "data": {"sequence_length": length},
            **more,
        }
    )


def _refuse(features: dict[str, Any]):
    """Raises UserError for the first feature, by its name, that is true."""
    for feature, present in features.items():
        if present:
            raise UserError(f"it cannot be imported: our Transformer does not support {feature}")


_AR, _MASKED = {"name": "autoregressive"}, {"name": "masked"}
_KINDS: dict[str, Callable[..., ImportPlan]] = {
    "qwen3": lambda *a: _like_llama(*a, objective=_AR, qk_norm=True),
    "qwen3_moe": lambda *a: _like_llama(*a, objective=_AR, qk_norm=True, moe=True),
    "qwen2": lambda *a: _like_llama(*a, objective=_AR, qkv_bias=True),
    "llama": lambda *a: _like_llama(*a, objective=_AR),
    "a2d-qwen3": lambda *a: _like_llama(*a, objective=_MASKED, qk_norm=True),
    "a2d-qwen2": lambda *a: _like_llama(*a, objective=_MASKED, qkv_bias=True),
    "a2d-llama": lambda *a: _like_llama(*a, objective=_MASKED),
    "sdar": _sdar,
    "sdar_moe": lambda *a: _sdar(*a, moe=True),
    "DiffLM": lambda *a: _like_llama(*a, objective=_MASKED, qk_norm=True),
    "llada": _llada,
    "Dream": lambda *a: _like_llama(*a, objective=_MASKED | {"shift": True}, qkv_bias=True),
}
