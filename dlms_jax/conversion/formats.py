"""The layouts that weights can be exported in: whose names and config.json they have, and what of
our networks each can hold. What it cannot hold is refused, never dropped.

native is ours and holds everything (pytorch/). The others are those of published classes:
qwen3: Qwen3ForCausalLM of transformers, with experts Qwen3MoeForCausalLM. a2d: dLLM's
A2DQwen3LMHeadModel. sdar: SDARForCausalLM, as SGLang and LMDeploy read it. megadlms: MegaDLMs'
DiffLM. llada: LLaDAModelLM. dream: DreamModel.
Where each contract was read stands in docs/release.md.
"""

from collections.abc import Callable, Iterator
import dataclasses
import re
from typing import Any

from dlms_jax import __version__
from dlms_jax.config import Config
from dlms_jax.conversion.native import native_config, token_ids
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError

SDAR_MASK_ID = 151669  # SGLang and LMDeploy have it in their source, whatever the config says
A2D_MASK = "<|mask|>"  # dLLM gives its tokenizers a mask token of this spelling


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """needs: settings, and the values that they may have. config: (config, tokenizer) ->
    config.json. rename: from our PyTorch name to the layout's. zeros: names of vectors of zeros
    that the class wants beside what we have, by layer, where config.model.qkv_bias."""

    needs: dict[str, tuple]
    config: Callable[[Config, Tokenizer], dict[str, Any]]
    rename: Callable[[str], str] = lambda name: name
    zeros: str = ""

    def zero_tensors(self, config: Config) -> Iterator[tuple[str, int]]:
        """Yields the name and size of each vector of zeros."""
        if self.zeros and config.model.qkv_bias:
            for n in range(config.model.num_layers):
                yield self.zeros.format(n=n), config.model.width


def check_format(name: str, config: Config, tokenizer: Tokenizer):
    """Raises UserError for what a layout cannot hold."""
    for key, allowed in FORMATS[name].needs.items():
        section, leaf = key.split(".")
        value = getattr(getattr(config, section), leaf)
        if value not in allowed:
            raise UserError(
                f"--layout {name} cannot hold config.{key}={value}, only "
                f"{' or '.join(map(str, allowed))}; use --layout native, which holds everything"
            )
    m = config.model
    if name in ("llada", "dream") and m.per_head * m.num_heads != m.width:
        raise UserError(
            f"--layout {name} cannot hold config.model.head_size={m.per_head}, only width / "
            "num_heads; use --layout native"
        )
    if name == "sdar" and tokenizer.mask_id != SDAR_MASK_ID:
        raise UserError(
            f"--layout sdar: SGLang and LMDeploy take {SDAR_MASK_ID} for the mask whatever the "
            f"config says, and this tokenizer's is {tokenizer.mask_id}; use --layout native"
        )
    if name == "a2d" and tokenizer.roles["mask"] != A2D_MASK:
        raise UserError(
            f"--layout a2d: dLLM takes the token {A2D_MASK} for the mask, and this tokenizer's is "
            f"{tokenizer.roles['mask']}; use --layout native"
        )


def _qwen3(
    config: Config, tokenizer: Tokenizer, model_type: str, architecture: str, **more
) -> dict[str, Any]:
    """Returns a config.json with Qwen3's keys."""
    m = config.model
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": tokenizer.size,
        "hidden_size": m.width,
        "intermediate_size": m.hidden,
        "num_hidden_layers": m.num_layers,
        "num_attention_heads": m.num_heads,
        "num_key_value_heads": m.kv_heads,
        "head_dim": m.per_head,
        "hidden_act": "silu",
        "max_position_embeddings": config.data.sequence_length,
        "rms_norm_eps": m.norm_epsilon,
        # transformers 5 reads the second, 4 and some engines the first.
        "rope_theta": m.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": m.rope_theta},
        "attention_bias": m.qkv_bias,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": m.num_layers,
        "tie_word_embeddings": m.tie_embeddings,
        "initializer_range": 0.02,
        **token_ids(tokenizer),
        **more,
    }


def _stock_qwen3(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the config.json of the class of transformers, with experts or without."""
    m = config.model
    if not m.experts:
        return _qwen3(config, tokenizer, "qwen3", "Qwen3ForCausalLM")
    experts = {
        "num_experts": m.experts,
        "num_experts_per_tok": m.experts_per_token,
        "moe_intermediate_size": m.expert_hidden,
        "norm_topk_prob": m.normalise_routing,
        "decoder_sparse_step": 1,  # every layer has experts
        "mlp_only_layers": [],
        "router_aux_loss_coef": m.load_balance_weight,
        "output_router_logits": False,
    }
    return _qwen3(config, tokenizer, "qwen3_moe", "Qwen3MoeForCausalLM", **experts)


def _llada(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    m = config.model
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "d_model": m.width,
        "n_heads": m.num_heads,
        "n_kv_heads": m.kv_heads,
        "n_layers": m.num_layers,
        "mlp_hidden_size": m.hidden,
        "mlp_ratio": 4,
        "activation_type": "silu",
        "block_type": "llama",
        "block_group_size": 1,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": m.rope_theta,
        "alibi": False,
        "layer_norm_type": "rms",
        "rms_norm_eps": m.norm_epsilon,
        "layer_norm_with_affine": True,
        "bias_for_layer_norm": False,
        "attention_layer_norm": False,
        "include_bias": False,
        "include_qkv_bias": m.qkv_bias,
        "scale_logits": False,
        "input_emb_norm": False,
        "vocab_size": tokenizer.size,
        "embedding_size": tokenizer.size,
        "weight_tying": m.tie_embeddings,
        "max_sequence_length": config.data.sequence_length,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "residual_dropout": 0.0,
        "flash_attention": False,
        "init_device": "cpu",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "use_cache": False,
        **token_ids(tokenizer),
    }


_LLADA_NAMES = {
    "embed_tokens": "wte",
    "norm": "ln_f",
    "lm_head": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def llada_name(name: str) -> str:
    """Returns LLaDA's name of a tensor."""
    inner, layer = re.subn(r"^model\.layers\.(\d+|\{n\})\.", "", name)
    stem, leaf = inner.removeprefix("model.").rsplit(".", 1)
    block = f"blocks.{name.split('.')[2]}." if layer else ""
    return f"model.transformer.{block}{_LLADA_NAMES[stem]}.{leaf}"


_LAYERS = {
    "model.name": ("transformer",),
    "model.conditioning": ("none",),
    "model.source": ("concatenation",),
}
_PLAIN = _LAYERS | {"model.experts": (0,)}
_NO_SHIFT = {"objective.shift": (False,)}
_O_BIAS = "model.layers.{n}.self_attn.o_proj.bias"

FORMATS = {
    "native": ExportFormat({}, native_config),
    "qwen3": ExportFormat(
        _LAYERS | {"objective.name": ("autoregressive",), "model.qk_norm": (True,)},
        _stock_qwen3,
        zeros=_O_BIAS,
    ),
    "a2d": ExportFormat(
        _PLAIN | _NO_SHIFT | {"objective.name": ("masked", "block"), "model.qk_norm": (True,)},
        lambda c, t: _qwen3(c, t, "a2d-qwen3", "A2DQwen3LMHeadModel"),
        zeros=_O_BIAS,
    ),
    "sdar": ExportFormat(
        _PLAIN
        | {
            "objective.name": ("block",),
            "block.context": ("bidirectional",),
            "model.qk_norm": (True,),
        },
        lambda c, t: _qwen3(
            c, t, "sdar", "SDARForCausalLM", block_size=c.block.size, fuse_cross_entropy=False
        ),
        zeros=_O_BIAS,
    ),
    "megadlms": ExportFormat(
        _PLAIN
        | _NO_SHIFT
        | {"objective.name": ("masked",), "model.qk_norm": (True,), "model.qkv_bias": (False,)},
        lambda c, t: _qwen3(c, t, "", "DiffLM", attn_mask_type="bidirectional"),
    ),
    "llada": ExportFormat(
        _PLAIN | _NO_SHIFT | {"objective.name": ("masked",), "model.qk_norm": (False,)},
        _llada,
        llada_name,
    ),
    "dream": ExportFormat(
        _PLAIN
        | {
            "objective.name": ("masked",),
            "objective.shift": (True,),
            "model.qk_norm": (False,),
            "model.qkv_bias": (True,),
        },
        lambda c, t: _qwen3(c, t, "Dream", "DreamModel", rope_scaling=None, use_mrope=False),
    ),
}


def config_json(layout: str, config: Config, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """Returns the config.json of a checkpoint in a layout. Under "dlms_jax" it has all settings of
    the run, which the other programs leave alone and the way back reads."""
    described = FORMATS[layout].config(config, tokenizer)
    described |= {"dtype": dtype, "torch_dtype": dtype}
    return described | {
        "dlms_jax": {"version": __version__, "layout": layout, "config": config.to_dict()}
    }
