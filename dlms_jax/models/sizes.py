"""Parameters and FLOPs by formula (a compiler counts a scanned layer once)."""

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

    schedule_size: the parameters of Gaussian diffusion's noise schedule. active: of experts, to
    count only as many as a token goes through.
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

    Forward and backward of one pass through the network, 2 FLOPs a multiply-add, without
    recomputation; nor is self-conditioning's pass counted, which has no backward. Of experts those
    count that a token goes through, and of logits those that the loss needs. A row is taken for one
    document; pairs that a causal or a block mask hides do not count.
    """
    if config.model.name == "unet":
        return unet_flops(config, vocab_size, length)
    c, gaussian, traits = config.model, gaussian_of(config), traits_of(config)
    copies = traits.copies
    pair = 2 * c.num_heads * c.per_head  # q k^T and the sum over values
    total = copies * c.num_layers * _layer_matrices(c, active=True)
    total += c.num_layers * pair * attended_pairs(config, length)
    if c.prompt_encoder == "cross_attention":
        total += c.prompt_encoder_layers * (_layer_matrices(c, True, encoder=True) + pair * length)
        total += c.num_layers * (_branch(c, attention_matrices(c)) + pair * length)
    total += copies * conditioning_matrices(c)
    if gaussian is not None:
        total += input_matrices(c, gaussian)
    return 6 * (total + traits.logits_share * c.width * output_size(vocab_size, gaussian))


def attended_pairs(config: Config, length: int) -> float:
    """Returns how many positions a token attends to on average; in block diffusion, how many its
    noisy copy and its clean one do together.

    There the noisy copy attends to its block and to the (L - S) / 2 clean tokens before, the clean
    one to (L + S) / 2 tokens, to L / 2 where it sees none after itself.
    """
    attention = traits_of(config).attention
    if attention == "full":
        return length
    if attention == "causal":
        return length / 2
    noisy = (length + min(config.block.size, length)) / 2
    return noisy + (length / 2 if attention == "block_causal" else noisy)


def _layer_matrices(c: ModelConfig, active: bool, encoder: bool = False) -> int:
    """A layer's matrices without its attention to a source; an encoder's are not modulated."""
    matrices = attention_matrices(c), feed_forward_matrices(c, active)
    return sum(m if encoder else _branch(c, m) for m in matrices)


def _layer_parameters(
    c: ModelConfig, active: bool, encoder: bool = False, cross: bool = False
) -> int:
    """All of a layer's parameters: matrices, norms and biases."""
    attentions = 2 if cross else 1
    total = _layer_matrices(c, active, encoder)
    total += _branch(c, attention_matrices(c)) if cross else 0
    total += (attentions + 1) * (c.width + (0 if encoder else _modulated(c)))
    total += attentions * 2 * c.per_head * c.qk_norm
    return total + attentions * c.per_head * (c.num_heads + 2 * c.kv_heads) * c.qkv_bias


def _branch(c: ModelConfig, matrices: int) -> int:
    """The matrices of a branch, and the one that modulates it."""
    return matrices + c.conditioning_size * _modulated(c)


def _modulated(c: ModelConfig) -> int:
    """The numbers by which a branch is modulated: scale, shift and, in adaLN-zero, gate."""
    return c.width * {"none": 0, "film": 2, "adaln_zero": 3}[c.conditioning]
