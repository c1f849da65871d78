"""The demo's start for each system, run_demo.sh and run_demo.bat, from one list of steps."""

from collections.abc import Sequence
import dataclasses

PYTHON = (3, 11)  # the oldest that dlms_jax and its pinned packages run on


@dataclasses.dataclass(frozen=True)
class Choose:
    """Which Python: that of the variable PYTHON, else the system's."""

    about: str


@dataclasses.dataclass(frozen=True)
class Demand:
    """That this Python statement passes, or else the script ends with one line."""

    about: str
    statement: str
    otherwise: str


@dataclasses.dataclass(frozen=True)
class Run:
    """A file beside the script, with the script's arguments; its exit status is the script's."""

    about: str
    file: str


Step = Choose | Demand | Run

STEPS: tuple[Step, ...] = (
    Choose("Which Python: set PYTHON to have another one."),
    Demand(
        "It must be there, and new enough.",
        f"import sys; assert sys.version_info >= {PYTHON}",
        f"error: this needs Python {PYTHON[0]}.{PYTHON[1]} or newer; install it, or set PYTHON to "
        "where it is",
    ),
    Run("All else is in demo.py: checks, virtual environment, sampling.", "demo.py"),
)


def to_sh(steps: Sequence[Step] = STEPS) -> str:
    """Returns a script for a POSIX shell."""
    lines = ["#!/bin/sh", "# Made by dlms_jax.release from the steps that run_demo.bat has too."]
    for step in steps:
        lines += ["", f"# {step.about}", *_sh(step)]
    return "\n".join(lines) + "\n"


def to_bat(steps: Sequence[Step] = STEPS) -> str:
    """Returns a script for Windows' cmd.exe, whose lines end as there."""
    lines = [
        "@echo off",
        "rem Made by dlms_jax.release from the steps that run_demo.sh has too.",
        "setlocal",
    ]
    for step in steps:
        lines += ["", f"rem {step.about}", *_bat(step)]
    return "\r\n".join(lines) + "\r\n"


def _sh(step: Step) -> list[str]:
    match step:
        case Choose():
            return ['PYTHON="${PYTHON:-python3}"']
        case Demand():
            return [
                f'"$PYTHON" -c "{step.statement}" 2>/dev/null || {{',
                f'    echo "{step.otherwise}" >&2',
                "    exit 1",
                "}",
            ]
        case Run():
            return [f'exec "$PYTHON" "$(dirname "$0")/{step.file}" "$@"']


def _bat(step: Step) -> list[str]:
    match step:
        case Choose():
            return ["if not defined PYTHON set PYTHON=python"]
        case Demand():
            return [
                f'"%PYTHON%" -c "{step.statement}" 2>nul',
                "if errorlevel 1 (",
                f"    echo {step.otherwise} 1>&2",
                "    exit /b 1",
                ")",
            ]
        case Run():
            return [f'"%PYTHON%" "%~dp0{step.file}" %*', "exit /b %errorlevel%"]
