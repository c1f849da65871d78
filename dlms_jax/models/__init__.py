"""TOKENS -> LOGITS: the denoisers, and the only place that knows flax."""

from dlms_jax.models.sizes import count_parameters, train_flops
from dlms_jax.models.transformer import Transformer, head_kernel_DxV

__all__ = ["Transformer", "count_parameters", "head_kernel_DxV", "train_flops"]
