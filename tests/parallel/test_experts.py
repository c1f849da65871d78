"""Experts over devices: the same outputs, gradients and training; no device holds all experts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.test_step import after, assert_same_training, build, rows_of_text

from dlms_jax.config import MeshConfig
from dlms_jax.models import expert_outputs
from dlms_jax.models.moe import token_choice
from dlms_jax.parallel.experts import over_experts
from dlms_jax.parallel.mesh import make_mesh, to_global
from dlms_jax.training.router import METRICS

MESHES = {
    "expert 8": dict(data=1, fsdp=1, tensor=1, expert=8),
    "expert 4, data 2": dict(data=2, fsdp=1, tensor=1, expert=4),
    "expert 2, fsdp 2, tensor 2": dict(data=1, fsdp=2, tensor=2, expert=2),
}
MOE = dict(
    model__experts=8,
    model__experts_per_token=2,
    model__expert_feed_forward=40,
    model__load_balance_weight=0.3,
    model__z_loss_weight=0.1,
)


WITH_SEQUENCE = MESHES | {
    "expert 2, sequence 2, data 2": dict(data=2, fsdp=1, tensor=1, expert=2, sequence=2)
}


@pytest.mark.parametrize("shape", WITH_SEQUENCE.values(), ids=WITH_SEQUENCE)
@pytest.mark.parametrize("rows", [8, 3])
def test_outputs_and_gradients_are_those_of_one_device(shape, rows):
    """A sampler may have 3 rows, which divide over no mesh here."""
    rng, mesh = np.random.default_rng(0), make_mesh(MeshConfig(**shape))
    normal = lambda *s: rng.normal(size=s).astype(np.float32)  # noqa: E731
    x, logits, ct = normal(rows, 6, 8), normal(rows, 6, 8), normal(rows, 6, 8)
    kernels = [normal(8, 8, 4), normal(8, 8, 4), normal(8, 4, 8)]
    valid = rng.random((rows, 6)) < 0.8

    def both(outputs):
        def loss(x, logits, kernels):
            choice = token_choice(jax.nn.softmax(logits), valid, 3, True)
            y = outputs(x, choice, kernels)
            return jnp.sum(ct * y), y

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(x, logits, kernels)

    found, expected = both(over_experts(expert_outputs, mesh)), both(expert_outputs)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_training_is_the_same_on_every_mesh_and_accumulated():
    """Loss (with both router losses, at weights that matter), gradients, weights and statistics."""
    reference = after(2, **MOE)
    for name, parts in (("expert 4, data 2", 2), ("expert 2, fsdp 2, tensor 2", 1)):
        shape = MESHES[name]
        found = after(2, shape, training__accumulation_steps=parts, **MOE)
        assert_same_training(found, reference)
        for step, expected in zip(found[1], reference[1], strict=True):
            for metric in METRICS:
                assert step[metric] == pytest.approx(expected[metric], rel=1e-4), metric
    assert reference[1][0]["load_balance"] > 1 and reference[1][0]["router_z"] > 0


@pytest.mark.parametrize("shape", list(MESHES.values())[1:], ids=list(MESHES)[1:])
def test_no_device_holds_all_experts(shape):
    """Neither in the state nor anywhere in the compiled step: no array has the shape of a kernel of
    all 8 experts (of one layer or both; in or out; whole or split over tensor)."""
    state, step, _, mesh = build(shape, **MOE)
    rows = to_global(rows_of_text(), mesh)
    for tree in (state.params, state.optimizer):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if "experts" in jax.tree_util.keystr(path):
                assert leaf.addressable_shards[0].data.size == leaf.size // (8 // shape["data"])
                assert leaf.addressable_shards[0].data.shape[1] == 8 // shape["expert"]
    text = step.lower(state, (), rows).compile().as_text()
    shapes = {tuple(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+)\]", text)}
    kernels = {s for s in shapes if sorted(s[-2:]) in ([32, 40], [20, 32], [16, 40], [16, 20])}
    kernels = {s for s in kernels if len(s) in (3, 4)}
    assert any(s[-3] == 8 // shape["expert"] for s in kernels)
    assert not any(s[-3] == 8 for s in kernels), kernels


def test_the_rest_of_the_network_is_not_computed_twice():
    """The axis of experts splits rows too."""
    mesh = make_mesh(MeshConfig(**MESHES["expert 8"]))
    rows = to_global(rows_of_text(), mesh)
    assert rows.tokens_RxL.addressable_shards[0].data.shape == (2, 32)
