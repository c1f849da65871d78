"""The blocks of the U-Net, and the inputs that the blocks of a level share."""

from collections.abc import Callable
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from dlms_jax.config import ModelConfig
from dlms_jax.models.attention import Visibility, row_visibility
from dlms_jax.models.conditioning import modulated_norm
from dlms_jax.models.layers import INIT_STD, Attention, Linear, rotary_angles
from dlms_jax.models.unet_cells import Cells, joined, with_neighbours


class Resolution(NamedTuple):
    """The inputs that the blocks of a level share. L is the length of the level.

    Attributes:
      segments_BxL: the document of each cell (at level 0: of each token).
      positions_BxL: the position of each cell in its document.
      joined_BxL: True where a cell and the one before it belong to one document.
      c_BxLxC: the output of `Conditioning`, averaged over the tokens of each cell, or None.
      visibility: the cells that each cell may attend to.
      rotary: (cos, sin) of the positions.
    """

    segments_BxL: jax.Array
    positions_BxL: jax.Array
    joined_BxL: jax.Array
    c_BxLxC: jax.Array | None
    visibility: Visibility
    rotary: tuple[jax.Array, jax.Array]

    @property
    def ahead_B(self) -> None:
        """`attention_mask` reads it: attention is never limited ahead."""
        return None


def make_resolution(config: ModelConfig, layout, c_BxLxC) -> Resolution:
    """Returns the Resolution for the segments and positions of a layout."""
    return Resolution(
        layout.segments_BxL,
        layout.positions_BxL,
        joined(layout.segments_BxL),
        c_BxLxC,
        row_visibility(layout, "full"),
        rotary_angles(layout.positions_BxL, config.per_head, config.rope_theta),
    )


def halve(config: ModelConfig, at: Resolution, cells: Cells) -> Resolution:
    """Returns the Resolution of the next level, whose tokens are the cells of this one."""
    below = at._replace(
        segments_BxL=cells.first(at.segments_BxL), positions_BxL=cells.first(at.positions_BxL) // 2
    )
    return make_resolution(config, below, None if at.c_BxLxC is None else cells.mean(at.c_BxLxC))


class UNetBlock(nn.Module):
    """x + convolutions(x), then x + attention(x) if `attends`.

    There are two convolutions of three taps, each after a modulated norm and SiLU. On the way up,
    skip_BxLxD is the output of the mirror block on the way down, and is merged into x first.
    """

    config: ModelConfig
    constrain: Callable
    attend: Callable
    attends: bool

    @nn.compact
    def __call__(self, x_BxLxD, at: Resolution, skip_BxLxD=None):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if skip_BxLxD is not None:
            both_BxLx2D = jnp.concatenate([x_BxLxD, skip_BxLxD], axis=-1)
            x_BxLxD = Linear(c.width, dtype, std=(2 * c.width) ** -0.5, name="merge")(both_BxLx2D)

        # The two convolutions are one branch, with one gate.
        h_BxLxD, _ = modulated_norm(c, "in", x_BxLxD, at.c_BxLxC, gated=False)
        h_BxLx3D = with_neighbours(jax.nn.silu(h_BxLxD), at.joined_BxL)
        h_BxLxD = Linear(c.width, dtype, True, name="in_conv")(h_BxLx3D)
        h_BxLxD, gate = modulated_norm(c, "out", h_BxLxD, at.c_BxLxC)
        h_BxLx3D = with_neighbours(jax.nn.silu(h_BxLxD), at.joined_BxL)
        std = INIT_STD / (2 * c.num_layers) ** 0.5  # as layers.py:output_std
        x_BxLxD = x_BxLxD + gate * Linear(c.width, dtype, True, std, name="out_conv")(h_BxLx3D)

        if self.attends:
            h_BxLxD, gate = modulated_norm(c, "attn", x_BxLxD, at.c_BxLxC)
            attn = Attention(c, self.attend, name="attn")
            x_BxLxD = x_BxLxD + gate * attn(h_BxLxD, at.visibility, at.rotary)
        return self.constrain(x_BxLxD)
