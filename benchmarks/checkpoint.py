"""Measure how long a checkpoint delays training.

    python benchmarks/checkpoint.py
    python benchmarks/checkpoint.py --config=configs/tiny.py --saves=5

The benchmark takes some steps without a save. Then, --saves times, it starts a save, takes one
step, and takes further steps until the save is on disk. A save blocks the loop while it copies the
state. The rest happens in the background; on a CPU it shares the cores with the steps.
"""

import argparse
import pathlib
import tempfile
import time

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from steps import prepare

from dlms_jax.config import load_config
from dlms_jax.runtime.checkpoint_manager import Checkpoints


def main():
    """Runs the benchmark with command-line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/small.py", help="a recipe (%(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="steps without a save (%(default)s)")
    parser.add_argument("--saves", type=int, default=3, help="saves (%(default)s)")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    take = prepare(config).take

    def step():
        begun = time.perf_counter()
        state, metrics = take()
        jax.block_until_ready(metrics)
        return state, time.perf_counter() - begun

    step()  # compiles
    plain = [step()[1] for _ in range(arguments.steps)]
    held, with_save, writing = [], [], []
    with tempfile.TemporaryDirectory(dir=".") as folder:
        checkpoints = Checkpoints(pathlib.Path(folder), config.checkpoint, print)
        for save in range(1, arguments.saves + 1):
            state, _ = step()
            size = sum(x.nbytes for x in jax.tree.leaves(state))
            begun = time.perf_counter()
            checkpoints.save(save, state, {}, None)
            held.append(time.perf_counter() - begun)
            del state  # the next step reuses its buffers
            with_save.append(held[-1] + step()[1])
            while checkpoints.is_saving():
                writing.append(step()[1])
        checkpoints.close()

    usual = float(np.median(plain))
    table = Table(
        title=f"saving {size / 2**20:.0f} MiB of state, {arguments.config}; "
        f"{jax.devices()[0].device_kind}"
    )
    for column in ("medians", "seconds", "of a step"):
        table.add_column(column)
    for name, times in {
        "a step": plain,
        "the loop blocked by a save": held,
        "a step with a save before it": with_save,
        "a step while it is written": writing,
    }.items():
        if not times:  # each save was on disk before the next step ended
            continue
        seconds = float(np.median(times))
        table.add_row(name, f"{seconds:.3f}", f"{seconds / usual:.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
