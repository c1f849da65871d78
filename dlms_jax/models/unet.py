"""The U-Net denoiser: tokens or noisy embeddings -> logits, by convolutions at several resolutions.

Each level is half as long as the one above (unet_cells.py); a skip leads from every block of the
way down to its mirror on the way up. Any length will do, and documents of a row do not meet.
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
    """`UNetBlock`s on config.unet_levels levels between inputs and a head, like the Transformer's
    layers.

    Blocks differ in length and in kind, so none are scanned: config.scan_layers does not apply, nor
    do num_layers and feed_forward.
    """

    def setup(self):
        super().setup()
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        block = UNetBlock if c.remat == "none" else nn.remat(UNetBlock, policy=REMAT[c.remat])
        # What a block adds starts smaller in deeper networks (layers.py): this is the depth here.
        deep = dataclasses.replace(c, num_layers=number_of_blocks(c))

        def blocks(level):
            kind = attends(c, level)
            return [block(deep, self.constrain, self.attend, kind) for _ in range(c.unet_blocks)]

        self.down = [blocks(level) for level in range(c.unet_levels)]
        self.mid = block(deep, self.constrain, self.attend, attends(c, c.unet_levels - 1))
        self.up = [blocks(level) for level in range(c.unet_levels)]
        # These start so that they keep the size of what they read; most cells hold two tokens.
        between = range(c.unet_levels - 1)
        self.shorten = [Linear(c.width, dtype, std=(2 * c.width) ** -0.5) for _ in between]
        self.lengthen = [Linear(3 * c.width, dtype, std=c.width**-0.5) for _ in between]

    def features(self, inputs, t_BxL, layout, attention: str) -> jax.Array:
        """Returns h_BxLxD, which the head multiplies into logits.

        inputs: tokens_BxL, or (z_BxLxE, estimate_BxLxE). layout: diffusion's Layout. attention:
        "full", since convolutions see both sides.
        """
        if attention != "full":
            raise ValueError(f"a U-Net sees both sides of a token, not attention {attention!r}")
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
