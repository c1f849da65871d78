"""Settings of the denoiser, a Transformer or a U-Net."""

import dataclasses
from typing import Literal

from dlms_jax.config.setting import ABOVE_0, AT_LEAST_0, AT_LEAST_1, OBJECTIVES, setting


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The denoiser. The Transformer has Qwen3's layout and names."""

    name: Literal["transformer", "unet"] = setting(
        "transformer",
        "The kind of network. A U-Net needs an objective with bidirectional attention.",
        shapes=OBJECTIVES,
    )
    width: int = setting(768, "Hidden size between layers.", AT_LEAST_1, shapes=OBJECTIVES)
    num_layers: int = setting(12, "Layers of the Transformer.", AT_LEAST_1, shapes=OBJECTIVES)
    num_heads: int = setting(12, "Attention heads of a layer.", AT_LEAST_1, shapes=OBJECTIVES)
    num_kv_heads: int = setting(
        0,
        "Heads for keys and values. Fewer than model.num_heads: grouped-query attention. "
        "0: model.num_heads.",
        AT_LEAST_0,
        shapes=OBJECTIVES,
    )
    head_size: int = setting(
        0,
        "Size of a head. 0: model.width / model.num_heads.",
        AT_LEAST_0,
        shapes=OBJECTIVES,
    )
    feed_forward: int = setting(
        0,
        "Hidden size of a layer's MLP. 0: 8/3 of model.width, rounded up to a multiple of 64.",
        AT_LEAST_0,
        shapes=OBJECTIVES,
    )
    experts: int = setting(
        0,
        "Experts (MLPs) per layer, of which a token uses model.experts_per_token. 0: one MLP, no "
        "router.",
        AT_LEAST_0,
        shapes=OBJECTIVES,
    )
    experts_per_token: int = setting(
        2,
        "Experts that a token uses; with model.routing=expert_choice, on average.",
        AT_LEAST_1,
        computes=OBJECTIVES,
    )
    expert_feed_forward: int = setting(
        0,
        "Hidden size of an expert. 0: that of model.feed_forward.",
        AT_LEAST_0,
        shapes=OBJECTIVES,
    )
    routing: Literal["token_choice", "expert_choice"] = setting(
        "token_choice",
        "Whether a token chooses its best experts, or an expert its best tokens of the row. "
        "expert_choice needs an objective with bidirectional attention.",
        computes=OBJECTIVES,
    )
    normalise_routing: bool = setting(
        True,
        "With model.routing=token_choice: scale the weights of a token's experts to a sum of 1.",
        computes=OBJECTIVES,
    )
    load_balance_weight: float = setting(
        0.01,
        "With model.routing=token_choice: weight of the loss that balances the load of experts.",
        AT_LEAST_0,
    )
    z_loss_weight: float = setting(
        0.001, "Weight of the loss that keeps the logits of the experts' router small.", AT_LEAST_0
    )
    qk_norm: bool = setting(
        True, "Whether the queries and keys of each head are normalized.", shapes=OBJECTIVES
    )
    qkv_bias: bool = setting(
        False, "Whether the projections to queries, keys and values have a bias.", shapes=OBJECTIVES
    )
    tie_embeddings: bool = setting(
        False, "Whether the output layer shares the input embedding.", shapes=OBJECTIVES
    )
    rope_theta: float = setting(
        10_000.0,
        "Base of the wavelengths of rotary position embeddings.",
        ABOVE_0,
        computes=OBJECTIVES,
    )
    norm_epsilon: float = setting(
        1e-6, "Number that RMSNorm adds to the mean square.", AT_LEAST_0, computes=OBJECTIVES
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "bfloat16", "Type of the computation. Weights and optimizer state are float32."
    )
    quantization: Literal["none", "int8", "fp8"] = setting(
        "none",
        "Quantization of the layers' matrix products in the train step. none: they are computed in "
        "model.dtype. Only for a Transformer without experts.",
        changeable=True,
    )
    attention: Literal["auto", "xla", "splash", "cudnn"] = setting(
        "auto",
        "Attention kernel. auto: the devices' own (splash on TPU, cudnn on GPU) if it supports the "
        "shapes, else xla.",
        changeable=True,
    )
    scan_layers: bool = setting(
        True,
        "Compile one layer and loop over all layers, which compiles faster. Weights and results "
        "are the same.",
        changeable=True,
    )
    remat: Literal["none", "dots", "offload", "full"] = setting(
        "dots",
        "What the backward pass recomputes. none: nothing. dots: all between matrix products. "
        "offload: the same, with the results of matrix products in the host's memory. full: whole "
        "layers (docs/scale.md).",
        changeable=True,
    )
    conditioning: Literal["none", "film", "adaln_zero"] = setting(
        "none",
        "How time and class condition the layers: not at all, by scales and shifts (FiLM), or by "
        "scales, shifts and gates that start at 0 (DiT).",
        shapes=OBJECTIVES,
    )
    conditioning_size: int = setting(
        128, "Size of the embedding of time and class.", AT_LEAST_1, shapes=OBJECTIVES
    )
    classes: int = setting(
        0,
        "Classes to condition on: the corpora of data.mixture, in order. 0: none.",
        AT_LEAST_0,
        shapes=OBJECTIVES,
    )
    prompt_encoder: Literal["none", "cross_attention"] = setting(
        "none",
        "How prompts are read. none: in the same sequence as the text. cross_attention: by an "
        "encoder, to whose outputs the layers attend.",
        shapes=OBJECTIVES,
    )
    prompt_encoder_layers: int = setting(
        2,
        "Layers of the encoder of model.prompt_encoder=cross_attention.",
        AT_LEAST_1,
        shapes=OBJECTIVES,
    )
    unet_levels: int = setting(
        3, "U-Net: levels. Each is half as long as the one above.", AT_LEAST_1, shapes=OBJECTIVES
    )
    unet_blocks: int = setting(
        2,
        "U-Net: residual blocks of a level, on the way down and again on the way up.",
        AT_LEAST_1,
        shapes=OBJECTIVES,
    )
    unet_attention_levels: int = setting(
        2, "U-Net: levels with attention, the shortest first.", AT_LEAST_0, shapes=OBJECTIVES
    )

    @property
    def kv_heads(self) -> int:
        """Returns the number of heads for keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def per_head(self) -> int:
        """Returns the size of a head."""
        return self.head_size or self.width // self.num_heads

    @property
    def hidden(self) -> int:
        """Returns the hidden size of a layer's MLP."""
        return self.feed_forward or -(-(8 * self.width // 3) // 64) * 64

    @property
    def expert_hidden(self) -> int:
        """Returns the hidden size of an expert."""
        return self.expert_feed_forward or self.hidden
