"""The device mesh, and arrays laid out on it."""

import math

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
import numpy as np

from dlms_jax.config import MeshConfig
from dlms_jax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # both split the rows of a batch
VOCABULARY_AXIS = "tensor"


def make_mesh(config: MeshConfig | None = None, devices=None) -> Mesh:
    """Returns the mesh of a config (None: all along `data`) over all devices, or those given; every
    axis is automatic: XLA places what rules and constraints leave open."""
    config = config or MeshConfig()
    devices = jax.devices() if devices is None else devices
    shape = [getattr(config, axis) for axis in AXES]
    asked = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1:
        raise UserError(f"{asked}: only one axis can be -1 ('the rest')")
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    if math.prod(shape) != len(devices):
        raise UserError(
            f"{asked} does not fit {len(devices)} device(s); let the product be {len(devices)}, "
            "or set one axis to -1"
        )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_shards(mesh: Mesh) -> int:
    """Returns into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_rows(mesh: Mesh, rows: int, key: str):
    """Raises UserError where `rows`, which the setting `key` gives, do not divide over the mesh."""
    if rows % batch_shards(mesh):
        raise UserError(
            f"config.{key} gives {rows} rows at a time, which do not divide over the "
            f"{batch_shards(mesh)} devices of mesh axes data and fsdp; "
            f"use a multiple of {batch_shards(mesh)}"
        )


def constrain(x: jax.Array, mesh: Mesh) -> jax.Array:
    """Returns x, pinned to be split by rows along its first axis (inside jit)."""
    return jax.lax.with_sharding_constraint(x, batch_sharding(mesh))


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
