"""Two processes that train together, of which one is killed or asked to stop; a launcher's loop."""

import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

from conftest import CACHE
import jax
import numpy as np
from parallel.processes import write_recipe
import pytest
from test_commands import RECIPE, ROOT, STEPS

from dlms_jax import main
from dlms_jax.model import DiffusionLM
from dlms_jax.runtime.goodput import read_goodput
from dlms_jax.runtime.metric_writer import read_metrics

pytestmark = pytest.mark.slow
KILLS = 5


class Pair:
    """Both processes of a run, each with one CPU device; their output goes to files."""

    def __init__(self, recipe: pathlib.Path, workdir: pathlib.Path, folder: pathlib.Path, more=()):
        """more: arguments of each."""
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1", "JAX_COMPILATION_CACHE_DIR": str(CACHE),
        }  # fmt: skip
        self.outputs = [folder / f"{port}-{process}.txt" for process in (0, 1)]
        self.processes = []
        for process, output in enumerate(self.outputs):
            command = [
                sys.executable, "-m", "dlms_jax.main", f"--config={recipe}",
                f"--workdir={workdir}", f"--coordinator=localhost:{port}", "--num_processes=2",
                f"--process_id={process}", *(more[process] if more else ()),
            ]  # fmt: skip
            with open(output, "w") as file:
                self.processes.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
                    )
                )

    def wait_for_step(self, step: int):
        deadline = time.monotonic() + 300
        while not re.search(rf"^step {step}/", self.outputs[0].read_text(), re.MULTILINE):
            assert time.monotonic() < deadline and self.processes[0].poll() is None, self.text()
            time.sleep(0.02)

    def end(self, seconds: float = 300) -> list[int]:
        """Returns both exit statuses; kills what has not ended by itself in that time."""
        deadline = time.monotonic() + seconds
        try:
            return [p.wait(max(deadline - time.monotonic(), 0.1)) for p in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def text(self) -> str:
        return "\n".join(output.read_text() for output in self.outputs)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe"), RECIPE)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    pair = Pair(recipe, folder / "run", folder)
    assert pair.end() == [0, 0], pair.text()
    return folder / "run"


def assert_same_run(one, other):
    for a, b in zip(*(read_metrics(d / "metrics.csv") for d in (one, other)), strict=True):
        for column in ("step", "loss", "bound", "grad_norm", "skipped"):
            assert a[column] == b[column], (a["step"], column)
    params = (DiffusionLM.load_checkpoint(workdir).params for workdir in (one, other))
    jax.tree.map(np.testing.assert_array_equal, *params)


def test_a_run_killed_five_times_ends_with_the_bits_of_the_whole_one(recipe, whole, tmp_path):
    """kill -9 of either process after a step by chance; the other must not hang."""
    chance = random.Random(0)
    kills, step = [], 0
    while len(kills) < KILLS:
        step = chance.randint(step + 3, step + 10)
        pair = Pair(recipe, tmp_path / "run", tmp_path)
        pair.wait_for_step(step)
        victim = chance.randint(0, 1)
        pair.processes[victim].kill()
        statuses = pair.end()
        assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] not in (0, 2, None)
        kills.append((step, victim, statuses[1 - victim]))
    pair = Pair(recipe, tmp_path / "run", tmp_path)
    assert pair.end() == [0, 0], pair.text()
    assert_same_run(tmp_path / "run", whole)
    starts = read_goodput(tmp_path / "run" / "goodput.csv")
    assert len(starts) == KILLS + 1 and sum(row["repeated"] for row in starts) > 0
    print(f"killed (step, process, status of the other): {kills} of {STEPS} steps")


def test_sigterm_to_one_stops_both_at_the_same_step(recipe, whole, tmp_path):
    pair = Pair(recipe, tmp_path / "run", tmp_path)
    pair.wait_for_step(11)
    pair.processes[1].terminate()
    assert pair.end() == [main.STOPPED, main.STOPPED], pair.text()
    assert re.search(r"SIGTERM: saved step \d+; resume with", pair.outputs[0].read_text())
    pair = Pair(recipe, tmp_path / "run", tmp_path)
    assert pair.end() == [0, 0], pair.text()
    assert_same_run(tmp_path / "run", whole)


def test_the_machines_own_saves_carry_a_run_over_a_lost_machine(recipe, whole, tmp_path):
    """Between checkpoints of every 20 steps each process saves every 3 to a disk of its own. Both
    are killed. One disk is lost: the other has its part. Both are lost: the checkpoint is read."""
    disks = [tmp_path / "disk-0", tmp_path / "disk-1"]
    more = [["--config.checkpoint.every=20", "--config.checkpoint.local_every=3",
             f"--config.checkpoint.local_directory={disk}"] for disk in disks]  # fmt: skip

    def cut(step, lost):
        pair = Pair(recipe, tmp_path / "run", tmp_path, more)
        pair.wait_for_step(step)
        for process in pair.processes[::-1]:
            process.kill()
        pair.end()
        for disk in lost:
            shutil.rmtree(disk)
        return pair.outputs[0].read_text()

    cut(29, disks[1:])
    text = cut(35, disks)
    resumed = int(re.search(r"resuming .* after step (\d+)", text)[1])
    assert resumed in (24, 27) and f"step {resumed} is the machines' own save" in text, text
    pair = Pair(recipe, tmp_path / "run", tmp_path, more)
    assert pair.end() == [0, 0], pair.text()
    assert re.search(r"resuming .* after step 20\n", pair.outputs[0].read_text())
    assert_same_run(tmp_path / "run", whole)
    assert not any(disk.exists() and any(disk.iterdir()) for disk in disks)  # of no more use
