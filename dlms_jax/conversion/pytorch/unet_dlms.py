"""The U-Net: residual blocks of convolutions at several resolutions, over rows of documents.

Each level is half as long as the one above. A cell holds two neighbouring tokens of one document,
paired from the start of the document; the last token of a document of odd length joins the last
cell as a third. A document of one token has no cell. The n // 2 cells of a document of n tokens
that starts at column s of a row start at column s // 2. M is the number of cells.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F

from .layers_dlms import (
    DLMAttention,
    DLMModulation,
    DLMRMSNorm,
    Layout,
    make_attention_mask,
    modulated,
    rotary_angles,
)


def joined(segments_BxL):
    """Returns joined_BxL, True where a token and the one before it are of the same document."""
    same_BxL = (segments_BxL[:, 1:] == segments_BxL[:, :-1]) & (segments_BxL[:, 1:] > 0)
    return F.pad(same_BxL, (1, 0))


def with_neighbours(x_BxLxD, joined_BxL):
    """Returns x_BxLx3D: the previous token, the token and the next one; 0 beyond the document.

    A matrix times this is a convolution with a kernel of three tokens.
    """
    sides = F.pad(x_BxLxD, (0, 0, 1, 1))
    joined_BxLx1 = F.pad(joined_BxL, (0, 1))[..., None]
    before_BxLxD = sides[:, :-2].where(joined_BxLx1[:, :-1], 0)
    after_BxLxD = sides[:, 2:].where(joined_BxLx1[:, 1:], 0)
    return torch.cat([before_BxLxD, x_BxLxD, after_BxLxD], dim=-1)


class Cells:
    """The cells of the tokens of a batch.

    Args:
        segments_BxL: the document of each token; 0 at padding.

    Attributes:
        index_BxMx3: the column of each token of a cell.
        held_BxMx3: which of the three slots of a cell hold a token; none in an empty cell.
        slot_BxL: the slot of each token in its cell; -1 if it has no cell.
        cell_BxL: the cell of each token.
    """

    def __init__(self, segments_BxL):
        length = segments_BxL.shape[1]
        number = max(length // 2, 1)
        column = torch.arange(length, device=segments_BxL.device)
        inside_BxL = joined(segments_BxL)
        continues_BxL = F.pad(inside_BxL[:, 1:], (0, 1))
        start_BxL = column.where(~inside_BxL, 0).cummax(dim=1).values
        offset_BxL = column - start_BxL
        unpaired_BxL = (offset_BxL % 2 == 0) & ~continues_BxL
        third_BxL = unpaired_BxL & (offset_BxL > 0)
        self.slot_BxL = torch.where(unpaired_BxL, torch.where(third_BxL, 2, -1), offset_BxL % 2)
        self.slot_BxL = self.slot_BxL.where(segments_BxL > 0, -1)
        self.cell_BxL = start_BxL // 2 + offset_BxL // 2 - third_BxL.long()

        slots = 3 * number + 1  # the last one takes the tokens without a cell
        flat_BxL = (3 * self.cell_BxL + self.slot_BxL).where(self.slot_BxL >= 0, slots - 1)
        empty = torch.full((len(segments_BxL), slots), -1, device=column.device)
        index = empty.scatter(1, flat_BxL, column.expand_as(flat_BxL))[:, :-1]
        self.held_BxMx3 = (index >= 0).unflatten(1, (number, 3))
        self.index_BxMx3 = index.clamp(min=0).unflatten(1, (number, 3))

    def gather(self, x_BxLxD):
        """Returns x_BxMx3xD, the tokens of each cell; 0 in slots without a token."""
        rows = torch.arange(len(x_BxLxD), device=x_BxLxD.device)[:, None, None]
        return x_BxLxD[rows, self.index_BxMx3].where(self.held_BxMx3[..., None], 0)

    def first(self, x_BxL):
        """Returns x_BxM of the first token of each cell; 0 in an empty cell."""
        return self.gather(x_BxL[..., None])[:, :, 0, 0]

    def mean(self, x_BxLxD):
        """Returns x_BxMxD, the mean over the tokens of each cell; 0 in an empty cell."""
        number_BxM = self.held_BxMx3.sum(dim=2).clamp(min=1)
        return (self.gather(x_BxLxD).sum(dim=2) / number_BxM[..., None]).to(x_BxLxD.dtype)

    def spread(self, x_BxMx3xD):
        """Returns x_BxLxD, the value of each token's slot; 0 for tokens without a cell."""
        rows = torch.arange(len(x_BxMx3xD), device=x_BxMx3xD.device)[:, None]
        has_cell_BxL = self.slot_BxL >= 0
        cell_BxL = self.cell_BxL.where(has_cell_BxL, 0)
        x_BxLxD = x_BxMx3xD[rows, cell_BxL, self.slot_BxL.clamp(min=0)]
        return x_BxLxD.where(has_cell_BxL[..., None], 0)


@dataclasses.dataclass
class Resolution:
    """What the blocks of a level need to know about its cells (at level 0, its tokens).

    Attributes:
        layout: their [`Layout`].
        c_BxLxC: their conditioning vectors; `None` if the network is not conditioned.
        config: the [`DLMConfig`].
    """

    layout: Layout
    c_BxLxC: torch.Tensor | None
    config: object

    def __post_init__(self):
        layout, config = self.layout, self.config
        self.joined_BxL = joined(layout.segments_BxL)
        self.mask = make_attention_mask(layout, layout, "full")
        self.rotary = rotary_angles(layout.positions_BxL, config.head_dim, config.rope_theta)

    def halved(self, cells: Cells) -> "Resolution":
        """Returns the resolution of the cells of these tokens."""
        layout = dataclasses.replace(
            self.layout,
            segments_BxL=cells.first(self.layout.segments_BxL),
            positions_BxL=cells.first(self.layout.positions_BxL) // 2,
        )
        c = None if self.c_BxLxC is None else cells.mean(self.c_BxLxC)
        return Resolution(layout, c, self.config)


class DLMUNetBlock(nn.Module):
    """A residual block of two convolutions, optionally followed by attention.

    Args:
        config: the [`DLMConfig`].
        attends: whether the block has attention.
        merges: whether it is on the way up: it then first merges the output of its counterpart on
            the way down.
    """

    def __init__(self, config, attends, merges):
        super().__init__()
        width, epsilon = config.hidden_size, config.rms_norm_eps
        self.merge = nn.Linear(2 * width, width, bias=False) if merges else None
        self.in_norm, self.out_norm = DLMRMSNorm(width, epsilon), DLMRMSNorm(width, epsilon)
        self.in_conv, self.out_conv = nn.Linear(3 * width, width), nn.Linear(3 * width, width)
        conditioned = config.conditioning != "none"
        self.in_modulation = DLMModulation(config, gated=False) if conditioned else None
        self.out_modulation = DLMModulation(config) if conditioned else None
        self.attn = None
        if attends:
            self.attn_norm, self.attn = DLMRMSNorm(width, epsilon), DLMAttention(config)
            self.attn_modulation = DLMModulation(config) if conditioned else None

    def forward(self, x_BxLxD, at: Resolution, skip_BxLxD=None):
        """Returns the output, of shape BxLxD.

        Args:
            x_BxLxD: the residual stream.
            at: the resolution of this level.
            skip_BxLxD: the output of the counterpart on the way down.
        """
        if self.merge is not None:
            x_BxLxD = self.merge(torch.cat([x_BxLxD, skip_BxLxD], dim=-1))
        h_BxLxD, _ = modulated(self.in_norm, self.in_modulation, x_BxLxD, at.c_BxLxC)
        h_BxLxD = self.in_conv(with_neighbours(F.silu(h_BxLxD), at.joined_BxL))
        h_BxLxD, gate = modulated(self.out_norm, self.out_modulation, h_BxLxD, at.c_BxLxC)
        h_BxLxD = self.out_conv(with_neighbours(F.silu(h_BxLxD), at.joined_BxL))
        x_BxLxD = x_BxLxD + gate * h_BxLxD
        if self.attn is not None:
            h_BxLxD, gate = modulated(self.attn_norm, self.attn_modulation, x_BxLxD, at.c_BxLxC)
            key_values = self.attn.key_values(h_BxLxD, at.rotary)
            x_BxLxD = x_BxLxD + gate * self.attn(h_BxLxD, key_values, at.mask, at.rotary)
        return x_BxLxD


class DLMUNet(nn.Module):
    """A U-Net of `config.unet_levels` levels; the shortest of them have attention."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        width, levels = config.hidden_size, range(config.unet_levels)

        def block(level, merges):
            first = config.unet_levels - config.unet_attention_levels
            return DLMUNetBlock(config, level >= first, merges)

        def blocks(level, merges):
            return nn.ModuleList(block(level, merges) for _ in range(config.unet_blocks))

        self.down = nn.ModuleList(blocks(level, merges=False) for level in levels)
        self.mid = block(config.unet_levels - 1, merges=False)
        self.up = nn.ModuleList(blocks(level, merges=True) for level in levels)
        self.shorten = nn.ModuleList(nn.Linear(3 * width, width, bias=False) for _ in levels[1:])
        self.lengthen = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in levels[1:])

    def forward(self, x_BxLxD, c_BxLxC, layout: Layout):
        """Returns the output of all blocks, of shape BxLxD.

        Args:
            x_BxLxD: the embedded tokens.
            c_BxLxC: the conditioning vectors; `None` if the network is not conditioned.
            layout: the [`Layout`] of the tokens.
        """
        at = Resolution(layout, c_BxLxC, self.config)
        levels, cells, skips = [at], [], []
        for level, blocks in enumerate(self.down):
            if level:
                cells.append(Cells(at.layout.segments_BxL))
                at = at.halved(cells[-1])
                levels.append(at)
                x_BxLxD = self.shorten[level - 1](cells[-1].gather(x_BxLxD).flatten(2))
            for block in blocks:
                x_BxLxD = block(x_BxLxD, at)
                skips.append(x_BxLxD)
        x_BxLxD = self.mid(x_BxLxD, at)
        for level in reversed(range(self.config.unet_levels)):
            for block in self.up[level]:
                x_BxLxD = block(x_BxLxD, levels[level], skips.pop())
            if level:
                x_BxMx3xD = self.lengthen[level - 1](x_BxLxD).unflatten(-1, (3, -1))
                x_BxLxD = cells[level - 1].spread(x_BxMx3xD)
        return x_BxLxD
