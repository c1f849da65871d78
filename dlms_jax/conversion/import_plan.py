"""Models that others trained: from their config.json to our settings, and to our names.

Each that computes what our Transformer computes comes in; of the others, one line says what of
theirs ours has not. Where each contract was read stands in docs/release.md.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from dlms_jax.config import Config, from_dict
from dlms_jax.conversion.formats import SDAR_MASK_ID, llada_name
from dlms_jax.errors import UserError

_CONTEXT = 2048  # tokens of a row where the model allows more and the user says nothing
# Of what was trained by other programs, why the tensors do not map.
_REFUSED = {
    "mdlm": "MDLM's network has LayerNorm, GELU and biases where ours has RMSNorm and SwiGLU",
    "bd3lm": "BD3-LM's network has LayerNorm, GELU and biases where ours has RMSNorm and SwiGLU",
    "md4": "MD4's text models are JAX checkpoints with LayerNorm, which ours have not",
    "diffusion_gemma": "its layers (experts, softcapped logits, shared encoder) are not ours",
}


@dataclasses.dataclass(frozen=True)
class ImportPlan:
    """A model of another program. rename: from our PyTorch names to its own. mask_id: what its
    config says, None where that is left to the tokenizer. zeros: names of vectors that have to be 0
    for our network to hold the model. ignored: ends of names of tensors that are no weights."""

    config: Config
    rename: Callable[[str], str] = lambda name: name
    mask_id: int | None = None
    zeros: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)


def plan_import(c: dict[str, Any], where: str, context: int | None) -> ImportPlan:
    """Returns how a config.json is read; raises UserError for what our networks cannot hold.

    context: tokens of a row, None for the model's own, 2048 at most.
    """
    kind = str(c.get("model_type") or (c.get("architectures") or [""])[0])
    if kind.lower() in _REFUSED:
        raise UserError(f"{where}: {_REFUSED[kind.lower()]}, so it cannot come in")
    if kind not in _KINDS:
        raise UserError(
            f"{where}: model_type {kind!r} is none that can come in: our own exports (dlms), "
            f"{', '.join(_KINDS)}"
        )
    try:
        return _KINDS[kind](c, where, context)
    except KeyError as error:
        raise UserError(f"{where} has no {error}; is it the config.json of the weights?") from None


def _like_llama(
    c, where, context, objective, qk_norm=False, qkv_bias=False, moe=False, **more
) -> ImportPlan:
    """Reads the keys that Llama, Qwen2, Qwen3 and their descendants share; moe: those of Qwen3-MoE
    too."""
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    theta = rope.get("rope_theta", c.get("rope_theta", 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    sliding = "sliding_attention" in (c.get("layer_types") or ()) or (
        c.get("use_sliding_window", False) and c.get("sliding_window")
    )
    _refuse(
        where,
        {
            f"rope of type {kind!r}": kind not in ("default", "mrope"),
            "rotary positions on a part of each head": rope.get("partial_rotary_factor", 1) != 1,
            "sliding-window attention": sliding,
            f"hidden_act {c.get('hidden_act')!r}": c.get("hidden_act", "silu") != "silu",
            "biases in the MLP": c.get("mlp_bias", False),
            "experts": not moe and (c.get("num_experts") or c.get("num_local_experts")),
            "layers with experts and layers without in one": moe
            and (c.get("mlp_only_layers") or c.get("decoder_sparse_step", 1) != 1),
        },
    )
    heads, layers = c["num_attention_heads"], c["num_hidden_layers"]
    bias = qkv_bias or bool(c.get("attention_bias", False))
    zeros = ()
    if bias and not qkv_bias:  # then the output's projection has one too
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


def _llada(c, where, context) -> ImportPlan:
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
    _refuse(where, {f"{k}={c[k]!r}": c[k] != v for k, v in expected.items() if k in c})
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


def _sdar(c, where, context, moe=False) -> ImportPlan:
    objective, block = {"name": "block"}, {"size": c.get("block_size", 4)}
    found = _like_llama(c, where, context, objective, qk_norm=True, moe=moe, block=block)
    return dataclasses.replace(found, mask_id=c.get("mask_token_id", SDAR_MASK_ID))


def _config(c, model, longest, context, objective, **more) -> Config:
    stored = str(c.get("dtype") or c.get("torch_dtype") or "float32").removeprefix("torch.")
    model["dtype"] = "bfloat16" if stored in ("bfloat16", "float16") else "float32"
    length = context or min(longest, _CONTEXT)
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


def _refuse(where: str, unlike: dict[str, Any]):
    """Raises UserError for the first thing of theirs, by what it is, that holds."""
    for what, holds in unlike.items():
        if holds:
            raise UserError(f"{where}: {what} is not in our Transformer, so it cannot come in")


_AR, _MASKED = {"name": "autoregressive"}, {"name": "masked"}
_KINDS: dict[str, Callable[..., ImportPlan]] = {
    "qwen3": lambda *a: _like_llama(*a, _AR, qk_norm=True),
    "qwen3_moe": lambda *a: _like_llama(*a, _AR, qk_norm=True, moe=True),
    "qwen2": lambda *a: _like_llama(*a, _AR, qkv_bias=True),
    "llama": lambda *a: _like_llama(*a, _AR),
    "a2d-qwen3": lambda *a: _like_llama(*a, _MASKED, qk_norm=True),
    "a2d-qwen2": lambda *a: _like_llama(*a, _MASKED, qkv_bias=True),
    "a2d-llama": lambda *a: _like_llama(*a, _MASKED),
    "sdar": _sdar,
    "sdar_moe": lambda *a: _sdar(*a, moe=True),
    "DiffLM": lambda *a: _like_llama(*a, _MASKED, qk_norm=True),
    "llada": _llada,
    "Dream": lambda *a: _like_llama(*a, _MASKED | {"shift": True}, qkv_bias=True),
}
