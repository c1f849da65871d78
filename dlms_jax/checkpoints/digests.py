"""Digests of arrays that do not depend on how the arrays are split over devices.

A digest is two sums, modulo 2^32, over all elements: of mix(bits XOR mix(index + seed)), for two
seeds. mix is a bijection (the finalizer of MurmurHash3), so a change of one element always changes
both sums; larger damage goes unnoticed with a probability of about 2^-64. Sums can be taken in any
order and added up over shards, slices and processes.
"""

from collections.abc import Iterator, Mapping, Sequence
import concurrent.futures
import math
import os
from typing import Any

import jax
import numpy as np

from dlms_jax.parallel import hosts
from dlms_jax.parallel.rules import path_string

_SEEDS = (0x00000001, 0x9E3779B9)
_AT_ONCE = 1 << 15  # elements whose temporaries stay in a core's cache


def digests_of(tree: Any) -> dict[str, str]:
    """Returns the digest of each array of a tree, by its path.

    A collective: every process must call it. Each reads the shards that it holds.
    """
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        own = np.array(list(pool.map(_own_sums, leaves)))
    sums = hosts.sum_over_processes(own)
    return {path_string(path): text_of(pair) for path, pair in zip(paths, sums, strict=True)}


def damaged(tree: Any, saved: Mapping[str, str]) -> list[str]:
    """Returns the paths of the arrays of a tree whose digest is not the saved one.

    A collective, as `digests_of`.
    """
    return [path for path, digest in digests_of(tree).items() if saved.get(path) != digest]


def text_of(sums: np.ndarray) -> str:
    """Returns sums as 16 hexadecimal digits."""
    return "".join(f"{int(value):08x}" for value in sums)


def sums_of(values: np.ndarray, start: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Returns the two sums of a part of an array, as uint32.

    Args:
      values: the part.
      start: the index of its first element in the array.
      shape: the shape of the array.
    """
    sums = [0, 0]
    values = np.ascontiguousarray(values).reshape(values.shape or (1,))
    if values.dtype.itemsize > 4:
        raise TypeError(f"no digest of {values.dtype}: JAX keeps 32 bits")
    bits = values.view(f"uint{8 * values.dtype.itemsize}").reshape(-1)
    for at, index in _indices(values.shape, start or (0,), shape or (1,)):
        part = bits[at : at + len(index)].astype(np.uint32)
        for k, seed in enumerate(_SEEDS):
            mixed = _mix(part ^ _mix(index + np.uint32(seed)))
            sums[k] += int(mixed.sum(dtype=np.uint64))
    return np.array([value % 2**32 for value in sums], np.uint32)


def _own_sums(array: jax.Array | np.ndarray) -> np.ndarray:
    """Returns the sums over the parts of an array that this process holds, each once."""
    if not isinstance(array, jax.Array):
        return sums_of(np.asarray(array), (0,) * np.ndim(array), np.shape(array))
    sums = np.zeros(2, np.uint32)
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            start = [part.start or 0 for part in shard.index]
            sums += sums_of(np.asarray(shard.data), start, array.shape)
    return sums


def _indices(part: Sequence[int], start: Sequence[int], shape: Sequence[int]) -> Iterator:
    """Yields (number of elements before, linear indices in the array) of pieces of a part."""
    columns = np.arange(start[-1], start[-1] + part[-1], dtype=np.uint32)
    rows = np.zeros(1, np.uint32)
    for axis in range(len(part) - 1):
        along = np.arange(start[axis], start[axis] + part[axis], dtype=np.uint32)
        stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        rows = (rows[:, None] + along[None] * stride).reshape(-1)
    number = max(1, _AT_ONCE // max(part[-1], 1))
    for at in range(0, len(rows), number):
        index = (rows[at : at + number, None] + columns[None]).reshape(-1)
        yield at * part[-1], index


def _mix(h: np.ndarray) -> np.ndarray:
    """Returns MurmurHash3's finalizer of 32-bit words, in place."""
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h
