"""Real processes that train together on this machine, and a tiny recipe for them."""

import os
import pathlib
import socket
import subprocess
import sys

from conftest import CACHE
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = """
from dlms_jax.config import default_config

def get_config():
    c = default_config()
    c.model.width, c.model.num_layers, c.model.num_heads, c.model.dtype = 32, 2, 2, "float32"
    c.model.feed_forward = 64
    c.data.corpus, c.data.sequence_length = CORPUS, 32
    c.optimizer.schedule, c.optimizer.warmup_steps = "constant", 1
    c.training.steps, c.training.batch_size, c.training.log_every = 4, 8, 1
    c.evaluation.rows = c.evaluation.final_rows = c.evaluation.batch_size = 8
    c.evaluation.every, c.evaluation.samples, c.checkpoint.every = 2, 2, 2
    c.sampling.length, c.sampling.steps = 8, 2
    return c
"""


def write_recipe(folder: pathlib.Path, recipe: str = RECIPE) -> pathlib.Path:
    """Writes a recipe and its corpus, whose path the recipe knows as CORPUS; returns its path."""
    (folder / "corpus").mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        text = " ".join(rng.choice(["to", "be", "or", "not"], 80))
        (folder / "corpus" / f"{number}.txt").write_text(text)
    path = folder / "recipe.py"
    path.write_text(f"CORPUS = {str(folder / 'corpus')!r}\n{recipe}")
    return path


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def environment(devices: int = 1) -> dict[str, str]:
    """Returns the environment of a process with a number of fake devices."""
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} "
        "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "NPROC": "32",
    }


def start(arguments, processes=1, devices=1, only=None) -> list[subprocess.Popen]:
    """Starts `python -m dlms_jax.main` in several processes.

    processes: their number. devices: fake devices of each. only: the numbers of those to start;
    None starts all.
    """
    command = [sys.executable, "-m", "dlms_jax.main", *map(str, arguments)]
    many = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    return [
        subprocess.Popen(
            [*command, *([*many, f"--process_id={process}"] if processes > 1 else [])],
            cwd=ROOT,
            env=environment(devices),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for process in (range(processes) if only is None else only)
    ]


def finish(processes, timeout=300) -> list[tuple[int, str, str]]:
    """Returns (exit status, stdout, stderr) of each process."""
    done = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            done.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return done
