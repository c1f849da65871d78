"""Errors of a command: one line, the exit status, and nothing of Python's own."""

import os
import subprocess
import sys
import threading

import pytest

from dlms_jax.errors import UserError, command_line, one_line

PROGRAM = """
import sys, threading
from dlms_jax.errors import UserError, command_line

@command_line
def main(argv=None):
    {body}

main()
"""


def run(body, **options) -> subprocess.CompletedProcess:
    """Runs a command whose body is a statement."""
    environment = os.environ | options.pop("env", {})
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], text=True, stderr=subprocess.PIPE,
        env=environment, timeout=60, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    "body, line",
    [
        ("raise UserError('no such thing; do that')", "no such thing; do that"),
        ("open('/nowhere/at/all', 'w')", "/nowhere/at/all: No such file or directory"),
        ("raise OSError('two\\nlines')", "standard output, or a file: two"),
        ("raise PermissionError(13, 'Permission denied', 'x.npy')", "x.npy: Permission denied"),
    ],
)
def test_an_error_is_one_line(body, line):
    done = run(body, stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {line}\n")


def test_a_bug_keeps_its_traceback():
    done = run("raise ValueError('ours')", stdout=subprocess.PIPE)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_a_full_disk_behind_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = run("print('x' * 10)", stdout=full)
    assert done.returncode == 2
    assert done.stderr == "error: standard output, or a file: No space left on device\n"


def test_a_reader_that_closes_the_pipe_is_no_error():
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | head -1; echo ${PIPESTATUS[0]}', sys.executable,
         PROGRAM.format(body="[print('line', n) for n in range(100_000)]")],
        text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "line 0\n141\n" and done.stderr == ""


def test_standard_output_that_is_closed():
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" >&-', sys.executable, PROGRAM.format(body="print('x')")],
        text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_characters_that_the_encoding_lacks_are_escaped():
    done = run(
        "print('caf\\xe9 \\u2603')", stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout) == (0, "caf\\xe9 \\u2603\n")


def test_errors_of_threads_are_told_unless_the_command_fails_anyway(capsys, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)

    def fail():
        raise RuntimeError("in a thread")

    def body(argv):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        if argv:
            raise UserError("the same")

    command_line(body)([])
    assert [str(thread.exc_value) for thread in told] == ["in a thread"]
    with pytest.raises(SystemExit):
        command_line(body)(["x"])
    assert len(told) == 1 and capsys.readouterr().err == "error: the same\n"


def test_one_line_of_an_error_without_a_text():
    assert one_line(OSError()) == "standard output, or a file: OSError"
