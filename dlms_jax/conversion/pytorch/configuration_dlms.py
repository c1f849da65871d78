"""Configuration of a diffusion language model that was trained by dlms_jax."""

from transformers import PretrainedConfig


class DLMConfig(PretrainedConfig):
    r"""
    The configuration of a [`DLMModel`] or [`DLMForDiffusion`]: the network, and the diffusion
    process that it was trained for.

    Args:
        denoiser (`str`, *optional*, defaults to `"transformer"`):
            The network, `"transformer"` or `"unet"`.
        vocab_size (`int`, *optional*, defaults to 260):
            Number of symbols, special tokens included.
        hidden_size (`int`, *optional*, defaults to 768):
            Width of the network.
        num_hidden_layers (`int`, *optional*, defaults to 12):
            Layers of the Transformer.
        num_attention_heads (`int`, *optional*, defaults to 12):
            Heads of each attention layer.
        num_key_value_heads (`int`, *optional*, defaults to 12):
            Key and value heads of each attention layer, for grouped-query attention.
        head_dim (`int`, *optional*, defaults to 64):
            Size of each head.
        intermediate_size (`int`, *optional*, defaults to 2048):
            Hidden size of the MLP.
        num_experts (`int`, *optional*, defaults to 0):
            Experts of each layer, which replace its MLP. 0 means an MLP.
        num_experts_per_tok (`int`, *optional*, defaults to 2):
            Experts that each token is sent to (on average, with `"expert_choice"`).
        moe_intermediate_size (`int`, *optional*, defaults to 2048):
            Hidden size of each expert.
        norm_topk_prob (`bool`, *optional*, defaults to `True`):
            Whether the weights of the experts of a token are normalised to sum to 1.
        routing (`str`, *optional*, defaults to `"token_choice"`):
            `"token_choice"`: each token chooses its experts. `"expert_choice"`: each expert chooses
            its tokens (https://arxiv.org/abs/2202.09368).
        qk_norm (`bool`, *optional*, defaults to `True`):
            Whether the queries and keys of each head are normalised, as in Qwen3.
        qkv_bias (`bool`, *optional*, defaults to `False`):
            Whether the projections of queries, keys and values have biases, as in Qwen2.
        rms_norm_eps (`float`, *optional*, defaults to 1e-6):
            Epsilon of the RMS norms.
        rope_theta (`float`, *optional*, defaults to 10000.0):
            Base of the rotary position embeddings.
        max_position_embeddings (`int`, *optional*, defaults to 512):
            The longest sequence that the model was trained on.
        tie_word_embeddings (`bool`, *optional*, defaults to `False`):
            Whether the head has the weights of the input embeddings.
        conditioning (`str`, *optional*, defaults to `"none"`):
            How time and class reach the layers: `"none"`, `"film"` or `"adaln_zero"`.
        conditioning_size (`int`, *optional*, defaults to 128):
            Size of the vector that carries time and class.
        class_names (`list[str]`, *optional*, defaults to `()`):
            Names of the classes. Class 0 means no class; these are 1, 2, ...
        source (`str`, *optional*, defaults to `"concatenation"`):
            How prompts are read. `"concatenation"`: with the text. `"cross_attention"`: by an
            encoder of their own, to which the layers attend.
        source_layers (`int`, *optional*, defaults to 2):
            Layers of that encoder.
        unet_levels (`int`, *optional*, defaults to 3):
            Resolutions of the U-Net.
        unet_blocks (`int`, *optional*, defaults to 2):
            Blocks of each resolution, on the way down and on the way up.
        unet_attention_levels (`int`, *optional*, defaults to 2):
            How many of the shortest resolutions have attention.
        objective (`str`, *optional*, defaults to `"masked"`):
            What the network was trained for: `"masked"`, `"uniform"`, `"gaussian"`, `"block"` or
            `"autoregressive"`.
        attention (`str`, *optional*, defaults to `"full"`):
            Which positions attend to which: a `kind` of `make_attention_mask` (layers_dlms.py).
        shift (`bool`, *optional*, defaults to `False`):
            Whether the output at position i - 1 predicts token i in masked diffusion.
        schedule (`str`, *optional*, defaults to `"linear"`):
            Schedule alpha(t) of masked, uniform and block diffusion: `"linear"`, `"cosine"` or
            `"polynomial"`.
        schedule_power (`float`, *optional*, defaults to 2.0):
            Exponent of the polynomial schedule.
        mask_share (`float`, *optional*, defaults to 0.0):
            Share of masks in the noise of uniform diffusion.
        block_size (`int`, *optional*, defaults to 16):
            Tokens of each block in block diffusion.
        gaussian (`dict`, *optional*):
            Settings of Gaussian diffusion; `None` for the other objectives.
        pad_token_id (`int`, *optional*, defaults to 256):
            Id of the padding token.
        bos_token_id (`int`, *optional*, defaults to 257):
            Id of the token that begins each text.
        eos_token_id (`int`, *optional*, defaults to 258):
            Id of the token that ends each text.
        mask_token_id (`int`, *optional*, defaults to 259):
            Id of the mask.
    """

    model_type = "dlms"

    def __init__(
        self,
        denoiser="transformer",
        vocab_size=260,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=12,
        head_dim=64,
        intermediate_size=2048,
        num_experts=0,
        num_experts_per_tok=2,
        moe_intermediate_size=2048,
        norm_topk_prob=True,
        routing="token_choice",
        qk_norm=True,
        qkv_bias=False,
        rms_norm_eps=1e-6,
        rope_theta=10_000.0,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        conditioning="none",
        conditioning_size=128,
        class_names=(),
        source="concatenation",
        source_layers=2,
        unet_levels=3,
        unet_blocks=2,
        unet_attention_levels=2,
        objective="masked",
        attention="full",
        shift=False,
        schedule="linear",
        schedule_power=2.0,
        mask_share=0.0,
        block_size=16,
        gaussian=None,
        pad_token_id=256,
        bos_token_id=257,
        eos_token_id=258,
        mask_token_id=259,
        **kwargs,
    ):
        self.denoiser = denoiser
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.intermediate_size = intermediate_size
        self.num_experts = num_experts
        self.num_experts_per_tok = num_experts_per_tok
        self.moe_intermediate_size = moe_intermediate_size
        self.norm_topk_prob = norm_topk_prob
        self.routing = routing
        self.qk_norm = qk_norm
        self.qkv_bias = qkv_bias
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.max_position_embeddings = max_position_embeddings
        self.conditioning = conditioning
        self.conditioning_size = conditioning_size
        self.class_names = list(class_names)
        self.source = source
        self.source_layers = source_layers
        self.unet_levels = unet_levels
        self.unet_blocks = unet_blocks
        self.unet_attention_levels = unet_attention_levels
        self.objective = objective
        self.attention = attention
        self.shift = shift
        self.schedule = schedule
        self.schedule_power = schedule_power
        self.mask_share = mask_share
        self.block_size = block_size
        self.gaussian = gaussian
        self.mask_token_id = mask_token_id
        super().__init__(
            pad_token_id=pad_token_id,
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
