"""Layers of the networks: norms, attention, MLP, experts, conditioning, and the Transformer layer.

Array names end with their axes: B batch, L length, S length of the keys, D hidden size, H heads,
G key/value heads, K head size, V vocabulary, C size of the conditioning, E experts.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional as F


@dataclasses.dataclass
class Layout:
    """The documents, positions and prompts of the rows of a batch.

    Attributes:
        segments_BxL: the document of each token, 1, 2, ...; 0 at padding.
        positions_BxL: the position of each token in its document, from 0.
        prompt_mask_BxL: True at the tokens of a prompt.
        class_B: the class of each row; 0 for none.
        blocks_BxL: in block diffusion, the block of each token in its document.
        clean_BxL: in block diffusion, True in finished blocks, False in those being denoised.
    """

    segments_BxL: torch.Tensor
    positions_BxL: torch.Tensor
    prompt_mask_BxL: torch.Tensor
    class_B: torch.Tensor
    blocks_BxL: torch.Tensor
    clean_BxL: torch.Tensor

    def __add__(self, later: "Layout") -> "Layout":
        """Returns the layout of these positions followed by `later` ones of the same rows."""
        both = {
            field.name: torch.cat([getattr(self, field.name), getattr(later, field.name)], dim=1)
            for field in dataclasses.fields(self)
            if field.name != "class_B"
        }
        return Layout(class_B=self.class_B, **both)


def make_attention_mask(queries: Layout, keys: Layout, kind: str) -> torch.Tensor:
    """Returns mask_Bx1xLxS, True where a position of `queries` may attend to one of `keys`.

    Positions attend within their own document only. Within it, the kinds are:

    - `"full"`: all positions.
    - `"causal"`: the position itself and earlier ones.
    - `"block"` (https://arxiv.org/abs/2503.09573): the clean tokens of earlier blocks; and of its
      own block, the tokens in the same state: a token that is being denoised attends to the others
      that are, a clean token to the clean ones.
    - `"block_causal"`: the same, but a clean token attends to no clean token after itself.
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
    denoised_together = ~q_clean & ~k_clean & (k_block == q_block)
    earlier = k_clean & (k_block < q_block)
    not_after = k_position <= q_position if kind == "block_causal" else k_block <= q_block
    both_clean = q_clean & k_clean & not_after
    return (mask_BxLxS & (denoised_together | earlier | both_clean))[:, None]


class DLMRMSNorm(nn.Module):
    """RMS norm over the last axis, computed in float32 (https://arxiv.org/abs/1910.07467)."""

    def __init__(self, size, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.epsilon)
        return (y * self.weight.float()).to(x.dtype)


def rotary_angles(positions_BxL, size: int, theta: float):
    """Returns (cos, sin) of the rotary embeddings, each of shape BxLx1xK/2, in float32.

    https://arxiv.org/abs/2104.09864, equation 15.

    Args:
        positions_BxL: the position of each token.
        size: the head size K.
        theta: the base of the frequencies.
    """
    exponents = torch.arange(0, size, 2, device=positions_BxL.device, dtype=torch.float64) / size
    frequency = (theta**-exponents).float()
    angle = positions_BxL[..., None, None].float() * frequency
    return angle.cos(), angle.sin()


def rotate(x_BxLxHxK, rotary):
    """Returns queries or keys rotated by the angles of their positions.

    The halves of K form the pairs, as in Llama and Qwen ("rotate half").
    """
    cos, sin = rotary
    first, second = x_BxLxHxK.float().chunk(2, dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return rotated.to(x_BxLxHxK.dtype)


class DLMAttention(nn.Module):
    """Grouped-query attention with rotary position embeddings and optional per-head QK norm."""

    def __init__(self, config):
        super().__init__()
        size, width, bias = config.head_dim, config.hidden_size, config.qkv_bias
        self.size = size
        self.q_proj = nn.Linear(width, config.num_attention_heads * size, bias=bias)
        self.k_proj = nn.Linear(width, config.num_key_value_heads * size, bias=bias)
        self.v_proj = nn.Linear(width, config.num_key_value_heads * size, bias=bias)
        self.o_proj = nn.Linear(config.num_attention_heads * size, width, bias=False)
        norm = config.qk_norm
        self.q_norm = DLMRMSNorm(size, config.rms_norm_eps) if norm else nn.Identity()
        self.k_norm = DLMRMSNorm(size, config.rms_norm_eps) if norm else nn.Identity()

    def key_values(self, x_BxSxD, rotary):
        """Returns (k_BxSxGxK, v_BxSxGxK) of the positions that are attended to."""
        k_BxSxGxK = self.k_norm(self._split_heads(self.k_proj(x_BxSxD)))
        return rotate(k_BxSxGxK, rotary), self._split_heads(self.v_proj(x_BxSxD))

    def forward(self, x_BxLxD, key_values, mask_Bx1xLxS, rotary):
        """Returns the output of attention, of shape BxLxD.

        Args:
            x_BxLxD: the inputs of the queries.
            key_values: keys and values, from `key_values`.
            mask_Bx1xLxS: True where a query may attend to a key.
            rotary: the `rotary_angles` of the queries.
        """
        q_BxLxHxK = rotate(self.q_norm(self._split_heads(self.q_proj(x_BxLxD))), rotary)
        q, k, v = (x.transpose(1, 2) for x in (q_BxLxHxK, *key_values))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_Bx1xLxS, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def _split_heads(self, y):
        return y.unflatten(-1, (-1, self.size))


class KeyValueCache:
    """Keys and values of the positions that a model has read, for each layer.

    Attributes:
        layers: (k_BxSxGxK, v_BxSxGxK), by the number of the layer.
        layout: the [`Layout`] of these positions; `None` if there are none.
    """

    def __init__(self):
        self.layers, self.layout = {}, None

    def extend(self, layer: int, key_values, update: bool):
        """Returns the cached keys and values of a layer followed by new ones.

        Args:
            layer: the number of the layer.
            key_values: the new keys and values.
            update: whether to keep the new ones in the cache.
        """
        if layer in self.layers:
            pairs = zip(self.layers[layer], key_values, strict=True)
            key_values = tuple(torch.cat(pair, dim=1) for pair in pairs)
        if update:
            self.layers[layer] = key_values
        return key_values


class DLMMLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (https://arxiv.org/abs/2002.05202)."""

    def __init__(self, hidden_size, intermediate_size):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DLMSparseMoe(nn.Module):
    """Mixture of experts: the weighted sum of the outputs of each token's experts; 0 at padding.

    With `config.routing="token_choice"`, each token chooses the experts with the highest router
    probabilities. With `"expert_choice"` (https://arxiv.org/abs/2202.09368), each expert chooses
    the tokens of a row with the highest probabilities for it.
    """

    def __init__(self, config):
        super().__init__()
        self.number, self.routing = config.num_experts_per_tok, config.routing
        self.normalise = config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(
            DLMMLP(config.hidden_size, config.moe_intermediate_size)
            for _ in range(config.num_experts)
        )

    def forward(self, x_BxLxD, valid_BxL):
        """Returns the outputs, of shape BxLxD. valid_BxL is False at padding."""
        # The router is computed in float32, as in training: rounding must not change its choices.
        logits_BxLxE = F.linear(x_BxLxD.float(), self.gate.weight.float())
        choose = self._token_choice if self.routing == "token_choice" else self._expert_choice
        weight_BxLxE = choose(logits_BxLxE.softmax(dim=-1), valid_BxL)
        y_BxLxD = torch.zeros_like(x_BxLxD, dtype=torch.float32)
        for number, expert in enumerate(self.experts):
            row, position = weight_BxLxE[..., number].nonzero(as_tuple=True)
            if len(row):
                weight = weight_BxLxE[row, position, number, None]
                y_BxLxD[row, position] += weight * expert(x_BxLxD[row, position]).float()
        return y_BxLxD.to(x_BxLxD.dtype)

    def _token_choice(self, probs_BxLxE, valid_BxL):
        """Returns weight_BxLxE, 0 where an expert does not get a token."""
        top, chosen = probs_BxLxE.topk(self.number, dim=-1)
        if self.normalise:
            top = top / top.sum(dim=-1, keepdim=True)
        weight_BxLxE = torch.zeros_like(probs_BxLxE).scatter(-1, chosen, top)
        return weight_BxLxE * valid_BxL[..., None]

    def _expert_choice(self, probs_BxLxE, valid_BxL):
        """Returns weight_BxLxE, 0 where an expert does not get a token."""
        experts = probs_BxLxE.shape[-1]
        number_B = -(-self.number * valid_BxL.sum(dim=1) // experts)
        score = probs_BxLxE.masked_fill(~valid_BxL[..., None], -1.0)
        order = score.argsort(dim=1, descending=True, stable=True)
        rank_BxLxE = order.argsort(dim=1)
        taken = (rank_BxLxE < number_B[:, None, None]) & valid_BxL[..., None]
        return probs_BxLxE * taken


class DLMConditioning(nn.Module):
    """The conditioning vector c_BxLxC of times and classes, which `DLMModulation` reads."""

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
    """Returns cosines and sines of times at `number` / 2 periods from 0.01 to 4, in float32."""
    share = torch.arange(number // 2, device=t_BxL.device, dtype=torch.float64)
    periods = (0.01 * 400.0 ** (share / (number // 2 - 1))).float()
    angle = 2 * torch.pi * t_BxL[..., None].float() / periods
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class DLMModulation(nn.Module):
    """Scale, shift and gate of one branch of a layer, from the conditioning vector.

    Only adaLN-zero (https://arxiv.org/abs/2212.09748) has a gate; otherwise it is 1.
    """

    def __init__(self, config, gated=True):
        super().__init__()
        self.parts = 3 if gated and config.conditioning == "adaln_zero" else 2
        self.proj = nn.Linear(config.conditioning_size, self.parts * config.hidden_size)

    def forward(self, c_BxLxC):
        scale, shift, *gate = self.proj(c_BxLxC).chunk(self.parts, dim=-1)
        return 1 + scale, shift, gate[0] if gate else 1


def modulated(norm, modulation, x_BxLxD, c_BxLxC):
    """Returns (h_BxLxD, gate): the input of a branch, and the factor of the branch's output.

    Args:
        norm: the norm of the branch.
        modulation: its `DLMModulation`; `None` if the network is not conditioned.
        x_BxLxD: the residual stream.
        c_BxLxC: the conditioning vector.
    """
    h_BxLxD = norm(x_BxLxD)
    if modulation is None:
        return h_BxLxD, 1
    scale, shift, gate = modulation(c_BxLxC)
    return h_BxLxD * scale + shift, gate


class DLMLayer(nn.Module):
    """A pre-norm Transformer layer: attention, optional attention to the source, MLP or experts.

    Args:
        config: the [`DLMConfig`].
        cross: whether it attends to the source, the encoded prompt.
        conditioned: whether it is conditioned on time and class, if the network is.
    """

    def __init__(self, config, cross=False, conditioned=True):
        super().__init__()
        width, epsilon = config.hidden_size, config.rms_norm_eps
        conditioned = conditioned and config.conditioning != "none"

        def modulation():
            return DLMModulation(config) if conditioned else None

        self.input_layernorm, self.attn_modulation = DLMRMSNorm(width, epsilon), modulation()
        self.self_attn = DLMAttention(config)
        self.cross_attn = None
        if cross:
            self.cross_attn_norm = DLMRMSNorm(width, epsilon)
            self.cross_attn_modulation = modulation()
            self.cross_attn = DLMAttention(config)
        self.post_attention_layernorm = DLMRMSNorm(width, epsilon)
        self.mlp_modulation = modulation()
        if config.num_experts:
            self.mlp = DLMSparseMoe(config)
        else:
            self.mlp = DLMMLP(width, config.intermediate_size)

    def forward(self, x, c, mask, rotary, valid=None, source=None, extend=lambda kv: kv):
        """Returns the output, of shape BxLxD.

        Args:
            x: the residual stream, of shape BxLxD.
            c: the conditioning vectors, of shape BxLxC; `None` if the layer is not conditioned.
            mask: True where a position may attend to another, of shape Bx1xLxS.
            rotary: the `rotary_angles` of the positions.
            valid: False at padding, of shape BxL; experts need it.
            source: (the encoded prompt, of shape BxLxD, and its mask, of shape Bx1xLxL); `None`
                without cross-attention.
            extend: gives the keys and values to attend to, from those of `x`.
        """
        h, gate = modulated(self.input_layernorm, self.attn_modulation, x, c)
        key_values = extend(self.self_attn.key_values(h, rotary))
        x = x + gate * self.self_attn(h, key_values, mask, rotary)
        if self.cross_attn is not None:
            source_BxLxD, source_mask = source
            h, gate = modulated(self.cross_attn_norm, self.cross_attn_modulation, x, c)
            key_values = self.cross_attn.key_values(source_BxLxD, rotary)
            x = x + gate * self.cross_attn(h, key_values, source_mask, rotary)
        h, gate = modulated(self.post_attention_layernorm, self.mlp_modulation, x, c)
        return x + gate * (
            self.mlp(h, valid) if isinstance(self.mlp, DLMSparseMoe) else self.mlp(h)
        )
