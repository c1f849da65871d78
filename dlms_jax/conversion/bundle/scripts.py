"""The start of the demo on each system, run_demo.sh and run_demo.bat, from one list of steps."""

from collections.abc import Sequence
import dataclasses

PYTHON = (3, 11)  # the oldest version that dlms_jax and its pinned packages support


@dataclasses.dataclass(frozen=True)
class Choose:
    """Chooses the Python: that of the variable PYTHON, else the system's."""

    comment: str


@dataclasses.dataclass(frozen=True)
class Require:
    """Runs a Python statement; if it fails, the script prints one line and ends with status 1."""

    comment: str
    statement: str
    error: str


@dataclasses.dataclass(frozen=True)
class Run:
    """Runs a file beside the script with the script's arguments; ends with its exit status."""

    comment: str
    file: str


Step = Choose | Require | Run

STEPS: tuple[Step, ...] = (
    Choose("Set the variable PYTHON to use another Python."),
    Require(
        "Python must be there, and new enough.",
        f"import sys; assert sys.version_info >= {PYTHON}",
        f"error: this needs Python {PYTHON[0]}.{PYTHON[1]} or newer; install it, or set PYTHON to "
        "its path",
    ),
    Run("demo.py checks the files, makes the virtual environment and samples.", "demo.py"),
)


def to_sh(steps: Sequence[Step] = STEPS) -> str:
    """Returns the steps as a script for a POSIX shell."""
    lines = ["#!/bin/sh", "# Made by dlms_jax.release from the same steps as run_demo.bat."]
    for step in steps:
        lines += ["", f"# {step.comment}", *_sh(step)]
    return "\n".join(lines) + "\n"


def to_bat(steps: Sequence[Step] = STEPS) -> str:
    """Returns the steps as a script for cmd.exe, with the line ends of Windows."""
    lines = [
        "@echo off",
        "rem Made by dlms_jax.release from the same steps as run_demo.sh.",
        "setlocal",
    ]
    for step in steps:
        lines += ["", f"rem {step.comment}", *_bat(step)]
    return "\r\n".join(lines) + "\r\n"


def _sh(step: Step) -> list[str]:
    match step:
        case Choose():
            return ['PYTHON="${PYTHON:-python3}"']
        case Require():
            return [
                f'"$PYTHON" -c "{step.statement}" 2>/dev/null || {{',
                f'    echo "{step.error}" >&2',
                "    exit 1",
                "}",
            ]
        case Run():
            return [f'exec "$PYTHON" "$(dirname "$0")/{step.file}" "$@"']


def _bat(step: Step) -> list[str]:
    match step:
        case Choose():
            return ["if not defined PYTHON set PYTHON=python"]
        case Require():
            return [
                f'"%PYTHON%" -c "{step.statement}" 2>nul',
                "if errorlevel 1 (",
                f"    echo {step.error} 1>&2",
                "    exit /b 1",
                ")",
            ]
        case Run():
            return [f'"%PYTHON%" "%~dp0{step.file}" %*', "exit /b %errorlevel%"]
