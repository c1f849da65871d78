"""Experts on the mesh axis `expert`: each device holds some of them, and none holds all."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dlms_jax.parallel.mesh import BATCH_AXES, AnyMesh, batch_shards

_ROWS = P(BATCH_AXES)
_IN, _OUT = P("expert", "fsdp", "tensor"), P("expert", "tensor", "fsdp")  # as rules.py has them
_KERNELS = [_IN, _IN, _OUT]


def over_experts(outputs: Callable, mesh: AnyMesh) -> Callable:
    """Returns `outputs` for all devices of a mesh, as (x_BxLxD, choice, kernels) -> y_BxLxD.

    The devices along `expert` hold different rows and different experts. Each gathers the rows of
    all, computes what its experts add to them, and the sums return to the devices that hold the
    rows: an all-gather and a reduce-scatter of activations. Their sizes do not depend on the
    routing, so no token is dropped. Along `fsdp` the kernels of an expert are gathered; along
    `tensor` F is split. The devices along `sequence` all compute whole rows: that axis splits
    attention, not experts.

    Args:
      outputs: (x_BxLxD, choice, [gate_ExDxF, up_ExDxF, down_ExFxD], first) -> y_BxLxD, which
        models/moe.py describes; `first` is the number of the first expert that it holds.
      mesh: the device mesh.
    """

    def local(x_BxLxD, choice, kernels):
        gather = lambda x, axis, along: jax.lax.all_gather(x, along, axis=axis, tiled=True)  # noqa: E731
        x_BxLxD, choice = jax.tree.map(lambda x: gather(x, 0, "expert"), (x_BxLxD, choice))
        kernels = [
            gather(kernel, spec.index("fsdp"), "fsdp")
            for kernel, spec in zip(kernels, map(tuple, _KERNELS), strict=True)
        ]
        first = jax.lax.axis_index("expert") * len(kernels[0])
        y_BxLxD = jax.lax.psum(outputs(x_BxLxD, choice, kernels, first), "tensor")
        return jax.lax.psum_scatter(y_BxLxD, "expert", scatter_dimension=0, tiled=True)

    on_mesh = jax.shard_map(local, mesh=mesh, in_specs=(_ROWS, _ROWS, _KERNELS), out_specs=_ROWS)

    def run(x_BxLxD, choice, kernels):
        rows = len(x_BxLxD)
        more = -rows % batch_shards(mesh)  # the rows of a sampler need not divide
        pad = lambda x: jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1))  # noqa: E731
        if more:
            x_BxLxD, choice = jax.tree.map(pad, (x_BxLxD, choice))
        return on_mesh(x_BxLxD, choice, kernels)[:rows]

    return run
