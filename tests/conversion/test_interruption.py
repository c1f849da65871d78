"""A conversion that is stopped leaves no result, and the same command works again."""

import os
import signal
import subprocess
import sys
import time

from conversion.exported import random_checkpoint, tree_of
import numpy as np
import pytest

from dlms_jax.conversion.export import export
from dlms_jax.conversion.export_source import open_export_source

pytestmark = pytest.mark.slow

# Files of OUT.unfinished that exist while a conversion is running.
MIDDLE = {"to-torch": "part-*", "from-torch": "checkpoints/*tmp*/params*/*"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """100 MB: enough to be interrupted while writing."""
    return random_checkpoint(
        tmp_path_factory.mktemp("source") / "run",
        model__width=512,
        model__num_layers=10,
        model__num_heads=8,
        model__num_kv_heads=8,
        model__feed_forward=1024,
    )


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export(source, folder, verify=False)
    return folder


@pytest.fixture
def start(source, exported, tmp_path):
    """A function that starts a conversion to tmp_path/out."""
    given = {
        "to-torch": ["--checkpoint", source.folder, "--shard-size", "5MB"],
        "from-torch": ["--model", exported],
    }

    def run(command):
        arguments = [command, *given[command], "--out", tmp_path / "out", "--no-verify"]
        return subprocess.Popen(
            [sys.executable, "-m", "dlms_jax.convert", *map(str, arguments)],
            text=True,
            env=os.environ | {"XLA_FLAGS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return run


def stop_in_the_middle(process, folder, command, how):
    """Sends a signal to a process once it has written something; returns its (stdout, stderr)."""
    deadline = time.monotonic() + 120
    while not any((folder / "out.unfinished").glob(MIDDLE[command])):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)
    process.send_signal(how)
    return process.communicate(timeout=120)


@pytest.mark.parametrize("command", MIDDLE)
def test_a_killed_conversion_leaves_no_result_and_works_again(command, start, source, tmp_path):
    process = start(command)
    stop_in_the_middle(process, tmp_path, command, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["out.unfinished"]
    again = start(command)
    printed, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert "out.unfinished, which an interrupted command had left" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    if command == "from-torch":
        before, after = tree_of(source), tree_of(open_export_source(tmp_path / "out"))
        for path in before:
            np.testing.assert_array_equal(before[path], after[path])


@pytest.mark.parametrize("command", MIDDLE)
def test_an_interrupted_conversion_leaves_nothing(command, start, tmp_path):
    process = start(command)
    _, errors = stop_in_the_middle(process, tmp_path, command, signal.SIGINT)
    assert process.returncode == 130 and errors == "interrupted\n"
    assert list(tmp_path.iterdir()) == []
