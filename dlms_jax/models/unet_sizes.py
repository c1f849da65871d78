"""Numbers of parameters and FLOPs of the U-Net, by formula."""

from dlms_jax.config import Config, ModelConfig, traits_of
from dlms_jax.models.inputs import output_size
from dlms_jax.models.part_sizes import (
    attention_matrices,
    conditioning_matrices,
    conditioning_vectors,
    gaussian_of,
    input_matrices,
    input_parameters,
)


def number_of_blocks(c: ModelConfig) -> int:
    """Returns the number of blocks: on the way down, on the way up, and one in the middle."""
    return 2 * c.unet_levels * c.unet_blocks + 1


def attends(c: ModelConfig, level: int) -> bool:
    """Returns whether the blocks of a level have attention; level 0 has the full length."""
    return level >= c.unet_levels - c.unet_attention_levels


def unet_parameters(config: Config, vocab_size: int, schedule_size: int = 0) -> int:
    """Returns the number of parameters of a U-Net whose head has `vocab_size` outputs.

    Args:
      config: the config of the run.
      vocab_size: the padded size of the vocabulary.
      schedule_size: the number of parameters of Gaussian diffusion's noise schedule.
    """
    c, gaussian = config.model, gaussian_of(config)
    total = conditioning_matrices(c) + 2 * _shortening(c) * (c.unet_levels - 1)
    total += conditioning_vectors(c)
    for attention, number in _blocks(c):
        total += number * (_block_matrices(c, attention) + _block_vectors(c, attention))
    total += 2 * c.unet_levels * c.unet_blocks * c.width**2  # merges, on the way up
    total += c.width  # the final norm
    if gaussian or not c.tie_embeddings:
        total += c.width * output_size(vocab_size, gaussian)
    if gaussian is None:
        return total + vocab_size * c.width
    return total + schedule_size + input_parameters(c, gaussian, vocab_size)


def unet_flops(config: Config, vocab_size: int, length: int) -> float:
    """Returns the FLOPs that a training step needs for one token of a row of `length` tokens.

    Counts the forward and backward pass, 2 FLOPs for a multiply-add, and the logits that the loss
    needs. Excludes recomputation.
    """
    c, gaussian, share = config.model, gaussian_of(config), traits_of(config).logits_share
    token = conditioning_matrices(c) + share * c.width * output_size(vocab_size, gaussian)
    if gaussian is not None:
        token += input_matrices(c, gaussian)
    total, cells = token * length, length
    for level in range(c.unet_levels):
        if level:
            cells = max(cells // 2, 1)
            total += 2 * _shortening(c) * cells
        blocks = 2 * c.unet_blocks + (level == c.unet_levels - 1)
        attended = 2 * c.num_heads * c.per_head * cells * attends(c, level)
        total += blocks * cells * (_block_matrices(c, attends(c, level)) + attended)
        total += c.unet_blocks * cells * 2 * c.width**2  # merges, on the way up
    return 6 * total / length


def _blocks(c: ModelConfig) -> list[tuple[bool, int]]:
    """Returns (has attention, number of blocks) for each level, and for the middle block."""
    levels = [(attends(c, level), 2 * c.unet_blocks) for level in range(c.unet_levels)]
    return [*levels, (attends(c, c.unet_levels - 1), 1)]


def _block_matrices(c: ModelConfig, attention: bool) -> int:
    """Counts two convolutions of three taps, the attention, and the modulations."""
    convolutions = 6 * c.width**2
    attended = attention_matrices(c) * attention
    return convolutions + attended + c.conditioning_size * _modulated(c, attention)


def _block_vectors(c: ModelConfig, attention: bool) -> int:
    """Counts biases and norms."""
    vectors = 4 * c.width + _modulated(c, attention)
    if attention:
        vectors += c.width + 2 * c.per_head * c.qk_norm
        vectors += c.per_head * (c.num_heads + 2 * c.kv_heads) * c.qkv_bias
    return vectors


def _modulated(c: ModelConfig, attention: bool) -> int:
    """Counts the outputs of a block's modulations: scales, shifts and gates."""
    if c.conditioning == "none":
        return 0
    gates = (1 + attention) * (c.conditioning == "adaln_zero")
    return c.width * (2 * (2 + attention) + gates)


def _shortening(c: ModelConfig) -> int:
    """Counts the matrix from a cell's three places to the cell; the one back has the same size."""
    return 3 * c.width**2
