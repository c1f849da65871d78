"""The device mesh, and how arrays are laid out on it."""

import math

import jax
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec as P
import numpy as np

from dlms_jax.config import MeshConfig
from dlms_jax.errors import UserError

AnyMesh = Mesh | AbstractMesh  # an AbstractMesh has no devices: it is for plans
AXES = ("data", "fsdp", "tensor", "expert", "sequence")
BATCH_AXES = ("data", "fsdp", "expert")  # all three split the rows of a batch
VOCABULARY_AXIS = "tensor"
SEQUENCE_AXIS = "sequence"  # splits the positions of each row


def make_mesh(config: MeshConfig | None = None, devices=None) -> Mesh:
    """Returns the mesh of a config.

    Every axis is of type Auto: XLA shards what the rules and constraints leave open. If the devices
    belong to several TPU slices, only `data` crosses from slice to slice, because the network
    between slices is slow.

    Args:
      config: the size of each axis; None puts all devices on `data`.
      devices: the devices to use; None takes all.

    Raises:
      UserError: the sizes do not fit the number of devices or slices.
    """
    devices = jax.devices() if devices is None else devices
    slices = _slices(devices)
    shape = mesh_shape(config or MeshConfig(), len(devices), slices)
    # jax.make_mesh refuses several slices, several GPU machines (which it takes for slices), and a
    # mesh that has to split one side of a three-dimensional slice.
    split = {"allow_split_physical_axes": True}
    if slices == 1:
        arranged = mesh_utils.create_device_mesh(shape, devices, **split)
    else:
        within = (shape[0] // slices, *shape[1:])
        across = (slices, *(1 for _ in AXES[1:]))
        arranged = mesh_utils.create_hybrid_device_mesh(within, across, devices, **split)
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_shape(config: MeshConfig, devices: int, slices: int = 1) -> tuple[int, ...]:
    """Returns the size of each axis of AXES for a number of devices.

    Args:
      config: the sizes asked for; one may be -1, the remaining devices.
      devices: number of devices.
      slices: number of TPU slices that the devices belong to.

    Raises:
      UserError: the product is not the number of devices, or `data` is not a multiple of `slices`.
    """
    shape = [getattr(config, axis) for axis in AXES]
    asked = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True))
    if shape.count(-1) > 1:
        raise UserError(f"{asked}: only one axis can be -1 (the remaining devices)")
    known = math.prod(size for size in shape if size != -1)
    if -1 in shape and devices % known == 0:
        shape[shape.index(-1)] = devices // known
    if math.prod(shape) != devices:
        raise UserError(
            f"{asked} does not fit {devices} device(s); make the product {devices}, "
            "or set one axis to -1"
        )
    if shape[0] % slices:
        raise UserError(
            f"{asked} does not fit {slices} slices: only the axis data crosses slices; make "
            f"mesh.data a multiple of {slices}"
        )
    return tuple(shape)


def _slices(devices) -> int:
    """Returns the number of TPU slices that the devices belong to."""
    # JAX also gives GPU machines, or their NVLink domains, a slice_index. Any axis may cross those:
    # their network is fast enough. JAX lists them in order, so the first axes cross them.
    if devices[0].platform != "tpu":
        return 1
    return len({getattr(device, "slice_index", 0) for device in devices})


def batch_shards(mesh: AnyMesh) -> int:
    """Returns the number of parts that the rows of a batch are split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_rows(mesh: AnyMesh, rows: int, key: str):
    """Checks that a number of rows divides over the mesh.

    Args:
      mesh: the device mesh.
      rows: rows that are processed together.
      key: the setting that gives `rows`, such as "training.batch_size".

    Raises:
      UserError: the rows do not divide.
    """
    if rows % batch_shards(mesh):
        raise UserError(
            f"config.{key} gives {rows} rows at a time, which do not divide over the "
            f"{batch_shards(mesh)} devices of the mesh axes data, fsdp and expert; "
            f"use a multiple of {batch_shards(mesh)}"
        )


def constrain(x: jax.Array, mesh: AnyMesh) -> jax.Array:
    """Returns x, constrained to be split by rows along its first axis (inside jit)."""
    return jax.lax.with_sharding_constraint(x, batch_sharding(mesh))


def constrain_places(x: jax.Array, mesh: AnyMesh, whole: bool = False) -> jax.Array:
    """Returns x[B, L, ...], constrained to be split by rows and, over `sequence`, by positions.

    To be called inside jit. A length that does not divide is not split, such as that of the few
    tokens that a sampler adds.

    Args:
      x: an array of shape [B, L, ...].
      mesh: the device mesh.
      whole: whether every device keeps all positions, as attention needs for keys and values; XLA
        then chooses how to shard the last axes.
    """
    places = places_axis(mesh, x.shape[1])
    if places is None:
        return constrain(x, mesh)
    rest = (P.UNCONSTRAINED,) * (x.ndim - 2)
    spec = P(BATCH_AXES, None, *rest) if whole else P(BATCH_AXES, places)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def places_axis(mesh: AnyMesh, length: int) -> str | None:
    """Returns the mesh axis that splits rows of `length` positions; None if they are not split."""
    peers = mesh.shape[SEQUENCE_AXIS]
    return SEQUENCE_AXIS if peers > 1 and length % peers == 0 else None


def check_length(mesh: AnyMesh, length: int):
    """Checks that rows of `length` positions divide over the axis `sequence`.

    Raises:
      UserError: they do not divide.
    """
    if length % mesh.shape[SEQUENCE_AXIS]:
        raise UserError(
            f"config.data.sequence_length={length} does not divide over config.mesh.sequence="
            f"{mesh.shape[SEQUENCE_AXIS]}; change one of them"
        )


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """Returns the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, P())


def local_rows(mesh: AnyMesh, rows: int) -> np.ndarray:
    """Returns which rows of a global batch of `rows` rows this process holds, as sorted indices."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in indices]))


def to_global(local, mesh: AnyMesh):
    """Returns global arrays, of which each device holds its rows.

    Args:
      local: a tree of NumPy arrays with the rows of this process (`local_rows`).
      mesh: the device mesh.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), local)


def to_local(tree):
    """Returns a tree of global arrays as whole NumPy arrays, on every process.

    A collective: every process must call it.
    """

    def whole(x):
        if x.is_fully_addressable:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)
