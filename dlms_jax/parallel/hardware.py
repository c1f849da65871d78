"""What this machine could do at best, and the memory that a run has taken."""

import resource
import sys
import time

import jax
import jax.numpy as jnp

# Dense bfloat16 FLOP/s of one device, from the vendors' data sheets, by jax's device_kind.
_PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops() -> tuple[float, str]:
    """Returns (FLOP/s of all devices together, where the figure is from)."""
    device = jax.devices()[0]
    if device.device_kind in _PEAK:
        return _PEAK[device.device_kind] * jax.device_count(), f"data sheet of {device.device_kind}"
    measured = measure_matmul()
    if device.platform == "cpu":  # several CPU devices share the cores that one of them used
        return measured, "this machine's measured matmul"
    return measured * jax.device_count(), f"measured matmul of {device.device_kind}"


def measure_matmul(size: int = 1024, repeats: int = 10) -> float:
    """Returns the best FLOP/s of repeated float32 products of size x size matrices."""
    a = jnp.ones((size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul)
    multiply(a, a).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak_memory() -> tuple[int, str]:
    """Returns (bytes, of what): the most that one device has held, or this process on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "of one device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of this process"
