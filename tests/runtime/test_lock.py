"""One run in a workdir at a time; a process that was killed leaves no lock behind."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dlms_jax.errors import UserError
from dlms_jax.runtime.lock import FILE, locked

HOLD = """
import pathlib, sys, time
from dlms_jax.runtime.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the lock of tmp_path / "run"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_workdir_in_use_names_the_process_and_a_killed_one_leaves_no_lock(tmp_path, other):
    for _ in range(2):  # the refusal leaves the owner's name as it was
        refused = pytest.raises(UserError, match=rf"in use by process {other.pid} of .*--workdir")
        with refused, locked(tmp_path / "run"):
            pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / FILE).read_text())["process"] == os.getpid()
    with locked(tmp_path / "run"):
        pass


def test_an_error_releases_it(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    refused = pytest.raises(UserError, match="in use by process")
    with locked(tmp_path), refused, locked(tmp_path):
        pass


def test_a_damaged_file_is_no_obstacle(tmp_path):
    (tmp_path / FILE).write_bytes(b"\xff{")
    with locked(tmp_path):
        pass
    with open(tmp_path / FILE, "w") as file:
        file.write("[1]")
    with locked(tmp_path), pytest.raises(UserError), locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_not_locked(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path), locked(tmp_path):
        pass
