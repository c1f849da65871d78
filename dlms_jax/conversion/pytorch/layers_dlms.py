"""The parts of the networks: norms, rotary attention, SwiGLU, what conditions on time and class.

Letters in array names: B batch, L length, D width, H heads, G key/value heads, K head size, F
feed-forward size, V vocabulary, C size of the conditioning, S length of what is attended to, E
experts.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F


@dataclasses.dataclass
class Layout:
    """What the network is told of rows besides the inputs and their times.

    segments_BxL: 0 for padding, 1, 2, ... for the documents of a row. positions_BxL: 0, 1, ...
    within each document. given_BxL: True at the tokens of a prompt. class_B: the class of a row, 0
    for none. blocks_BxL, clean_BxL: of block diffusion: the block that a token belongs to, and True
    where it is finished, False where it is being denoised.
    """

    segments_BxL: torch.Tensor
    positions_BxL: torch.Tensor
    given_BxL: torch.Tensor
    class_B: torch.Tensor
    blocks_BxL: torch.Tensor
    clean_BxL: torch.Tensor

    def __add__(self, later: "Layout") -> "Layout":
        """Returns the layout of these positions and, after them, of later ones."""
        both = {
            field.name: torch.cat([getattr(self, field.name), getattr(later, field.name)], dim=1)
            for field in dataclasses.fields(self)
            if field.name != "class_B"
        }
        return Layout(class_B=self.class_B, **both)


def attention_mask(queries: Layout, keys: Layout, kind: str) -> torch.Tensor:
    """Returns mask_Bx1xLxS, True where a position of `queries` may see one of `keys`.

    A position sees its own document only, and of it, by kind
    full: everything;
    causal: what stands at its own position or before;
    block (arXiv 2503.09573): clean tokens of the blocks before its own; where it is being denoised,
        its own block as that is being denoised; where it is clean, the clean tokens of its own;
    block_causal: the same, but of clean tokens a clean one sees none after itself.
    """

    def pairs(name):
        return getattr(queries, name)[:, :, None], getattr(keys, name)[:, None, :]

    q_segment, k_segment = pairs("segments_BxL")
    mask_BxLxS = q_segment == k_segment
    if kind == "full":
        return mask_BxLxS[:, None]
    q_position, k_position = pairs("positions_BxL")
    if kind == "causal":
        return (mask_BxLxS & (k_position <= q_position))[:, None]
    q_block, k_block = pairs("blocks_BxL")
    q_clean, k_clean = pairs("clean_BxL")
    together = ~q_clean & ~k_clean & (k_block == q_block)
    finished = k_position <= q_position if kind == "block_causal" else k_block <= q_block
    before = k_clean & (k_block < q_block)
    return (mask_BxLxS & (together | before | (q_clean & k_clean & finished)))[:, None]


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis, in float32 (arXiv 1910.07467)."""

    def __init__(self, size, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.epsilon)
        return (y * self.weight.float()).to(x.dtype)


def rotary_angles(positions_BxL, size: int, theta: float):
    """Returns (cos, sin), each BxLx1xK/2 in float32 (RoFormer arXiv 2104.09864, eq. 15)."""
    exponents = torch.arange(0, size, 2, device=positions_BxL.device, dtype=torch.float64) / size
    frequency = (theta**-exponents).float()
    angle = positions_BxL[..., None, None].float() * frequency
    return angle.cos(), angle.sin()


def rotate(x_BxLxHxK, rotary):
    """Returns x turned by its position's angles, the two halves of K as pairs (rotate-half)."""
    cos, sin = rotary
    first, second = x_BxLxHxK.float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BxLxHxK.dtype)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and optional per-head QK norm."""

    def __init__(self, config):
        super().__init__()
        size, width, bias = config.head_dim, config.hidden_size, config.qkv_bias
        self.size = size
        self.q_proj = nn.Linear(width, config.num_attention_heads * size, bias=bias)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * size, bias=bias)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * size, width, bias=False)
        norm = config.qk_norm
        self.q_norm = RMSNorm(size, config.rms_norm_eps) if norm else nn.Identity()
        self.k_norm = RMSNorm(size, config.rms_norm_eps) if norm else nn.Identity()

    def keys(self, x_BxSxD, rotary):
        """Returns (k_BxSxGxK, v_BxSxGxK) of what is attended to."""
        k_BxSxGxK = self.k_norm(self._heads(self.k_proj(x_BxSxD)))
        return rotate(k_BxSxGxK, rotary), self._heads(self.v_proj(x_BxSxD))

    def forward(self, x_BxLxD, keys, mask_Bx1xLxS, rotary):
        """Returns y_BxLxD of queries from x; keys: what `keys` returned."""
        q_BxLxHxK = rotate(self.q_norm(self._heads(self.q_proj(x_BxLxD))), rotary)
        q, k, v = (x.transpose(1, 2) for x in (q_BxLxHxK, *keys))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_Bx1xLxS, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def _heads(self, y):
        return y.unflatten(-1, (-1, self.size))


class KeyValues:
    """The keys and values of positions that were read, by layer, and the layout of these."""

    def __init__(self):
        self.layers, self.layout = {}, None

    def extend(self, layer: int, keys, keep: bool):
        """Returns the (k, v) of the positions before and these; keeps them if so asked."""
        if layer in self.layers:
            keys = tuple(
                torch.cat(pair, dim=1) for pair in zip(self.layers[layer], keys, strict=True)
            )
        if keep:
            self.layers[layer] = keys
        return keys


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, width, hidden):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """sum over a token's experts of weight * SwiGLU(x); 0 at padding, which no expert gets.

    token_choice: each token takes the experts that are likeliest for it; expert_choice (arXiv
    2202.09368): of a row's tokens, each expert those for which it is likeliest.
    """

    def __init__(self, config):
        super().__init__()
        width, hidden = config.hidden_size, config.moe_intermediate_size
        self.number, self.routing = config.num_experts_per_tok, config.routing
        self.normalise = config.norm_topk_prob
        self.gate = nn.Linear(width, config.num_experts, bias=False)
        self.experts = nn.ModuleList(MLP(width, hidden) for _ in range(config.num_experts))

    def forward(self, x_BxLxD, valid_BxL):
        # In float32, as the probabilities were learned: rounding must not decide who goes where.
        logits_BxLxE = F.linear(x_BxLxD.float(), self.gate.weight.float())
        choose = self._by_tokens if self.routing == "token_choice" else self._by_experts
        weight_BxLxE = choose(logits_BxLxE.softmax(dim=-1), valid_BxL)
        y_BxLxD = torch.zeros_like(x_BxLxD, dtype=torch.float32)
        for number, expert in enumerate(self.experts):
            row, place = weight_BxLxE[..., number].nonzero(as_tuple=True)
            if len(row):
                weight = weight_BxLxE[row, place, number, None]
                y_BxLxD[row, place] += weight * expert(x_BxLxD[row, place]).float()
        return y_BxLxD.to(x_BxLxD.dtype)

    def _by_tokens(self, probs_BxLxE, valid_BxL):
        """Returns weight_BxLxE, 0 where an expert has not the token."""
        top, chosen = probs_BxLxE.topk(self.number, dim=-1)
        if self.normalise:
            top = top / top.sum(dim=-1, keepdim=True)
        weight_BxLxE = torch.zeros_like(probs_BxLxE).scatter(-1, chosen, top)
        return weight_BxLxE * valid_BxL[..., None]

    def _by_experts(self, probs_BxLxE, valid_BxL):
        experts = probs_BxLxE.shape[-1]
        number_B = -(-self.number * valid_BxL.sum(dim=1) // experts)
        score = probs_BxLxE.masked_fill(~valid_BxL[..., None], -1.0)
        order = score.argsort(dim=1, descending=True, stable=True)
        rank_BxLxE = order.argsort(dim=1)
        taken = (rank_BxLxE < number_B[:, None, None]) & valid_BxL[..., None]
        return probs_BxLxE * taken


class Conditioning(nn.Module):
    """(t_BxL, class_B) -> c_BxLxC, which `Modulation` reads."""

    FEATURES = 128

    def __init__(self, config):
        super().__init__()
        size = config.conditioning_size
        self.in_proj = nn.Linear(self.FEATURES, size)
        self.out_proj = nn.Linear(size, size)
        if config.class_names:
            self.class_embedding = nn.Parameter(torch.zeros(len(config.class_names) + 1, size))

    def forward(self, t_BxL, class_B):
        features = time_features(t_BxL, self.FEATURES).to(self.in_proj.weight.dtype)
        c_BxLxC = self.out_proj(F.silu(self.in_proj(features)))
        if hasattr(self, "class_embedding"):
            c_BxLxC = c_BxLxC + self.class_embedding[class_B][:, None]
        return F.silu(c_BxLxC)


def time_features(t_BxL, number: int):
    """Returns cosines and sines of t at `number` / 2 periods from 0.01 to 4, in float32."""
    share = torch.arange(number // 2, device=t_BxL.device, dtype=torch.float64)
    periods = (0.01 * 400.0 ** (share / (number // 2 - 1))).float()
    angle = 2 * torch.pi * t_BxL[..., None].float() / periods
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class Modulation(nn.Module):
    """c_BxLxC -> scale, shift and (adaLN-zero, arXiv 2212.09748) gate of one branch of a layer."""

    def __init__(self, config, gated=True):
        super().__init__()
        self.parts = 3 if gated and config.conditioning == "adaln_zero" else 2
        self.proj = nn.Linear(config.conditioning_size, self.parts * config.hidden_size)

    def forward(self, c_BxLxC):
        scale, shift, *gate = self.proj(c_BxLxC).chunk(self.parts, dim=-1)
        return 1 + scale, shift, gate[0] if gate else 1


def modulated(norm, modulation, x_BxLxD, c_BxLxC):
    """Returns (h_BxLxD, gate): what a branch reads, the norm of x, scaled and shifted by time and
    class, and what the branch's output is multiplied by. modulation: None where there is none."""
    h_BxLxD = norm(x_BxLxD)
    if modulation is None:
        return h_BxLxD, 1
    scale, shift, gate = modulation(c_BxLxC)
    return h_BxLxD * scale + shift, gate
