"""Experts: equal to a loop over all of them, whatever the routing; no token dropped, no padding
routed; sizes and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
from models.small import ROWS, SMALL, forward, network, packed, times_of, tokens_of, with_change
import numpy as np
import pytest

from dlms_jax.config import ModelConfig
from dlms_jax.errors import UserError
from dlms_jax.models import ROUTER, count_parameters, expert_outputs, train_flops
from dlms_jax.models.layers import MLP
from dlms_jax.models.moe import MoE
from dlms_jax.testing import small_config

MOE = dict(experts=4, experts_per_token=2, expert_feed_forward=24)
LAYOUT = packed(((5, 5), (9, 1), (7,)))  # 2 and 5 places are padding
VALID = LAYOUT.segments_BxL > 0
X = np.random.default_rng(0).normal(size=(*VALID.shape, 32)).astype(np.float32)
ROUTINGS = {
    "2 of 4": {},
    "2 of 4, weights as they are": {"normalise_routing": False},
    "1 of 4": {"experts_per_token": 1, "normalise_routing": False},
    "4 of 4": {"experts_per_token": 4},
    "1 of 1": {"experts": 1, "experts_per_token": 1},
    "experts choose": {"routing": "expert_choice"},
}


def layer(**settings):
    """Returns (config, module, params), in which the router tells tokens apart."""
    config = ModelConfig(**SMALL | MOE | settings)
    module, rng = MoE(config, expert_outputs), np.random.default_rng(1)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, VALID)["params"], X)
    draw = lambda s: rng.normal(size=s.shape).astype(np.float32) / s.shape[-2] ** 0.5  # noqa: E731
    return config, module, jax.tree.map(draw, shapes)


def run(module, params, x_BxLxD=X, valid_BxL=VALID):
    """Returns (y_BxLxD, RouterSums)."""
    y_BxLxD, left = jax.jit(lambda p, *a: module.apply({"params": p}, *a, mutable=[ROUTER]))(
        params, x_BxLxD, valid_BxL
    )
    return y_BxLxD, left[ROUTER]["sums"]


def loop(c, params, x_BxLxD, valid_BxL):
    """The layer once more: every expert computes every token, and is weighted by 0 or more."""
    probs_BxLxE = jax.nn.softmax(x_BxLxD @ params["gate"]["kernel"])
    y_BxLxD = 0.0
    for e in range(c.experts):
        experts = params["experts"]
        gate, up, down = (experts[f"{n}_proj"]["kernel"][e] for n in ("gate", "up", "down"))
        out = (jax.nn.silu(x_BxLxD @ gate) * (x_BxLxD @ up)) @ down
        y_BxLxD += weights(c, probs_BxLxE, valid_BxL)[..., e, None] * out
    return y_BxLxD


def weights(c, probs_BxLxE, valid_BxL):
    """Returns weight_BxLxE: NumPy sorts, a row and a token or an expert at a time."""
    p = np.asarray(jax.lax.stop_gradient(probs_BxLxE))
    taken = np.zeros(p.shape, bool)
    for b, valid_L in enumerate(np.asarray(valid_BxL)):
        if c.routing == "token_choice":
            for i in np.flatnonzero(valid_L):
                taken[b, i, np.argsort(-p[b, i])[: c.experts_per_token]] = True
        else:
            number = int(np.ceil(c.experts_per_token * valid_L.sum() / c.experts))
            for e in range(c.experts):
                places = np.flatnonzero(valid_L)
                taken[b, places[np.argsort(-p[b, places, e])[:number]], e] = True
    kept = jnp.where(taken, probs_BxLxE, 0.0)
    if c.routing == "token_choice" and c.normalise_routing:
        kept = kept / jnp.maximum(kept.sum(axis=-1, keepdims=True), 1e-9)
    return kept


@pytest.mark.parametrize("name", ROUTINGS)
def test_equal_to_a_loop_over_experts_forward_and_backward(name):
    c, module, params = layer(**ROUTINGS[name])
    ct = np.random.default_rng(2).normal(size=X.shape).astype(np.float32)
    y, sums = run(module, params)
    expected, pull = jax.vjp(lambda p, x: loop(c, p, x, VALID), params, X)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)

    def total(p, x):
        return jnp.sum(ct * module.apply({"params": p}, x, VALID))

    found = jax.jit(jax.grad(total, (0, 1)))(params, X)
    for g, e in zip(jax.tree.leaves(found), jax.tree.leaves(pull(ct)), strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-3, atol=2e-5)
    assert (np.asarray(found[1])[~VALID] == 0).all() and (np.asarray(y)[~VALID] == 0).all()
    assert sums.tokens == VALID.sum()
    if name != "experts choose":
        assert sums.unrouted == 0 and sums.load_E.sum() == c.experts_per_token * VALID.sum()


def test_one_expert_is_the_dense_network():
    c, module, params = layer(experts=1, experts_per_token=1)
    dense = {name: {"kernel": p["kernel"][0]} for name, p in params["experts"].items()}
    expected = MLP(dataclasses.replace(c, feed_forward=c.expert_hidden)).apply({"params": dense}, X)
    y, sums = run(module, params)
    np.testing.assert_allclose(np.asarray(y)[VALID], expected[VALID], rtol=1e-5, atol=1e-6)
    assert sums.balance == sums.tokens  # E f P = 1


def test_nothing_is_dropped_where_all_tokens_want_one_expert():
    c, module, params = layer(experts_per_token=1, normalise_routing=False)
    x = np.abs(X)
    params = params | {"gate": {"kernel": np.eye(4, dtype=np.float32)[2] * np.ones((32, 1), "f")}}
    y, sums = run(module, params, x)
    np.testing.assert_array_equal(sums.load_E, [0, 0, VALID.sum(), 0])
    assert sums.unrouted == 0
    np.testing.assert_allclose(y, loop(c, params, x, VALID), rtol=1e-4, atol=1e-5)
    assert sums.balance / sums.tokens == pytest.approx(4.0, rel=1e-3)  # E: as uneven as can be


@pytest.mark.parametrize("routing", ["token_choice", "expert_choice"])
def test_padding_and_other_rows_change_nothing(routing):
    _, module, params = layer(routing=routing)
    y, sums = run(module, params)
    other, other_sums = run(module, params, np.where(VALID[..., None], X, 9.0))
    np.testing.assert_array_equal(y, other)
    for a, b in zip(sums, other_sums, strict=True):
        np.testing.assert_array_equal(a, b)
    changed, _ = run(module, params, with_change(X, (0, slice(None))))
    np.testing.assert_allclose(changed[1:], y[1:], rtol=1e-5, atol=1e-6)
    # Sums of rows are sums of the batch.
    parts = [run(module, params, X[b : b + 1], VALID[b : b + 1])[1] for b in range(3)]
    for whole, *rows in zip(sums, *parts, strict=True):
        np.testing.assert_allclose(whole, sum(rows), rtol=1e-5)


def test_experts_that_choose_are_equally_busy():
    """1 of 4 experts a token: each takes a quarter of a row's tokens, rounded up: 3, 3 and 2."""
    _, module, params = layer(routing="expert_choice", experts_per_token=1)
    _, sums = run(module, params)
    np.testing.assert_array_equal(sums.load_E, [8, 8, 8, 8])
    assert 0 < sums.unrouted < VALID.sum() and sums.balance == 0


def test_balance_is_that_of_switch_transformers():
    """n E sum f P of each row, by hand."""
    c, module, params = layer()
    p = np.asarray(jax.nn.softmax(X @ params["gate"]["kernel"]))
    taken = np.asarray(weights(c, jnp.asarray(p), VALID)) > 0
    expected = 0.0
    for b in range(3):
        n = VALID[b].sum()
        f, mean = taken[b].sum(axis=0) / (2 * n), p[b][VALID[b]].mean(axis=0)
        expected += n * 4 * (f * mean).sum()
    assert run(module, params)[1].balance == pytest.approx(expected, rel=1e-5)


def test_the_balance_loss_spreads_the_load():
    _, module, params = layer()
    favour = X[VALID].mean(axis=0)[:, None] * np.eye(4, dtype=np.float32)[0]
    params["gate"]["kernel"] += 0.5 * favour

    @jax.jit
    def step(p, x):
        def loss(p):
            sums = module.apply({"params": p}, x, VALID, mutable=[ROUTER])[1][ROUTER]["sums"]
            return sums.balance / sums.tokens, sums.load_E

        (value, load_E), g = jax.value_and_grad(loss, has_aux=True)(p)
        return jax.tree.map(lambda x, g: x - 1.0 * g, p, g), value, load_E

    history = []
    for _ in range(60):
        params, value, load_E = step(params, X)
        history.append((float(value), float(load_E.max() / load_E.sum())))
    assert history[-1][0] < history[0][0] - 0.05
    assert history[-1][1] < history[0][1] and history[-1][1] < 0.3


TOKENS, TIMES = tokens_of(LAYOUT), times_of(LAYOUT)


def test_documents_are_isolated_and_a_cache_changes_nothing():
    """Where tokens choose, a document's logits are its own, and a position's are what it sees."""
    model, params = network(**MOE)
    apply = forward(model, params, "causal")
    logits = np.asarray(apply(TOKENS, TIMES, LAYOUT))
    other = np.asarray(apply(with_change(TOKENS, (0, slice(5, 10))), TIMES, LAYOUT))
    np.testing.assert_array_equal(logits[0, :5], other[0, :5])
    step, cache, found = forward(model, params, "causal", "step"), model.empty_cache(3, 12), []
    for start in (0, 4, 8):
        part, start_B = slice(start, start + 4), np.full(3, start)
        found_part, cache = step(TOKENS[:, part], TIMES[:, part], LAYOUT, start_B, cache)
        found.append(found_part)
    np.testing.assert_allclose(np.concatenate(found, axis=1)[VALID], logits[VALID], atol=2e-4)


def test_scan_and_remat_change_nothing():
    def found(**settings):
        model, params = network(**MOE, **settings)

        def loss(p):
            logits, left = model.apply(
                {"params": p}, TOKENS, TIMES, LAYOUT, "full", mutable=[ROUTER]
            )
            sums = left[ROUTER]["layers"]["mlp"]["sums"]
            assert sums.load_E.shape == (2, 4)
            heard = jnp.where(VALID[..., None], jax.nn.log_softmax(logits), 0)[..., 0]
            return jnp.sum(heard) + jnp.sum(sums.balance + sums.z)

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    expected = found()
    for g, e in zip(found(scan_layers=False, remat="dots"), expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-5 * float(np.abs(e).max()))


@pytest.mark.parametrize(("remat", "kept"), [("dots", [24, 24, 32]), ("full", [])])
def test_what_the_backward_pass_finds_of_experts(remat, kept):
    """Their three products, of 2 choices of each of 36 tokens, in 2 layers; 24 is F, 32 is D."""
    model, params = network(**MOE, remat=remat)

    def loss(p):
        return jnp.sum(model.apply({"params": p}, TOKENS, TIMES, LAYOUT, "full"))

    kept_by_vjp = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
    shapes = [x.shape for x in jax.tree.leaves(kept_by_vjp)]
    assert sorted(s[-1] for s in shapes if s[:-1] == (2, 72)) == kept


def test_sizes_of_all_and_of_active_parameters():
    config = small_config(**{f"model__{key}": value for key, value in MOE.items()})
    model, params = network(**MOE, feed_forward=64)
    number = sum(x.size for x in jax.tree.leaves(params))
    assert count_parameters(config, ROWS) == number
    idle = 2 * 3 * 32 * 24 * 2  # layers, matrices, sizes, experts
    assert count_parameters(config, ROWS, active=True) == number - idle
    # Twice 24 is 48, and the router is a matrix more.
    dense = small_config(model__feed_forward=48)
    flops, expected = (train_flops(c, ROWS, 32) for c in (config, dense))
    assert flops == expected + 6 * 2 * 32 * 4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model__experts_per_token": 5}, "experts_per_token=5 should be at most .*experts=4"),
        ({"model__experts_per_token": 1}, "router gets no gradient"),
        ({"model__name": "unet"}, "experts=4 needs config.model.name=transformer"),
        ({"model__prompt_encoder": "cross_attention"}, "experts=4 needs config.model.name"),
        ({"mesh__expert": 3}, "experts=4 is not a multiple of config.mesh.expert=3"),
        ({"model__experts": 0, "mesh__expert": 2}, "mesh.expert=2 splits experts"),
        *[
            ({"model__routing": "expert_choice", "objective__name": name, "block__context": seen},
             f"objective.name={name} they are not all visible")
            for name, seen in (("autoregressive", "bidirectional"), ("block", "causal"),
                                  ("block", "bidirectional"))
        ],
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(settings, said):
    base = {f"model__{key}": value for key, value in MOE.items()}
    with pytest.raises(UserError, match=said):
        small_config(**base | settings)
