"""A kernel of attention over the mesh: each device its rows, heads and queries."""

from collections.abc import Callable

import jax
from jax.sharding import Mesh, PartitionSpec as P

from dlms_jax.parallel.mesh import BATCH_AXES, places_axis


def over_mesh(kernel: Callable, mesh: Mesh) -> Callable:
    """Returns `kernel`, a function (q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, of_keys) ->
    y_BxLxHxK, over the devices of a mesh. of_queries: a tree of x_BxL; of_keys: of x_BxS.

    Rows are split, heads along `tensor`, and along `sequence` queries, which then see the keys of
    their whole row. All of these must divide.
    """

    def run(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, of_keys):
        places = places_axis(mesh, q_BxLxHxK.shape[1])
        queries, keys = P(BATCH_AXES, places, "tensor"), P(BATCH_AXES, None, "tensor")
        on_mesh = jax.shard_map(
            kernel,
            mesh=mesh,
            in_specs=(queries, keys, keys, P(BATCH_AXES, places), P(BATCH_AXES)),
            out_specs=queries,
            check_vma=False,  # JAX's kernels do not say along which axes their results vary
        )
        return on_mesh(q_BxLxHxK, k_BxSxGxK, v_BxSxGxK, of_queries, of_keys)

    return run
