"""Conditioning on time and class: FiLM (arXiv 1709.07871) and adaLN-zero (DiT, arXiv 2212.09748).

The time may differ between tokens (documents of a row, blocks, prompt tokens at time 0), so scales
and shifts do too. They are computed from a narrow vector (as in MDLM), which keeps them cheap.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dlms_jax.config import ModelConfig
from dlms_jax.models.layers import Linear, RMSNorm

FEATURES = 128  # the number of cosines and sines of a time
_SHORTEST_PERIOD = 0.01  # in units of t, which is in [0, 1]


class Conditioning(nn.Module):
    """(t_BxL, class_B) -> c_BxLxC, the input of `Modulation`; None with conditioning="none"."""

    config: ModelConfig

    @nn.compact
    def __call__(self, t_BxL, class_B) -> jax.Array | None:
        c = self.config
        if c.conditioning == "none":
            return None
        dtype = jnp.dtype(c.dtype)
        h_BxLxC = Linear(c.conditioning_size, dtype, True, name="in_proj")(time_features(t_BxL))
        c_BxLxC = Linear(c.conditioning_size, dtype, True, name="out_proj")(jax.nn.silu(h_BxLxC))
        if c.classes:
            init = nn.initializers.normal(0.02)
            table = self.param("class_embedding", init, (c.classes + 1, c.conditioning_size))
            class_B = jnp.zeros(t_BxL.shape[0], jnp.int32) if class_B is None else class_B
            c_BxLxC += jnp.take(table.astype(dtype), class_B, axis=0)[:, None]
        return jax.nn.silu(c_BxLxC)


class Modulation(nn.Module):
    """c_BxLxC -> (scale, shift, gate), each BxLxD, for one branch of a layer.

    The kernel starts at 0. With film the initial modulation is the identity (scale 1, shift 0, gate
    1); with adaln_zero the initial gate is 0, so the branch adds nothing.

    Attributes:
      config: the sizes and the kind of conditioning.
      gated: whether the branch has an output to gate.
    """

    config: ModelConfig
    gated: bool = True

    @nn.compact
    def __call__(self, c_BxLxC):
        parts = 3 if self.gated and self.config.conditioning == "adaln_zero" else 2
        dtype = jnp.dtype(self.config.dtype)
        y_BxLxO = Linear(parts * self.config.width, dtype, True, std=0.0, name="proj")(c_BxLxC)
        scale, shift, *gate = jnp.split(y_BxLxO, parts, axis=-1)
        return 1 + scale, shift, gate[0] if gate else jnp.ones_like(scale)


def modulated_norm(config: ModelConfig, name: str, x_BxLxD, c_BxLxC, gated: bool = True):
    """Returns (h_BxLxD, gate), the input of a branch and the factor of its output.

    Call it in a compact method: the calling module owns the parameters.

    Args:
      config: the sizes and the kind of conditioning.
      name: the name of the branch, a prefix of the parameters' names.
      x_BxLxD: the array to normalise.
      c_BxLxC: the output of `Conditioning`. None: h is the plain norm and the gate is 1.
      gated: whether the branch has an output to gate.
    """
    h_BxLxD = RMSNorm(config.norm_epsilon, jnp.dtype(config.dtype), name=f"{name}_norm")(x_BxLxD)
    if c_BxLxC is None:
        return h_BxLxD, 1
    scale, shift, gate = Modulation(config, gated, name=f"{name}_modulation")(c_BxLxC)
    return h_BxLxD * scale + shift, gate


def time_features(t_BxL: jax.Array) -> jax.Array:
    """Returns features_BxLxF in float32: cosines and sines of t with periods from 0.01 to 4."""
    periods = np.geomspace(_SHORTEST_PERIOD, 4.0, FEATURES // 2).astype(np.float32)
    angle = 2 * jnp.pi * t_BxL[..., None].astype(jnp.float32) / periods[None, None, :]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
