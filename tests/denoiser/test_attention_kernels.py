"""Which attention a run has, and the TPU's kernel over the devices of a mesh, interpreted."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from models.small import doubled, packed
import numpy as np
import pytest
from training.test_step import MESHES, ONE, after, assert_same_training, rows_of_text

from dlms_jax.config import MeshConfig
from dlms_jax.denoiser import attention_kernels as kernels
from dlms_jax.denoiser.attention_kernels import attention_kernel, make_attend
from dlms_jax.errors import UserError
from dlms_jax.models.attention import attend, row_visibility
from dlms_jax.models.splash import splash
from dlms_jax.parallel.mesh import AXES, make_mesh
from dlms_jax.testing import small_config


def devices(platform, compute_capability=None, **axes):
    """What is asked of a mesh whose devices are not here."""
    device = SimpleNamespace(platform=platform, compute_capability=compute_capability)
    return SimpleNamespace(devices=np.array([device], object), shape=dict.fromkeys(AXES, 1) | axes)


def choice(mesh, asked="auto", **settings):
    settings = {"data__sequence_length": 256, "model__dtype": "bfloat16"} | settings
    return attention_kernel(small_config(model__attention=asked, **settings), mesh)


def test_auto_is_the_devices_kernel_where_it_fits():
    assert choice(devices("cpu")) == "xla"
    assert choice(devices("tpu")) == "splash"
    assert choice(devices("tpu", sequence=2)) == "splash"
    assert choice(devices("tpu", sequence=2), objective__name="block") == "splash"
    assert choice(devices("gpu", "9.0")) == "cudnn"
    for misfit in (
        (devices("tpu"), {"data__sequence_length": 200}),
        (devices("tpu", sequence=4), {}),
        (devices("tpu", tensor=4), {}),  # two heads of keys
        (devices("tpu"), {"data__sequence_length": 2**16, "objective__name": "block"}),
        (devices("tpu"), {"model__name": "unet"}),
        (devices("gpu", "7.0"), {}),
        (devices("gpu", "8.0"), {"model__dtype": "float32"}),
        (devices("gpu", "8.0"), {"model__head_size": 130}),
        (devices("gpu", "8.0", sequence=2), {}),
        (devices("gpu", "8.0", tensor=4), {}),
        (devices("gpu", "8.0"), {"data__sequence_length": 255}),
        (devices("gpu", "gfx90a"), {}),
    ):
        assert choice(misfit[0], **misfit[1]) == "xla"


@pytest.mark.parametrize(
    ("asked", "mesh", "settings", "error"),
    [
        ("splash", devices("tpu"), {"data__sequence_length": 200}, "multiple of 128 .* not 200;"),
        ("splash", devices("cpu", sequence=4), {}, "device, not 64; .*mesh.sequence"),
        (
            "splash",
            devices("tpu", tensor=4),
            {},
            "num_kv_heads=2 is not a multiple of .*tensor=4",
        ),
        ("cudnn", devices("cpu"), {}, "NVIDIA GPUs of .*Ampere"),
        ("cudnn", devices("gpu", "8.0"), {"model__dtype": "float32"}, "model.dtype=float32"),
        ("cudnn", devices("gpu", "8.0"), {"model__head_size": 130}, "not 130; .*head_size"),
    ],
)
def test_a_kernel_that_does_not_fit_is_refused(asked, mesh, settings, error):
    with pytest.raises(UserError, match=f"config.model.attention={asked} .*{error}"):
        choice(mesh, asked, **settings)


def test_kernels_that_are_named_are_taken_anywhere_they_run():
    assert choice(devices("cpu"), "splash") == "splash"
    assert choice(devices("tpu"), "xla") == "xla"


def test_cudnn_is_asked_for_even_lengths_only(monkeypatch):
    asked = []
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *_, **how: asked.append(how))
    config = small_config(model__attention="cudnn", model__dtype="bfloat16")
    by_cudnn = make_attend(config, devices("gpu", "9.0"))
    visibility = row_visibility(packed(), "full")
    for queries, keys in ((12, 12), (1, 12), (6, 7)):
        by_cudnn(jnp.zeros((3, queries, 4, 8)), *jnp.zeros((2, 3, keys, 2, 8)), visibility)
    assert [how["implementation"] for how in asked] == ["cudnn", "xla", "xla"]
    assert asked[0]["mask"] is visibility.mask_Bx1xLxS


@pytest.mark.parametrize(
    "shape", [MESHES["mixed"], dict(data=2, tensor=2, sequence=2)], ids=["mixed", "sequence"]
)
def test_over_a_mesh_the_kernel_is_plain_attention_forward_and_backward(shape):
    """Block attention, whose queries are told apart by their places in the whole row."""
    config = small_config(
        model__attention="splash", data__sequence_length=128, objective__name="block"
    )
    over_mesh = make_attend(config, make_mesh(MeshConfig(**shape)))
    layout = doubled(packed(((100, 28), (128,), (7, 90), (60,)), 128), 16)
    visibility = row_visibility(layout, "block", doubled=True)
    rng = np.random.default_rng(0)
    q, k, v, weights = (
        rng.normal(size=(4, 256, heads, 16)).astype(np.float32) for heads in (4, 2, 2, 4)
    )

    def both(attention):
        def total(*x):
            return jnp.sum(weights * attention(*x, visibility))

        return jax.jit(jax.value_and_grad(total, (0, 1, 2)))(q, k, v)

    (value, gradients), (plain_value, plain_gradients) = both(over_mesh), both(attend)
    np.testing.assert_allclose(value, plain_value, rtol=1e-5)
    for gradient, plain in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(gradient, plain, atol=1e-5)


def test_rows_and_lengths_that_the_kernel_does_not_take_are_plain_attention():
    """Those of samplers: three rows over two devices, and fewer places than a tile."""
    config = small_config(model__attention="splash", data__sequence_length=128)
    over_mesh = make_attend(config, make_mesh(MeshConfig(data=2), jax.devices()[:2]))
    for rows, length in ((3, 128), (2, 40)):
        layout = packed(((length,),) * rows, length)
        visibility = row_visibility(layout, "full")
        q = np.random.default_rng(0).normal(size=(rows, length, 2, 8)).astype(np.float32)
        np.testing.assert_array_equal(over_mesh(q, q, q, visibility), attend(q, q, q, visibility))


TRAINED = {
    "block": dict(objective__name="block", block__size=16, model__remat="dots"),
    "masked": dict(model__remat="full", training__accumulation_steps=2),
    "autoregressive": dict(objective__name="autoregressive"),
    "annealed": dict(objective__shift=True, objective__anneal_steps=2),
    "gaussian": dict(objective__name="gaussian", gaussian__embedding_size=16),
    "source": dict(model__prompt_encoder="cross_attention", objective__random_context=0.5),
    "block, plain head": dict(
        objective__name="block",
        block__size=16,
        training__loss_implementation="plain",
        model__remat="none",
    ),
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("block", ONE),
        *(pytest.param(name, ONE, marks=pytest.mark.slow) for name in TRAINED if name != "block"),
        pytest.param("masked", MESHES["mixed"], marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_run_by_the_kernel_learns_what_one_by_xla_does(name, shape, monkeypatch):
    train = functools.partial(
        after, 2, shape, rows_of_text(length=128), data__sequence_length=128, **TRAINED[name]
    )
    ran = []
    monkeypatch.setattr(kernels, "splash", lambda *x: ran.append(x) or splash(*x))
    by_kernel = train(model__attention="splash")
    assert ran
    assert_same_training(by_kernel, train(model__attention="xla"))
