"""Compare the fused cross-entropy with full logits: time and memory of loss and gradient.

    python benchmarks/cross_entropy.py

Half of the positions are masked, which is the average in masked diffusion. Both forms start from
the same hidden states. The largest difference of their gradients is printed; a test bounds it.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from timing import seconds_in_turns, temporary_bytes

from dlms_jax.denoiser.cross_entropy import fused_nll
from dlms_jax.diffusion.protocol import plain_nll
from dlms_jax.models.network import project
from dlms_jax.parallel.mesh import make_mesh


def main():
    """Runs the benchmark with command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=50_304)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()

    mesh = make_mesh()
    keys = jax.random.split(jax.random.key(0), 4)
    h = jax.random.normal(keys[0], (a.rows, a.length, a.width))
    kernel = jax.random.normal(keys[1], (a.width, a.vocabulary)) / a.width**0.5
    targets = jax.random.randint(keys[2], (a.rows, a.length), 0, a.vocabulary)
    masked = jax.random.uniform(keys[3], (a.rows, a.length)) < 0.5
    weights = masked.astype(jnp.float32)
    bias = np.zeros(a.vocabulary, np.float32)

    def plain(h, kernel):
        return plain_nll(project(h, kernel), targets, weights, bias)[0]

    def fused(h, kernel):
        return fused_nll(h, kernel, targets, weights, bias, mesh, a.chunk)[0]

    forms = {f.__name__: jax.jit(jax.value_and_grad(f, (0, 1))) for f in (plain, fused)}
    seconds = seconds_in_turns(
        {name: lambda f=f: f(h, kernel) for name, f in forms.items()}, a.repeats
    )
    memory = {name: temporary_bytes(f, h, kernel) for name, f in forms.items()}
    (_, expected), (_, gradient) = (forms[name](h, kernel) for name in ("plain", "fused"))
    error = max(
        float(jnp.linalg.norm(g - e) / jnp.linalg.norm(e))
        for g, e in zip(gradient, expected, strict=True)
    )

    device = jax.devices()[0].device_kind
    table = Table(
        title=f"loss and gradient: {a.rows} x {a.length} positions, half masked, "
        f"width {a.width}, V = {a.vocabulary}, {device}"
    )
    for column in ("form", "seconds", "temporary memory", "of plain: time", "memory"):
        table.add_column(column)
    for name in forms:
        table.add_row(
            name,
            f"{seconds[name]:.3f}",
            f"{memory[name] / 2**20:.0f} MiB",
            f"{seconds[name] / seconds['plain']:.2f}",
            f"{memory[name] / memory['plain']:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(f"largest relative difference of the gradients: {error:.1e}")


if __name__ == "__main__":
    main()
