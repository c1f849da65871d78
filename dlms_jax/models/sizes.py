"""Parameters and FLOPs by formula (a compiler counts a scanned layer once)."""

from dlms_jax.config import ModelConfig


def layer_matrix_parameters(c: ModelConfig) -> int:
    """Returns the parameters of one layer's matrices."""
    attention = c.width * c.per_head * (2 * c.num_heads + 2 * c.kv_heads)
    return attention + 3 * c.width * c.hidden


def count_parameters(c: ModelConfig, rows: int) -> int:
    """Returns the number of parameters of a Transformer whose head has `rows` rows."""
    layer = layer_matrix_parameters(c) + 2 * c.width  # two norms
    if c.qk_norm:
        layer += 2 * c.per_head
    if c.qkv_bias:
        layer += c.per_head * (c.num_heads + 2 * c.kv_heads)
    tables = rows * c.width * (1 if c.tie_embeddings else 2)
    return c.num_layers * layer + tables + c.width


def train_flops(c: ModelConfig, rows: int, length: int, attention: str, head_share: float) -> float:
    """Returns the FLOPs that a training step needs for one token of a row of `length` tokens.

    Forward and backward, 2 FLOPs a multiply-add, without recomputation; causal attention counts
    half. head_share: the part of positions whose logits the loss needs (0.5 for masked diffusion).
    """
    pairs = length / 2 if attention == "causal" else length
    attended = 2 * c.num_heads * c.per_head * pairs  # q k^T and the sum over values
    matrices = c.num_layers * (layer_matrix_parameters(c) + attended)
    return 6 * (matrices + head_share * c.width * rows)
