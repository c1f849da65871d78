"""dlms COMMAND: all commands under one name.

    dlms train --config=tiny --workdir=runs/tiny
    dlms sample --checkpoint runs/tiny --prompt "The "

`python -m dlms_jax` is the same, and each command is also a module: `python -m dlms_jax.sample`.
"""

import importlib
import sys

from dlms_jax import __version__
from dlms_jax.errors import UserError, command_line

COMMANDS = {  # name: (module, what it does)
    "train": ("main", "train a recipe, or resume a run"),
    "prepare": ("prepare.__main__", "text -> a dataset: tokenizer, clean, chat, verify, ..."),
    "sample": ("sample", "checkpoint -> text"),
    "evaluate": ("evaluate", "checkpoint -> bits per byte of a text"),
    "convert": ("convert", "checkpoint <-> PyTorch and Hugging Face"),
    "release": ("release", "checkpoint -> archives with a demo"),
    "plan": ("plan", "recipe + TPU slice -> memory, time and cost, with no TPU"),
    "experiment": ("experiment", "a study: several runs -> tables and a figure"),
    "plot": ("plot", "metrics.csv -> PNG"),
    "recipes": ("", "list the recipes that come with the package"),
}


@command_line
def main(argv=None):
    """Runs a command; argv: its name and arguments, None for those of the process."""
    name, *rest = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
    elif name == "--version":
        print(f"dlms_jax {__version__}")
    elif name == "recipes":
        _list_recipes(rest)
    elif name in COMMANDS:
        module = importlib.import_module(f"dlms_jax.{COMMANDS[name][0]}")
        module.main(rest, prog=f"dlms {name}")
    else:
        raise UserError(f"unknown command {name}; the commands are {', '.join(COMMANDS)}")


def _help() -> str:
    lines = [f"  {name:<12}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join([
        "usage: dlms COMMAND ...", "", *lines, "",
        "dlms COMMAND --help shows the options of a command; dlms --version, the version.",
    ])  # fmt: skip


def _list_recipes(arguments):
    """Prints the bundled recipes with the first line of each docstring."""
    from dlms_jax.config import bundled

    if arguments:
        raise UserError(f"dlms recipes takes no arguments, but got {' '.join(arguments)}")
    for name, path in bundled.recipes().items():
        print(f"{name:<22}{bundled.summary(path)}")
    print("\ndlms train --config=NAME trains one; the files are in", bundled.folder())
