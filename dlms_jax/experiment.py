"""Run a study: train several models, and write tables and a figure of the results.

    python -m dlms_jax.experiment family --minutes 35
    python -m dlms_jax.experiment family --minutes 10 --only gaussian

Run the same command again to continue an interrupted study.
"""

import argparse
import math
import pathlib
import sys

from dlms_jax.config import SETTINGS, add_option, load_config
from dlms_jax.config.bundled import recipe_folder
from dlms_jax.errors import UserError, command_line

STOPPED = 75  # exit status of a study that was stopped and saved (EX_TEMPFAIL)

_FAMILY = """\
Trains a small model of each process (masked, uniform, Gaussian, block, autoregressive) on the same
text for the same time. Writes a table of their held-out bits/byte, and of the quality and time of
their samples. Finished runs are not trained again, so a second command only measures samples again,
for example at another temperature.

    python -m dlms_jax.experiment family --minutes 35
    python -m dlms_jax.experiment family --minutes 35 --temperature 0.8 --out runs/family/cooler
    python -m dlms_jax.experiment family --minutes 10 --only gaussian --workdir runs/gaussian-only
"""


def _parser(prog: str) -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=raw)
    studies = parser.add_subparsers(dest="study", required=True, metavar="STUDY")
    family = studies.add_parser(
        "family", help="compare all processes", description=_FAMILY, formatter_class=raw
    )
    add = family.add_argument
    add(
        "--minutes",
        type=float,
        required=True,
        metavar="N",
        help="training time of all recipes together; each gets an equal share. "
        "Compiling, evaluating and sampling take additional time",
    )
    add("--only", metavar="NAMES", help="comma-separated recipes to run (default: all)")
    add(
        "--workdir",
        type=pathlib.Path,
        default=pathlib.Path("runs/family"),
        metavar="DIR",
        help="folder of the runs (default: runs/family)",
    )
    add(
        "--out",
        type=pathlib.Path,
        metavar="DIR",
        help="folder of the tables and the figure (default: the workdir)",
    )
    add(
        "--recipes",
        type=pathlib.Path,
        default=pathlib.Path("configs/family"),
        metavar="DIR",
        help="folder of the recipes (default: configs/family)",
    )
    how = family.add_argument_group("samples")
    how.add_argument(
        "--steps",
        default="8,32,128",
        metavar="N,N,...",
        help="numbers of sampling steps (default: 8,32,128); a block model divides them among its "
        "blocks, an autoregressive one takes one step per token",
    )
    how.add_argument(
        "--num",
        type=int,
        default=32,
        metavar="N",
        help="samples per recipe and number of steps (default: 32)",
    )
    add_option(how, "--temperature", "sampling.temperature", default=1.0)
    return parser


@command_line
def main(argv=None, prog="python -m dlms_jax.experiment"):
    """Runs the command.

    Args:
      argv: its arguments; None: those of the process.
      prog: how it was called, for --help and messages.
    """
    arguments = _parser(prog).parse_args(argv)
    if not 0 < arguments.minutes < math.inf:
        raise UserError(f"--minutes={arguments.minutes:g} should be above 0")
    if arguments.num < 2:
        raise UserError(
            f"--num={arguments.num} should be at least 2, because the second half is timed"
        )
    parse = SETTINGS["sampling.steps"].parse
    steps = tuple(parse(text, "each of --steps") for text in arguments.steps.split(","))
    recipes, only = _recipes(recipe_folder(arguments.recipes), arguments.only)

    from rich.console import Console  # after the checks: importing JAX takes seconds

    from dlms_jax.model import DiffusionLM
    from dlms_jax.runtime.interrupt import Interrupted
    from dlms_jax.studies import FamilySettings, run_family
    from dlms_jax.trainer import Trainer

    console = Console(soft_wrap=True)
    settings = FamilySettings(arguments.minutes, steps, arguments.num, arguments.temperature)
    try:
        run_family(
            recipes,
            only,
            settings,
            arguments.workdir,
            arguments.out or arguments.workdir,
            train=lambda workdir, config: Trainer(workdir, console).train(config),
            load=lambda workdir: DiffusionLM.load_checkpoint(str(workdir)),
            console=console,
        )
    except Interrupted as stopped:
        print(
            f"{stopped}\nor run the same command again to continue the whole study", file=sys.stderr
        )
        sys.exit(STOPPED)


def _recipes(folder: pathlib.Path, only: str | None):
    """Returns ({name: Config} of all recipes in a folder, the names to run)."""
    files = sorted(folder.glob("*.py"))
    if not files:
        raise UserError(
            f"--recipes={folder} has no recipe; use the folder configs/family of the repository"
        )
    names = [file.stem for file in files]
    chosen = tuple(dict.fromkeys(only.split(","))) if only is not None else tuple(names)
    for name in chosen:
        if name not in names:
            raise UserError(f"--only={only}: unknown recipe {name!r}; use {', '.join(names)}")
    return {file.stem: load_config(str(file)) for file in files}, chosen


if __name__ == "__main__":
    main()
