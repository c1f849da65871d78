"""The device mesh, and arrays laid out on it."""

import math

import jax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import numpy as np

from dlms_jax.config import MeshConfig
from dlms_jax.errors import UserError

AXES = ("data", "fsdp", "tensor", "expert", "sequence")
BATCH_AXES = ("data", "fsdp", "expert")  # all split the rows of a batch
VOCABULARY_AXIS = "tensor"
SEQUENCE_AXIS = "sequence"  # splits the places of each row


def make_mesh(config: MeshConfig | None = None, devices=None) -> Mesh:
    """Returns the mesh of a config (None: all along `data`) over all devices, or those given; every
    axis is automatic: XLA places what rules and constraints leave open. Where devices stand in
    several slices, `data` goes over these first: it alone speaks over the slow network."""
    devices = jax.devices() if devices is None else devices
    slices = _slices(devices)
    shape = mesh_shape(config or MeshConfig(), len(devices), slices)
    # jax.make_mesh refuses slices, several machines of GPUs (which it takes for slices), and what
    # must split a side of a three-sided slice.
    split = {"allow_split_physical_axes": True}
    if slices == 1:
        arranged = mesh_utils.create_device_mesh(shape, devices, **split)
    else:
        within = (shape[0] // slices, *shape[1:])
        across = (slices, *(1 for _ in AXES[1:]))
        arranged = mesh_utils.create_hybrid_device_mesh(within, across, devices, **split)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_shape(config: MeshConfig, devices: int, slices: int = 1) -> tuple[int, ...]:
    """Returns the sizes of a config's axes over a number of devices, in so many slices."""
    shape = [getattr(config, axis) for axis in AXES]
    asked = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1:
        raise UserError(f"{asked}: only one axis can be -1 ('the rest')")
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and devices % known == 0:
        shape[shape.index(-1)] = devices // known
    if math.prod(shape) != devices:
        raise UserError(
            f"{asked} does not fit {devices} device(s); let the product be {devices}, "
            "or set one axis to -1"
        )
    if shape[0] % slices:
        raise UserError(
            f"{asked} over {slices} slices: let mesh.data be a multiple of {slices}, for data is "
            "the axis that goes from slice to slice"
        )
    return tuple(shape)


def _slices(devices) -> int:
    """Returns in how many slices of TPUs the devices stand. (JAX gives machines of GPUs, or their
    NVLink domains, a slice_index too. They stand in its order, so the first axes go over them; but
    any axis may, for their network is fast enough.)"""
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", 0) for device in devices})


def batch_shards(mesh: Mesh) -> int:
    """Returns into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_rows(mesh: Mesh, rows: int, key: str):
    """Raises UserError where `rows`, which the setting `key` gives, do not divide over the mesh."""
    if rows % batch_shards(mesh):
        raise UserError(
            f"config.{key} gives {rows} rows at a time, which do not divide over the "
            f"{batch_shards(mesh)} devices of mesh axes data, fsdp and expert; "
            f"use a multiple of {batch_shards(mesh)}"
        )


def constrain(x: jax.Array, mesh: Mesh) -> jax.Array:
    """Returns x, pinned to be split by rows along its first axis (inside jit)."""
    return jax.lax.with_sharding_constraint(x, batch_sharding(mesh))


def constrain_places(x: jax.Array, mesh: Mesh, whole: bool = False) -> jax.Array:
    """Returns x[B, L, ...], pinned to be split by rows, and by places over `sequence` (inside jit).

    whole: not by places: keys and values, of which every query sees all (the rest stays open).
    A length that does not divide, as of a few tokens that a sampler adds, is not split.
    """
    places = places_axis(mesh, x.shape[1])
    if places is None:
        return constrain(x, mesh)
    rest = (P.UNCONSTRAINED,) * (x.ndim - 2)
    spec = P(BATCH_AXES, None, *rest) if whole else P(BATCH_AXES, places)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def places_axis(mesh: Mesh, length: int) -> str | None:
    """Returns the mesh axis that splits a row of so many places; None where none does."""
    peers = mesh.shape[SEQUENCE_AXIS]
    return SEQUENCE_AXIS if peers > 1 and length % peers == 0 else None


def check_length(mesh: Mesh, length: int):
    """Raises UserError where rows of `length` do not divide over the mesh."""
    if length % mesh.shape[SEQUENCE_AXIS]:
        raise UserError(
            f"config.data.sequence_length={length} does not divide over config.mesh.sequence="
            f"{mesh.shape[SEQUENCE_AXIS]}; change either"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def local_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """Returns the indices, in a global batch of `rows`, of the rows that this process holds."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in indices]))


def to_global(local, mesh: Mesh):
    """Returns a tree of this process's rows (NumPy) as global arrays, each device with its own."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), local)


def to_local(tree):
    """Returns a tree of global arrays as NumPy, whole, on every process; all must ask."""

    def whole(x):
        if x.is_fully_addressable:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)
