"""The parts of the U-Net: what its levels are told, and the blocks of which they are made."""

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
    """What the blocks of a level are told of its cells (at level 0: of the tokens).

    joined_BxL: True where a cell and the one before it are of one document. c_BxLxC: what
    `Conditioning` gave. visibility, rotary: for attention. L is the length of this level.
    """

    segments_BxL: jax.Array
    positions_BxL: jax.Array
    joined_BxL: jax.Array
    c_BxLxC: jax.Array | None
    visibility: Visibility
    rotary: tuple[jax.Array, jax.Array]
    ahead_B = None  # no field: cells always see as far as there are any


def make_resolution(config: ModelConfig, layout, c_BxLxC) -> Resolution:
    """Returns the Resolution of the segments and positions of a layout."""
    return Resolution(
        layout.segments_BxL,
        layout.positions_BxL,
        joined(layout.segments_BxL),
        c_BxLxC,
        row_visibility(layout, "full"),
        rotary_angles(layout.positions_BxL, config.per_head, config.rope_theta),
    )


def halve(config: ModelConfig, at: Resolution, cells: Cells) -> Resolution:
    """Returns the Resolution of the cells of a level, conditioned on their tokens' mean c."""
    below = at._replace(
        segments_BxL=cells.first(at.segments_BxL), positions_BxL=cells.first(at.positions_BxL) // 2
    )
    return make_resolution(config, below, None if at.c_BxLxC is None else cells.mean(at.c_BxLxC))


class UNetBlock(nn.Module):
    """x + convolutions(x), then x + attention(x) where `attends`.

    Two convolutions of three taps, each of SiLU of a modulated norm. On the way up, `skip_BxLxD` is
    what the mirror of this block gave on the way down; it is merged into x first.
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
        std = INIT_STD / (2 * c.num_layers) ** 0.5  # as layers.py starts what a layer adds
        x_BxLxD = x_BxLxD + gate * Linear(c.width, dtype, True, std, name="out_conv")(h_BxLx3D)

        if self.attends:
            h_BxLxD, gate = modulated_norm(c, "attn", x_BxLxD, at.c_BxLxC)
            attn = Attention(c, self.attend, name="attn")
            x_BxLxD = x_BxLxD + gate * attn(h_BxLxD, at.visibility, at.rotary)
        return self.constrain(x_BxLxD)
