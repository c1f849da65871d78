"""The U-Net denoiser: tokens or noisy embeddings -> logits, by convolutions at several resolutions.

Each level is half as long as the one before (unet_cells.py). A skip connection leads from every
block on the way down to its mirror on the way up. Rows may have any length, and no information
passes between the documents of a row.
"""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp

from dlms_jax.models.layers import REMAT, Linear
from dlms_jax.models.network import Network
from dlms_jax.models.unet_blocks import UNetBlock, halve, make_resolution
from dlms_jax.models.unet_cells import make_cells
from dlms_jax.models.unet_sizes import attends, number_of_blocks


class UNet(Network):
    """`UNetBlock`s at config.unet_levels resolutions.

    The blocks differ in length and kind, so they are never scanned: config.scan_layers does not
    apply; neither do num_layers and feed_forward.
    """

    def setup(self):
        super().setup()
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        block = UNetBlock if c.remat == "none" else nn.remat(UNetBlock, policy=REMAT[c.remat])
        # The initial std of a block's output depends on the depth (layers.py:output_std).
        deep = dataclasses.replace(c, num_layers=number_of_blocks(c))

        def blocks(level):
            kind = attends(c, level)
            return [block(deep, self.constrain, self.attend, kind) for _ in range(c.unet_blocks)]

        self.down = [blocks(level) for level in range(c.unet_levels)]
        self.mid = block(deep, self.constrain, self.attend, attends(c, c.unet_levels - 1))
        self.up = [blocks(level) for level in range(c.unet_levels)]
        # Initialised to keep the variance of their inputs; most cells hold two tokens.
        between = range(c.unet_levels - 1)
        self.shorten = [Linear(c.width, dtype, std=(2 * c.width) ** -0.5) for _ in between]
        self.lengthen = [Linear(3 * c.width, dtype, std=c.width**-0.5) for _ in between]

    def features(self, inputs, t_BxL, layout, attention: str) -> jax.Array:
        """Returns h_BxLxD, the input of the head.

        Args:
          inputs: tokens_BxL, or (z_BxLxE, estimate_BxLxE).
          t_BxL: the time of each token.
          layout: a `diffusion.Layout`.
          attention: "full", since the convolutions read both sides of a token.

        Raises:
          ValueError: the attention is not "full".
        """
        if attention != "full":
            raise ValueError(f"a U-Net has attention 'full', not {attention!r}")
        c = self.config
        x_BxLxD = self.constrain(self.embed(inputs))
        c_BxLxC = self.conditioning(t_BxL, layout.class_B)
        at = make_resolution(c, layout, c_BxLxC)
        levels, cells, skips = [at], [], []
        for level, blocks in enumerate(self.down):
            if level:
                cells.append(make_cells(at.segments_BxL))
                at = halve(c, at, cells[-1])
                levels.append(at)
                x_BxMx3xD = cells[-1].gather(x_BxLxD)
                x_BxLxD = self.shorten[level - 1](x_BxMx3xD.reshape(*x_BxMx3xD.shape[:2], -1))
            for block in blocks:
                x_BxLxD = block(x_BxLxD, at)
                skips.append(x_BxLxD)
        x_BxLxD = self.mid(x_BxLxD, at)
        for level in reversed(range(c.unet_levels)):
            for block in self.up[level]:
                x_BxLxD = block(x_BxLxD, levels[level], skips.pop())
            if level:
                x_BxMx3D = self.lengthen[level - 1](x_BxLxD)
                x_BxMx3xD = x_BxMx3D.reshape(*x_BxMx3D.shape[:2], 3, -1)
                x_BxLxD = cells[level - 1].spread(x_BxMx3xD)
        return self.finish(x_BxLxD, c_BxLxC)
