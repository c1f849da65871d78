"""The Transformer written once more, in numpy and float64, a row and a layer at a time."""

import numpy as np


def sees(query, key, kind: str) -> bool:
    """Returns whether a position may see another; each is (segment, position, block, clean)."""
    (segment, position, block, clean), (k_segment, k_position, k_block, k_clean) = query, key
    if segment != k_segment:
        return False
    if kind == "causal":
        return k_position <= position
    if kind == "full":
        return True
    if not clean and not k_clean:
        return block == k_block
    if not k_clean:
        return False
    if not clean:
        return k_block < block
    return k_position <= position if kind == "block_causal" else k_block <= block


def mask(queries, keys, kind: str) -> np.ndarray:
    """Returns mask_BxLxS of two layouts, by `sees` of every pair."""
    fields = ("segments_BxL", "positions_BxL", "blocks_BxL", "clean_BxL")

    def positions(layout, row):
        given = [getattr(layout, field) for field in fields]
        given = [np.zeros(layout.segments_BxL.shape, int) if x is None else x for x in given]
        return list(zip(*(np.asarray(x)[row].tolist() for x in given), strict=True))

    return np.array([
        [[sees(q, k, kind) for k in positions(keys, row)] for q in positions(queries, row)]
        for row in range(len(queries.segments_BxL))
    ])  # fmt: skip


def logits(params, c, x_BxLxD, t_BxL, layout, mask_BxLxL, source_BxLxL=None) -> np.ndarray:
    """Returns logits_BxLxV in float64 of embedded inputs; the masks: of the layers' own sequence,
    and of what an encoder reads where there is one."""
    p = _float64(params)
    return np.stack([
        _row(p, c, _float64(x_BxLxD[b]), _float64(t_BxL[b]), int(layout.class_B[b]),
             np.asarray(layout.positions_BxL[b]), mask_BxLxL[b],
             None if source_BxLxL is None else source_BxLxL[b])
        for b in range(len(x_BxLxD))
    ])  # fmt: skip


def _row(p, c, x, t, class_id, positions, own, source_mask):
    condition = None if c.conditioning == "none" else _condition(p["conditioning"], c, t, class_id)
    source = None
    if source_mask is not None:
        source = x
        for n in range(c.prompt_encoder_layers):
            source = _layer(_at(p["source_layers"], n), c, source, positions, own=source_mask)
        source = _norm(p["source_norm"], c, source), source_mask
    for n in range(c.num_layers):
        x = _layer(_at(p["layers"], n), c, x, positions, own, condition, source)
    h, _ = _modulated(p, "final", c, x, condition)
    return h @ (p["lm_head"]["kernel"] if "lm_head" in p else p["embed"]["embedding"].T)


def _layer(p, c, x, positions, own, condition=None, source=None):
    h, gate = _modulated(p, "attn", c, x, condition)
    x = x + gate * _attention(p["attn"], c, h, h, own, positions)
    if source is not None:
        h, gate = _modulated(p, "cross_attn", c, x, condition)
        x = x + gate * _attention(p["cross_attn"], c, h, *source, positions)
    h, gate = _modulated(p, "mlp", c, x, condition)
    mlp = {name: p["mlp"][name]["kernel"] for name in p["mlp"]}
    return x + gate * ((_silu(h @ mlp["gate_proj"]) * (h @ mlp["up_proj"])) @ mlp["down_proj"])


def _attention(p, c, x, source, may_see, positions):
    def heads(name, of):
        y = of @ p[name]["kernel"] + p[name].get("bias", 0)
        return y.reshape(len(of), -1, c.per_head)

    q, k, v = heads("q_proj", x), heads("k_proj", source), heads("v_proj", source)
    if c.qk_norm:
        q, k = _norm(p["q_norm"], c, q), _norm(p["k_norm"], c, k)
    q, k = _turned(q, positions, c.rope_theta), _turned(k, positions, c.rope_theta)
    y = np.zeros_like(q)
    for head in range(c.num_heads):
        group = head * c.kv_heads // c.num_heads
        score = q[:, head] @ k[:, group].T / np.sqrt(c.per_head)
        weight = np.where(may_see, np.exp(score - score.max(axis=1, keepdims=True)), 0)
        y[:, head] = weight / weight.sum(axis=1, keepdims=True) @ v[:, group]
    return y.reshape(len(x), -1) @ p["o_proj"]["kernel"]


def _turned(x, positions, theta):
    """The pair (j, j + K/2) of position p as a complex number, times exp(i p theta^(-2j/K))."""
    half = x.shape[-1] // 2
    turn = np.exp(1j * positions[:, None] * theta ** (-np.arange(half) / half))
    turned = (x[..., :half] + 1j * x[..., half:]) * turn[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1)


def _condition(p, c, t, class_id):
    periods = 0.01 * 400 ** (np.arange(64) / 63)
    angle = 2 * np.pi * t[:, None] / periods
    features = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    h = _silu(features @ p["in_proj"]["kernel"] + p["in_proj"]["bias"])
    h = h @ p["out_proj"]["kernel"] + p["out_proj"]["bias"]
    return _silu(h + p["class_embedding"][class_id] if c.classes else h)


def _modulated(p, name, c, x, condition):
    h = _norm(p[f"{name}_norm"], c, x)
    if condition is None:
        return h, 1
    proj = p[f"{name}_modulation"]["proj"]
    y = condition @ proj["kernel"] + proj["bias"]
    scale, shift, gate = y[:, : c.width], y[:, c.width : 2 * c.width], y[:, 2 * c.width :]
    return h * (1 + scale) + shift, gate if gate.size else 1


def _norm(p, c, x):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + c.norm_epsilon) * p["scale"]


def _silu(x):
    return x / (1 + np.exp(-x))


def _at(params, n):
    """The parameters of layer n."""
    return {k: _at(v, n) if isinstance(v, dict) else v[n] for k, v in params.items()}


def _float64(tree):
    if isinstance(tree, dict):
        return {k: _float64(v) for k, v in tree.items()}
    return np.asarray(tree, np.float64)
