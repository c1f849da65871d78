"""The settings of a diffusion language model that was trained by dlms_jax."""

from transformers import PretrainedConfig


class DLMConfig(PretrainedConfig):
    """What modeling_dlms.py needs to build the network, and generation_dlms.py to sample from it.

    objective: masked, uniform, gaussian, block or autoregressive: what the network was trained for.
    attention: which positions it lets attend (`attention_mask` in modeling_dlms.py has the kinds).
    shift: whether the output at position i - 1 predicts token i of masked diffusion.
    schedule, schedule_power: alpha(t) of the discrete diffusions; mask_share: of uniform noise.
    num_experts: of each layer, in place of one MLP; 0: none. routing: token_choice, expert_choice.
    qkv_bias: of the projections of queries, keys and values alone.
    gaussian: the settings of Gaussian diffusion; None for the others.
    """

    model_type = "dlms"

    def __init__(
        self,
        denoiser="transformer",  # or unet
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
        conditioning="none",  # how time and class reach the layers: film or adaln_zero
        conditioning_size=128,
        class_names=(),
        source="concatenation",  # where prompts are read: cross_attention has an encoder
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
