"""Runs an attention kernel on a mesh: each device computes its rows, heads and queries."""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P

from dlms_jax.parallel.mesh import BATCH_AXES, AnyMesh, places_axis


def over_mesh(kernel: Callable, mesh: AnyMesh) -> Callable:
    """Returns an attention kernel that runs on all devices of a mesh.

    Rows are split over the batch axes, heads over `tensor`, and queries over `sequence`; every
    query sees the keys of its whole row. The sizes must divide.

    Args:
      kernel: (q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, of_keys) -> y_BxLxHxK, where of_queries
        is a tree of arrays x_BxL and of_keys a tree of arrays x_BxS.
      mesh: the device mesh.
    """

    def run(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, of_keys):
        places = places_axis(mesh, q_BxLxHxK.shape[1])
        queries, keys = P(BATCH_AXES, places, "tensor"), P(BATCH_AXES, None, "tensor")
        on_mesh = jax.shard_map(
            kernel,
            mesh=mesh,
            in_specs=(queries, keys, keys, P(BATCH_AXES, places), P(BATCH_AXES)),
            out_specs=queries,
            check_vma=False,  # JAX's kernels do not state along which axes their results vary
        )
        return on_mesh(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, of_keys)

    return run
