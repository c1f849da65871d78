"""The export formats (--layout): tensor names, config.json, and the settings that each can hold.

A format refuses settings that it cannot hold; nothing is dropped. `native` is our own (pytorch/)
and holds everything. The others are those of published classes:

qwen3      transformers' Qwen3ForCausalLM; with experts, Qwen3MoeForCausalLM
a2d        dLLM's A2DQwen3LMHeadModel
sdar       SDARForCausalLM, as SGLang and LMDeploy load it
megadlms   MegaDLMs' DiffLM
llada      LLaDAModelLM
dream      DreamModel

docs/release.md says which published sources define each of them.
"""

from collections.abc import Callable, Iterator
import dataclasses
import re
from typing import Any

from dlms_jax import __version__
from dlms_jax.config import FORMAT, Config
from dlms_jax.conversion.folder import with_digest
from dlms_jax.conversion.native import native_config, token_ids
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError

SDAR_MASK_ID = 151669  # hard-coded in SGLang and LMDeploy, which ignore that of config.json
A2D_MASK = "<|mask|>"  # the name that dLLM gives the mask token of its tokenizers


@dataclasses.dataclass(frozen=True)
class ExportFormat:
    """What a format can hold, and how to write it.

    Attributes:
      needs: the values that it allows, by setting.
      config: (config, tokenizer) -> the keys of config.json.
      rename: our PyTorch name -> the format's.
      zeros: the name, with {n} for the layer, of a bias that the class has and our network has not;
        it is written as zeros if config.model.qkv_bias is set. "": there is none.
    """

    needs: dict[str, tuple]
    config: Callable[[Config, Tokenizer], dict[str, Any]]
    rename: Callable[[str], str] = lambda name: name
    zeros: str = ""

    def zero_tensors(self, config: Config) -> Iterator[tuple[str, int]]:
        """Yields the name and size of each bias that is written as zeros."""
        if self.zeros and config.model.qkv_bias:
            for n in range(config.model.num_layers):
                yield self.zeros.format(n=n), config.model.width


def check_format(name: str, config: Config, tokenizer: Tokenizer):
    """Checks that a format can hold a run.

    Args:
      name: a key of FORMATS.
      config: the config of the run.
      tokenizer: its tokenizer.

    Raises:
      UserError: the format cannot hold a setting, or its programs expect another mask token.
    """
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
            f"--layout sdar: SGLang and LMDeploy expect the mask to be token {SDAR_MASK_ID}, but "
            f"for this tokenizer it is {tokenizer.mask_id}; use --layout native"
        )
    if name == "a2d" and tokenizer.roles["mask"] != A2D_MASK:
        raise UserError(
            f"--layout a2d: dLLM expects the mask to be the token {A2D_MASK}, but for this "
            f"tokenizer it is {tokenizer.roles['mask']}; use --layout native"
        )


def _qwen3(
    config: Config, tokenizer: Tokenizer, model_type: str, architecture: str, **more
) -> dict[str, Any]:
    """Returns a config.json with the keys of Qwen3."""
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
        # transformers 5 reads rope_parameters; transformers 4 and some engines read rope_theta.
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
    """Returns the config.json of transformers' Qwen3ForCausalLM or Qwen3MoeForCausalLM."""
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
    """Returns the name that LLaDA gives a tensor, from our PyTorch name."""
    inner, layer = re.subn(r"^model\.layers\.(\d+|\{n\})\.", "", name)
    stem, leaf = inner.removeprefix("model.").rsplit(".", 1)
    block = f"blocks.{name.split('.')[2]}." if layer else ""
    return f"model.transformer.{block}{_LLADA_NAMES[stem]}.{leaf}"


_LAYERS = {
    "model.name": ("transformer",),
    "model.conditioning": ("none",),
    "model.prompt_encoder": ("none",),
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


def config_json(name: str, config: Config, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    """Returns the config.json of an export.

    Its key "dlms_jax" holds all settings of the run: other programs ignore it, and an import reads
    it.

    Args:
      name: a key of FORMATS.
      config: the config of the run.
      tokenizer: its tokenizer.
      dtype: the type of the weights, "float32" or "bfloat16".
    """
    described = FORMATS[name].config(config, tokenizer)
    described |= {"dtype": dtype, "torch_dtype": dtype}
    return described | {
        "dlms_jax": with_digest(
            {
                "format": FORMAT,
                "version": __version__,
                "layout": name,
                "config": config.to_dict(),
            }
        )
    }
