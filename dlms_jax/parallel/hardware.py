"""This machine: its devices, their speed and memory, and the peak memory of this run."""

import os
import resource
import sys
import time

import jax
import jax.numpy as jnp

from dlms_jax.errors import UserError

# Dense bfloat16 FLOP/s of one device by JAX's device_kind, from the vendors' data sheets.
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


def check_backend():
    """Raises UserError if JAX finds no device, as for a JAX_PLATFORMS that is not installed."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or ["not installed"])[0]
        raise UserError(
            f"JAX finds no device with JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r} "
            f"({reason}); use JAX_PLATFORMS=cpu, or install the extra tpu or cuda12"
        ) from None


def check_memory(needed: int, what: str, remedy: str):
    """Checks that a device has the memory for arrays that are about to be made.

    Args:
      needed: their bytes on one device. The CPU's devices share the memory of this machine.
      what: what needs it, for the message.
      remedy: what to change.

    Raises:
      UserError: it has less.
    """
    if needed > (memory := device_memory()):
        raise UserError(
            f"{what} need about {needed / 2**30:,.1f} GiB, and there are "
            f"{memory / 2**30:,.1f} GiB; {remedy}"
        )


def device_memory() -> int:
    """Returns the bytes of memory of one device: its own, or on a CPU those of this machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def peak_flops() -> tuple[float, str]:
    """Returns (peak FLOP/s of all devices together, where the figure comes from).

    The figure is that of the data sheet, or is measured for devices that have no entry here.
    """
    device = jax.devices()[0]
    if device.device_kind in _PEAK:
        return _PEAK[device.device_kind] * jax.device_count(), f"data sheet of {device.device_kind}"
    measured = measure_matmul()
    if device.platform == "cpu":  # CPU devices share their cores, which the measurement used
        return measured, "this machine's measured matmul"
    return measured * jax.device_count(), f"measured matmul of {device.device_kind}"


def measure_matmul(size: int = 1024, repeats: int = 10) -> float:
    """Returns the best FLOP/s of several float32 products of two matrices.

    Args:
      size: rows and columns of each matrix.
      repeats: number of products; the fastest counts.
    """
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
    """Returns (peak bytes, "of one device" or "of this process").

    Accelerators report the peak of a device. On CPUs it is the resident memory of this process.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "of one device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of this process"
