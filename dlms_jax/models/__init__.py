"""TOKENS -> LOGITS: the networks, in the only package that uses flax."""

from dlms_jax.models.inputs import head_kernel_DxV, noise_schedule, noise_table, project
from dlms_jax.models.moe import ROUTER, RouterSums, expert_outputs
from dlms_jax.models.network import Network
from dlms_jax.models.part_sizes import gaussian_of
from dlms_jax.models.sizes import count_parameters, train_flops
from dlms_jax.models.transformer import Transformer
from dlms_jax.models.unet import UNet

__all__ = [
    "ROUTER",
    "Network",
    "RouterSums",
    "Transformer",
    "UNet",
    "count_parameters",
    "expert_outputs",
    "gaussian_of",
    "head_kernel_DxV",
    "noise_schedule",
    "noise_table",
    "project",
    "train_flops",
]
