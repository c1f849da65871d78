"""The fused head equals the plain one: values and gradients, on any mesh."""

import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np
import pytest

from dlms_jax.config import MeshConfig
from dlms_jax.denoiser.cross_entropy import fused_nll
from dlms_jax.diffusion.protocol import plain_nll
from dlms_jax.models.network import project
from dlms_jax.parallel.mesh import batch_sharding, make_mesh

B, L, D, V = 8, 6, 16, 128
MESHES = {
    "1": dict(data=1, fsdp=1, tensor=1),
    "data 8": dict(data=8, fsdp=1, tensor=1),
    "fsdp 8": dict(data=1, fsdp=8, tensor=1),
    "tensor 4": dict(data=2, fsdp=1, tensor=4),
    "mixed": dict(data=2, fsdp=2, tensor=2),
}


def inputs(dtype=jnp.float32, scored=0.4):
    keys = jax.random.split(jax.random.key(0), 5)
    h = jax.random.normal(keys[0], (B, L, D), dtype)
    kernel = jax.random.normal(keys[1], (D, V))
    targets = jax.random.randint(keys[2], (B, L), 0, 100)
    # Very different numbers of scored positions in each row, none in some
    share = jnp.linspace(0, 2 * scored, B)[:, None]
    weights = jnp.where(jax.random.uniform(keys[3], (B, L)) < share, 1.0, 0.0)
    weights *= jax.random.uniform(keys[4], (B, L), minval=0.5, maxval=3.0)
    bias = jnp.where(jnp.arange(V) < 101, 0.0, -jnp.inf)
    return h, kernel, targets, weights, bias


def plain(h, kernel, targets, weights, bias):
    return plain_nll(project(h, kernel), targets, weights, bias)


def make_fused(name, chunk):
    shape = MESHES[name]
    devices = jax.devices()[: 1 if name == "1" else 8]
    mesh = make_mesh(MeshConfig(**shape), devices)

    def fused(h, kernel, targets, weights, bias):
        h, targets, weights = jax.device_put((h, targets, weights), batch_sharding(mesh))
        kernel = jax.device_put(kernel, NamedSharding(mesh, P("fsdp", "tensor")))
        return fused_nll(h, kernel, targets, weights, bias, mesh, chunk)

    return fused


@pytest.mark.parametrize(
    ("name", "chunk"), [("1", 1), ("1", 5), ("1", 1000), *((name, 5) for name in MESHES)]
)
def test_values_and_gradients_equal_the_plain_form(name, chunk):
    arguments = inputs()
    fused = make_fused(name, chunk)
    of_total = lambda f: lambda *a: 2.5 * f(*a)[0]  # noqa: E731  (a cotangent that is not 1)
    value, gradients = jax.jit(jax.value_and_grad(of_total(fused), (0, 1)))(*arguments)
    expected, expected_gradients = jax.value_and_grad(of_total(plain), (0, 1))(*arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(
        jax.jit(fused)(*arguments)[1], plain(*arguments)[1], rtol=1e-5, atol=1e-6
    )


def test_negative_weights_negate_total_and_gradients_exactly():
    h, kernel, targets, weights, bias = inputs()
    graded = jax.jit(jax.value_and_grad(lambda *a: make_fused("mixed", 5)(*a)[0], (0, 1)))
    for given in (weights, weights.at[::2].multiply(-1)):
        found = graded(h, kernel, targets, given, bias)
        negated = graded(h, kernel, targets, -given, bias)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, -b), found, negated)
        assert found[0] != 0


@pytest.mark.parametrize("scored", [0.0, 10.0])
def test_nothing_is_dropped_when_all_or_none_is_scored(scored):
    arguments = inputs(scored=scored)
    total, nll_BxL = jax.jit(make_fused("1", 7))(*arguments)
    expected, expected_BxL = plain(*arguments)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    np.testing.assert_allclose(nll_BxL, expected_BxL, rtol=1e-5, atol=1e-6)
    assert scored or total == 0


def test_bfloat16_gradients_stay_close_to_float32():
    h, *rest = inputs(jnp.bfloat16)
    gradient = jax.grad(lambda *a: make_fused("1", 5)(*a)[0], (0, 1))(h, *rest)
    expected = jax.grad(lambda *a: plain(*a)[0], (0, 1))(h.astype(jnp.float32), *rest)
    assert gradient[0].dtype == jnp.bfloat16 and gradient[1].dtype == jnp.float32
    for g, e in zip(gradient, expected, strict=True):
        error = np.linalg.norm(np.asarray(g, np.float32) - e) / np.linalg.norm(e)
        assert error < 0.02  # a few units in the last of bfloat16's 8 bits


def test_all_logits_never_exist():
    """The compiled program holds no array of B x L x V elements."""
    arguments = inputs()
    compiled = jax.jit(jax.grad(lambda *a: make_fused("1", 4)(*a)[0], (0, 1))).lower(*arguments)
    text = compiled.compile().as_text()
    assert f"{B * L},{V}]" not in text and f"{B},{L},{V}]" not in text
    assert f"[4,{V}]" in text


def test_the_kernels_gradient_is_scattered_along_its_width_as_the_last_axis():
    """There TPUs scatter whatever the number of columns; along the first axis they would add up all
    of a gradient of 50,304 columns (docs/scale.md)."""
    loss = lambda *a: make_fused("fsdp 8", 4)(*a)[0]  # noqa: E731
    text = jax.jit(jax.grad(loss, 1)).lower(*inputs()).compile().as_text()
    scatters = re.findall(rf"= f32\[{V},{D // 8}\]\S* reduce-scatter\(.*dimensions={{1}}", text)
    assert len(scatters) == 1
