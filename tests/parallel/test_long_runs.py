"""Rollbacks and hangs of two real processes that train together."""

import signal
import time

import jax
import numpy as np
from parallel.processes import RECIPE, finish, start, write_recipe
import pytest

from dlms_jax.checkpoints.checkpoint import find_checkpoint, load_metadata
from dlms_jax.model import DiffusionLM
from dlms_jax.runtime.metric_writer import read_metrics
from dlms_jax.runtime.watchdog import HUNG

pytestmark = pytest.mark.slow

# The loss of the batches of steps 5 to 7 is NaN, at whatever step they are read.
POISON = """
import dataclasses
import jax.numpy as jnp
import numpy as np
from dlms_jax.runtime import setup
from dlms_jax.data.feed.dataset import build_dataset
from dlms_jax.data.feed.loader import train_batches

assemble = setup.assemble

class Poisoned:
    def __init__(self, objective, bad):
        self._objective, self._bad = objective, bad

    def __getattr__(self, name):
        return getattr(self._objective, name)

    def loss(self, denoise, batch, key, step):
        loss = self._objective.loss(denoise, batch, key, step)
        hit = jnp.isin(jnp.sum(batch.tokens_BxL), self._bad)
        return loss._replace(total=jnp.where(hit, jnp.nan, loss.total))

def poisoned(config, vocabulary, mesh):
    rows = train_batches(build_dataset(config), config, np.arange(config.training.batch_size))
    bad = np.array([int(rows[batch].tokens_RxL.sum()) for batch in range(4, 7)])
    assembly = assemble(config, vocabulary, mesh)
    return dataclasses.replace(assembly, objective=Poisoned(assembly.objective, bad))

setup.assemble = poisoned
"""
# Process 1 never gets its 8th batch.
HANG = """
import time
import jax
from dlms_jax.runtime import loop

put, given = loop.to_global, []

def to_global(local, mesh):
    given.append(1)
    if jax.process_index() == 1 and len(given) == 8:
        time.sleep(1000)
    return put(local, mesh)

loop.to_global = to_global
"""


def test_two_processes_roll_back_to_the_same_checkpoint(tmp_path):
    """They end with the same bits as one process with two devices."""
    recipe = write_recipe(tmp_path, RECIPE + POISON)
    arguments = [
        f"--config={recipe}",
        "--config.mesh.data=1",
        "--config.mesh.fsdp=2",
        "--config.training.steps=12",
        "--config.training.max_skipped_steps=3",
        "--config.evaluation.every=100",
    ]
    one = finish(start([*arguments, f"--workdir={tmp_path / 'one'}"], devices=2))
    two = finish(start([*arguments, f"--workdir={tmp_path / 'two'}"], processes=2))
    for status, out, err in one + two:
        assert status == 0, out + err
    for _, out, _ in (one[0], two[0]):
        assert "3 steps in a row, from step 5: rolling back to step 4 (1 of at most 3)" in out
    for run in ("one", "two"):
        metadata = load_metadata(find_checkpoint(tmp_path / run))
        assert metadata["rollbacks"] == [{"to": 4, "first_bad": 5, "last_bad": 7}]
    runs = [read_metrics(tmp_path / run / "metrics.csv") for run in ("one", "two")]
    assert [row["step"] for row in runs[1]] == [str(step) for step in range(1, 13)]
    for a, b in zip(*runs, strict=True):
        for column in ("loss", "grad_norm", "skipped", "rollbacks", "epoch"):
            assert a[column] == b[column], (a["step"], column)
    weights = [DiffusionLM.load_checkpoint(tmp_path / run).params for run in ("one", "two")]
    jax.tree.map(np.testing.assert_array_equal, *weights)


@pytest.fixture(scope="module")
def hanging(tmp_path_factory):
    """Arguments of a run of two processes that hangs. A short run has compiled its programs, so
    that compiling does not take as long as the watchdog waits."""
    recipe = write_recipe(tmp_path_factory.mktemp("hang"), RECIPE + HANG)
    arguments = [f"--config={recipe}", "--config.evaluation.every=1000"]
    short = [*arguments, f"--workdir={recipe.parent / 'short'}"]
    assert [done[0] for done in finish(start(short, processes=2))] == [0, 0]
    return [
        *arguments,
        "--config.training.steps=1000",
        "--config.checkpoint.every=1000",
        "--config.training.watchdog_minutes=0.35",
        "--config.training.watchdog_exit=true",
    ]


def last_steps(process: int, err: str) -> list[int]:
    """Returns the last step of each process, from the report of one of them."""
    report = next(line for line in err.splitlines() if "no step has ended for 0.35 minutes" in line)
    assert report.startswith(f"process {process}: ") and "Thread 0x" in err
    return [
        int(part.split(":")[1]) for part in report.split("last steps: ")[1].split(";")[0].split(",")
    ]


def test_two_processes_that_hang_report_where_and_end_with_their_status(hanging, tmp_path):
    done = finish(start([*hanging, f"--workdir={tmp_path / 'run'}"], processes=2))
    for process, (status, out, err) in enumerate(done):
        assert status == HUNG, out + err
        stacks = (tmp_path / f"run/logs/stacks-{process}.txt").read_text()
        assert "in to_global" in stacks if process == 1 else "in _watch" in stacks
        first, second = last_steps(process, err)
        assert second == 7 and first in (7, 8)
    assert 'recipe.py", line' in done[1][2]  # where process 1 sleeps


def test_a_process_that_does_not_answer_is_reported_with_its_last_step(hanging, tmp_path):
    """A stopped process prints nothing; the report of the other has its last step."""
    first, second = start([*hanging, f"--workdir={tmp_path / 'run'}"], processes=2)
    for line in first.stdout:
        if line.startswith("step 4/"):
            break
    second.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    status, _, err = finish([first], timeout=120)[0]
    second.send_signal(signal.SIGCONT)
    second.kill()
    assert status == HUNG and time.monotonic() - started > 21, err
    assert last_steps(0, err)[0] >= 4
