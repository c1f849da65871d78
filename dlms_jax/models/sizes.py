"""Numbers of parameters and FLOPs by formula (the compiler's count has a scanned layer once)."""

from dlms_jax.config import Config, ModelConfig, traits_of
from dlms_jax.models.inputs import output_size
from dlms_jax.models.part_sizes import (
    attention_matrices,
    conditioning_matrices,
    conditioning_vectors,
    feed_forward_matrices,
    gaussian_of,
    input_matrices,
    input_parameters,
)
from dlms_jax.models.unet_sizes import unet_flops, unet_parameters


def count_parameters(
    config: Config, vocab_size: int, schedule_size: int = 0, active: bool = False
) -> int:
    """Returns the number of parameters of a network whose head has `vocab_size` outputs.

    Args:
      config: the config of the run.
      vocab_size: the padded size of the vocabulary.
      schedule_size: the number of parameters of Gaussian diffusion's noise schedule.
      active: count only as many experts as a token uses.
    """
    if config.model.name == "unet":
        return unet_parameters(config, vocab_size, schedule_size)
    c, gaussian = config.model, gaussian_of(config)
    total = c.num_layers * _layer_parameters(c, active, cross=c.prompt_encoder == "cross_attention")
    total += c.width  # the final norm
    if c.prompt_encoder == "cross_attention":
        encoder = c.prompt_encoder_layers * _layer_parameters(c, active, encoder=True)
        total += encoder + c.width  # and its norm
    total += conditioning_matrices(c) + conditioning_vectors(c)
    if gaussian is None:
        return total + vocab_size * c.width * (1 if c.tie_embeddings else 2)
    inputs = input_parameters(c, gaussian, vocab_size)
    return total + inputs + schedule_size + c.width * output_size(vocab_size, gaussian)


def train_flops(config: Config, vocab_size: int, length: int) -> float:
    """Returns the FLOPs that a training step needs for one token of a row of `length` tokens.

    Counts the forward and backward pass, 2 FLOPs for a multiply-add, the experts that a token uses,
    the logits that the loss needs, and the pairs that a causal or block mask allows in a row of one
    document. Excludes recomputation and the extra forward pass of self-conditioning.
    """
    if config.model.name == "unet":
        return unet_flops(config, vocab_size, length)
    c, gaussian, traits = config.model, gaussian_of(config), traits_of(config)
    copies = traits.copies
    pair = 2 * c.num_heads * c.per_head  # q k^T and the sum over values
    total: float = copies * c.num_layers * _layer_matrices(c, active=True)
    total += c.num_layers * pair * attended_pairs(config, length)
    if c.prompt_encoder == "cross_attention":
        total += c.prompt_encoder_layers * (_layer_matrices(c, True, encoder=True) + pair * length)
        total += c.num_layers * (_branch(c, attention_matrices(c)) + pair * length)
    total += copies * conditioning_matrices(c)
    if gaussian is not None:
        total += input_matrices(c, gaussian)
    return 6 * (total + traits.logits_share * c.width * output_size(vocab_size, gaussian))


def attended_pairs(config: Config, length: int) -> float:
    """Returns how many positions a token attends to on average.

    In block diffusion it is the sum over the token's two copies. With blocks of S tokens in rows of
    length L, the noisy copy attends to its block and to (L - S) / 2 earlier clean tokens; the clean
    copy to (L + S) / 2 clean tokens, or L / 2 with "block_causal".
    """
    attention = traits_of(config).attention
    if attention == "full":
        return length
    if attention == "causal":
        return length / 2
    noisy = (length + min(config.block.size, length)) / 2
    return noisy + (length / 2 if attention == "block_causal" else noisy)


def _layer_matrices(c: ModelConfig, active: bool, encoder: bool = False) -> int:
    """Counts a layer's matrices without cross-attention; an encoder's are not modulated."""
    matrices = attention_matrices(c), feed_forward_matrices(c, active)
    return sum(m if encoder else _branch(c, m) for m in matrices)


def _layer_parameters(
    c: ModelConfig, active: bool, encoder: bool = False, cross: bool = False
) -> int:
    """Counts all parameters of a layer: matrices, norms and biases."""
    attentions = 2 if cross else 1
    total = _layer_matrices(c, active, encoder)
    total += _branch(c, attention_matrices(c)) if cross else 0
    total += (attentions + 1) * (c.width + (0 if encoder else _modulated(c)))
    total += attentions * 2 * c.per_head * c.qk_norm
    return total + attentions * c.per_head * (c.num_heads + 2 * c.kv_heads) * c.qkv_bias


def _branch(c: ModelConfig, matrices: int) -> int:
    """Adds the matrix that modulates a branch to the branch's matrices."""
    return matrices + c.conditioning_size * _modulated(c)


def _modulated(c: ModelConfig) -> int:
    """Counts the outputs of a modulation: scale, shift and, with adaLN-zero, gate."""
    return c.width * {"none": 0, "film": 2, "adaln_zero": 3}[c.conditioning]
