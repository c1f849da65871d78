"""Meshes that fit the devices or are refused, and a rule for every parameter."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from dlms_jax.config import MeshConfig
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.errors import UserError
from dlms_jax.parallel import rules
from dlms_jax.parallel.mesh import batch_shards, check_rows, local_rows, make_mesh, to_global
from dlms_jax.testing import small_config
from dlms_jax.training.assembly import assemble


@pytest.mark.parametrize(
    ("asked", "shape"), [((-1, 1, 1), (8, 1, 1)), ((1, -1, 2), (1, 4, 2)), ((2, 2, 2), (2, 2, 2))]
)
def test_minus_one_takes_the_remaining_devices(asked, shape):
    mesh = make_mesh(MeshConfig(*asked))
    assert tuple(mesh.shape.values()) == (*shape, 1, 1)  # expert and sequence are 1
    assert batch_shards(mesh) == shape[0] * shape[1]
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


@pytest.mark.parametrize(
    ("asked", "devices", "message"),
    [
        ((3, 1, 1), 8, "does not fit 8 device"),
        ((-1, 3, 1), 8, "does not fit 8 device"),
        ((-1, -1, 1), 8, "only one axis can be -1"),
        ((2, 2, 2), 7, "does not fit 7 device"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(asked, devices, message):
    with pytest.raises(UserError, match=message):
        make_mesh(MeshConfig(*asked), jax.devices()[:devices])


def test_rows_that_do_not_divide_name_the_setting_and_the_fix():
    mesh = make_mesh(MeshConfig(), jax.devices()[:7])
    with pytest.raises(UserError, match=r"config.training.batch_size gives 16 .* multiple of 7"):
        check_rows(mesh, 16, "training.batch_size")
    check_rows(mesh, 14, "training.batch_size")


def test_rows_are_split_over_data_and_fsdp_and_come_back():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    x = np.arange(24).reshape(8, 3)
    sharded = to_global(x, mesh)
    assert {shard.data.shape for shard in sharded.addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(sharded, x)
    np.testing.assert_array_equal(local_rows(mesh, 8), np.arange(8))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("model", [{}, {"model__tie_embeddings": True, "model__qkv_bias": True}])
def test_every_parameter_and_moment_has_a_rule_and_matrices_are_split(optimizer, model):
    mesh = make_mesh(MeshConfig(2, 2, 2))
    config = small_config(optimizer__name=optimizer, training__ema_decay=0.9, **model)
    state = assemble(config, vocabulary_of(ByteTokenizer()), mesh).state
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        split = leaf.size // np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=int)
        name = rules.path_string(path)
        if name.endswith(("kernel", "embedding")):
            assert split == 4, name  # fsdp x tensor
    kernels = [p for p, _ in jax.tree_util.tree_leaves_with_path(state.ema)]
    assert len(kernels) == len(jax.tree.leaves(state.params))


def test_a_parameter_without_a_rule_is_an_error():
    with pytest.raises(ValueError, match="no rule for the parameter layers/gate/kernel"):
        rules.spec_of("layers/gate/kernel")


def test_a_size_that_does_not_divide_names_parameter_and_axis():
    mesh = make_mesh(MeshConfig(1, 8, 1))
    tree = {"lm_head": {"kernel": jax.ShapeDtypeStruct((36, 128), np.float32)}}
    with pytest.raises(UserError, match=r"lm_head/kernel .* 36, .* config.mesh.fsdp=8"):
        rules.shardings(tree, mesh)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """The attributes of a device that a mesh reads."""

    id: int
    process_index: int
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    slice_index: int = 0
    coords: tuple[int, ...] = (0, 0, 0)
    core_on_chip: int = 0


def fake_slices(slices, sides):
    """Returns the TPUs of several slices, four to a host, numbered as libtpu does, in random order.

    sides: chips of a slice along x, y and z.
    """
    places = [(x, y, z) for z, y, x in itertools.product(*map(range, reversed(sides)))]
    devices = [
        FakeDevice(s * len(places) + i, (s * len(places) + i) // 4, slice_index=s, coords=place)
        for s in range(slices)
        for i, place in enumerate(places)
    ]
    return [devices[i] for i in np.random.default_rng(0).permutation(len(devices))]


@pytest.mark.parametrize("slices", [2, 4])
@pytest.mark.parametrize(
    ("asked", "sides"),
    [
        ((-1, 4, 1), (2, 2, 2)),
        ((-1, 2, 4), (2, 2, 2)),
        ((-1, 8, 1), (2, 2, 2)),
        ((-1, 4, 1, 2), (2, 2, 4)),
        ((-1, 16, 1), (2, 2, 8)),
    ],
)
def test_only_data_crosses_slices(slices, asked, sides):
    """Each slice holds a range of `data` and all of every other axis; each device occurs once."""
    devices = fake_slices(slices, sides)
    mesh = make_mesh(MeshConfig(*asked), devices)
    assert set(mesh.devices.flat) == set(devices)
    slice_of = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    rows = slice_of.reshape(mesh.shape["data"], -1)
    assert (rows == rows[:, :1]).all()  # fsdp, tensor, expert and sequence stay within a slice
    expected = np.repeat(np.arange(slices), mesh.shape["data"] // slices)
    np.testing.assert_array_equal(rows[:, 0], expected)
    # All slices are laid out alike: a sum over slices joins chips at the same coordinates.
    places = np.array([device.coords for device in mesh.devices.flat]).reshape(slices, -1, 3)
    assert (places == places[:1]).all()


def test_data_that_does_not_divide_over_the_slices_is_refused():
    with pytest.raises(
        UserError, match="mesh.data=1.* does not fit 2 slices: .* make mesh.data a multiple of 2"
    ):
        make_mesh(MeshConfig(1, -1), fake_slices(2, (2, 2, 2)))


def test_data_crosses_gpu_machines_first():
    """Two machines with four GPUs each, which JAX numbers machine by machine, and one process per
    GPU: fsdp stays within a machine. (JAX gives each machine a slice_index too.)"""
    devices = [FakeDevice(i, i, "gpu", "H100", slice_index=i // 4) for i in range(8)]
    mesh = make_mesh(MeshConfig(-1, 4), devices[::-1])
    ids = np.vectorize(lambda device: device.id)(mesh.devices).reshape(2, 4)
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3], [4, 5, 6, 7]])
