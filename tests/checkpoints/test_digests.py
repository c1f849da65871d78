"""Digests: the same for any split of an array, another after any change of an element."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np
import pytest

from dlms_jax.checkpoints.digests import damaged, digests_of, sums_of, text_of

DTYPES = ("float32", "bfloat16", "int32", "uint32", "int8", "bool", "float16")


def array(dtype, shape=(6, 4, 16), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 50).astype(dtype)


def formula(x) -> str:
    """The definition, with Python's integers, an element at a time."""

    def mix(h):
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
        return h ^ h >> 16

    x = np.asarray(x)
    bits = x.view(f"uint{8 * x.dtype.itemsize}").reshape(-1).tolist()
    sums = [
        sum(mix(b ^ mix((i + seed) % 2**32)) for i, b in enumerate(bits)) % 2**32
        for seed in (1, 0x9E3779B9)
    ]
    return "".join(f"{value:08x}" for value in sums)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_digest_is_its_definition_for_any_split(dtype):
    x = array(dtype)
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    expected = formula(x)
    for spec in (P(), P("a"), P(None, "b"), P("a", None, "b"), P(None, None, ("a", "b"))):
        split = jax.device_put(x, NamedSharding(mesh, spec))
        assert digests_of({"x": split}) == {"x": expected}, spec
    assert digests_of({"x": np.asarray(x)}) == {"x": expected}


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (1, 1, 1), (70_001,), (3, 40_000)])
def test_shapes_of_any_kind(shape):
    x = array("float32", shape)
    assert digests_of([x]) == {"0": formula(x)}


def test_slices_add_up():
    x = np.asarray(array("float32", (5, 300)))
    parts = [sums_of(x[i : i + 2], (i, 0), x.shape) for i in range(0, 5, 2)]
    assert text_of(np.sum(parts, axis=0, dtype=np.uint32)) == formula(x)


def test_a_flip_of_any_bit_and_an_exchange_are_seen():
    x = np.asarray(array("float32", (4, 8)))
    saved = digests_of({"a": {"x": x}, "y": x[:2]})
    for element in range(x.size):
        for bit in range(32):
            flipped = x.copy()
            flipped.reshape(-1).view(np.uint32)[element] ^= np.uint32(1 << bit)
            assert damaged({"a": {"x": flipped}, "y": x[:2]}, saved) == ["a/x"]
    for changed in (x[::-1], x.reshape(8, 4)[:, ::-1].reshape(4, 8), np.zeros_like(x), x + 1):
        assert damaged({"a": {"x": changed}, "y": x[:2]}, saved) == ["a/x"]
    assert damaged({"a": {"x": x}, "y": x[:2], "z": x}, saved) == ["z"]
    assert damaged({"a": {"x": x}, "y": x[:2]}, saved) == []
