"""Head and cross-entropy over the scored positions only, a chunk at a time.

Masked diffusion needs logits only where a token is masked. The B x L x V logits, which would be the
largest array of a training step, never exist: each device sorts its scored positions to the front
and loops over the chunks that hold them. No position is dropped. The gradients are computed in the
same pass, from the logits of each chunk (as in Liger-Kernel, arXiv 2410.10989), so the logits are
computed once.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dlms_jax.models import project
from dlms_jax.parallel.mesh import BATCH_AXES, VOCABULARY_AXIS, AnyMesh, places_axis

_HEAD = P("fsdp", VOCABULARY_AXIS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def fused_nll(h_BxLxD, kernel_DxV, targets_BxL, weights_BxL, bias_V, mesh: AnyMesh, chunk: int):
    """Returns (total, nll_BxL) of `Nll` from the last hidden states.

    Devices run different numbers of chunks, so the loop communicates only along `tensor`, where all
    devices hold the same positions. The kernel is gathered over `fsdp` before the loop and its
    gradient is scattered after it.

    Args:
      h_BxLxD: the input of the head, sharded by rows and positions.
      kernel_DxV: the head's kernel, sharded by parallel/rules.py.
      targets_BxL: the tokens to predict.
      weights_BxL: the factor of each token's loss; positions of weight 0 are skipped.
      bias_V: added to the logits.
      mesh: the device mesh.
      chunk: the number of positions in a chunk, on each device.
    """
    total, nll_BxL, _ = _on_mesh(
        h_BxLxD, kernel_DxV, targets_BxL, weights_BxL, bias_V, mesh, chunk, gradients=False
    )
    return total, nll_BxL


def _forward(h_BxLxD, kernel_DxV, targets_BxL, weights_BxL, bias_V, mesh, chunk):
    total, nll_BxL, gradients = _on_mesh(
        h_BxLxD, kernel_DxV, targets_BxL, weights_BxL, bias_V, mesh, chunk, gradients=True
    )
    return (total, nll_BxL), gradients


def _backward(mesh, chunk, gradients, cotangents):
    scale, _ = cotangents  # nll_BxL is not differentiable: see Denoiser
    dh_BxLxD, dkernel_DxV = gradients
    return (
        (scale * dh_BxLxD).astype(dh_BxLxD.dtype),
        (scale * dkernel_DxV).astype(dkernel_DxV.dtype),
        None,
        None,
        None,
    )


fused_nll.defvjp(_forward, _backward)


def _on_mesh(h, kernel, targets, weights, bias, mesh, chunk, gradients: bool):
    places = places_axis(mesh, targets.shape[1])
    split = BATCH_AXES if places is None else (*BATCH_AXES, places)
    batch = P(BATCH_AXES, places)
    local = functools.partial(_local_nll, chunk=chunk, split=split, gradients=gradients)
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(batch, P(None, VOCABULARY_AXIS), batch, batch, P(VOCABULARY_AXIS)),
        out_specs=(P(), batch, (batch, _HEAD) if gradients else ()),
        check_vma=False,
    )(h, kernel, targets, weights, jnp.asarray(bias))


def _local_nll(h_BxLxD, kernel_DxV, targets_BxL, weights_BxL, bias_V, *, chunk, split, gradients):
    """Returns one device's (total, nll_BxL, gradients).

    B and L are the device's rows and positions, V its columns of the kernel. split: the mesh axes
    that shard the positions.
    """
    shape, width = targets_BxL.shape, h_BxLxD.shape[-1]
    positions = targets_BxL.size
    chunk = min(chunk, positions)
    h_PxD = h_BxLxD.reshape(positions, width)
    targets_P, weights_P = targets_BxL.reshape(positions), weights_BxL.reshape(positions)
    kernel_DxV = kernel_DxV.astype(h_PxD.dtype)
    first_column = jax.lax.axis_index(VOCABULARY_AXIS) * kernel_DxV.shape[1]

    scored_P = weights_P != 0
    num_chunks = (jnp.sum(scored_P) + chunk - 1) // chunk
    # Scored positions first. The padding is the index `positions`, out of range: a read gives 0 and
    # a write is dropped.
    order = jnp.argsort(~scored_P, stable=True)
    order = jnp.pad(order, (0, -positions % chunk), constant_values=positions)

    def one_chunk(state):
        i, total, nll_P, *sums = state
        at_C = jax.lax.dynamic_slice_in_dim(order, i * chunk, chunk)
        h_CxD = h_PxD.at[at_C].get(mode="fill", fill_value=0)
        weights_C = weights_P.at[at_C].get(mode="fill", fill_value=0)
        columns_C = targets_P.at[at_C].get(mode="fill", fill_value=0) - first_column
        logits_CxV = project(h_CxD, kernel_DxV) + bias_V[None, :]
        nll_C, p_CxV = _softmax_nll(logits_CxV, columns_C)
        nll_C = jnp.where(weights_C != 0, nll_C, 0.0)
        total += jnp.sum(weights_C * nll_C)
        nll_P = nll_P.at[at_C].set(nll_C, mode="drop")
        if gradients:
            dh_PxD, dkernel_VxD = sums
            # A target in another device's columns matches none here, so its row is 0.
            hit_CxV = columns_C[:, None] == jnp.arange(kernel_DxV.shape[1])[None, :]
            dlogits_CxV = weights_C[:, None] * (p_CxV - hit_CxV)
            dlogits_CxV = dlogits_CxV.astype(h_PxD.dtype)
            dh_CxD = jax.lax.psum(project(dlogits_CxV, kernel_DxV.T), VOCABULARY_AXIS)
            dh_PxD = dh_PxD.at[at_C].set(dh_CxD.astype(dh_PxD.dtype), mode="drop")
            sums = dh_PxD, dkernel_VxD + project(dlogits_CxV.T, h_CxD)
        return i + 1, total, nll_P, *sums

    zero = jnp.zeros((), jnp.float32)
    state = (jnp.zeros((), num_chunks.dtype), zero, jnp.zeros(positions, jnp.float32))
    if gradients:
        state += (jnp.zeros_like(h_PxD), jnp.zeros(kernel_DxV.shape[::-1], jnp.float32))
    _, total, nll_P, *sums = jax.lax.while_loop(lambda s: s[0] < num_chunks, one_chunk, state)

    total = jax.lax.psum(total, split)
    if gradients:
        dh_PxD, dkernel_VxD = sums
        dkernel_VxD = jax.lax.psum(dkernel_VxD, tuple(axis for axis in split if axis != "fsdp"))
        # Transposed, so that the scattered axis D is the last: TPUs then reduce-scatter for any V.
        # With D first they all-reduce the whole array for some V, such as 50,304 (393 tiles).
        dkernel_VxD = jax.lax.psum_scatter(dkernel_VxD, "fsdp", scatter_dimension=1, tiled=True)
        sums = dh_PxD.reshape(*shape, width), dkernel_VxD.T
    return total, nll_P.reshape(shape), tuple(sums)


def _softmax_nll(logits_CxV, columns_C):
    """Returns (nll_C, p_CxV) of logits whose columns are sharded over `tensor`.

    columns_C are the targets' columns relative to this device's first; another device holds those
    out of range.
    """
    num_columns = logits_CxV.shape[1]
    top_C = jax.lax.pmax(jnp.max(logits_CxV, axis=1), VOCABULARY_AXIS)
    # A device may hold only unused columns, all -inf; exp(-inf - top) is then 0, as it should be.
    exp_CxV = jnp.exp(logits_CxV - top_C[:, None])
    sum_C = jax.lax.psum(jnp.sum(exp_CxV, axis=1), VOCABULARY_AXIS)
    mine_C = (columns_C >= 0) & (columns_C < num_columns)
    column_C = jnp.clip(columns_C, 0, num_columns - 1)
    target_C = jnp.take_along_axis(logits_CxV, column_C[:, None], axis=1)[:, 0]
    target_C = jax.lax.psum(jnp.where(mine_C, target_C, 0.0), VOCABULARY_AXIS)
    return jnp.log(sum_C) + top_C - target_C, exp_CxV / sum_C[:, None]
