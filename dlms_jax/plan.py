"""Estimate the memory and time of a recipe's train step on a TPU slice, without a TPU.

    python -m dlms_jax.plan --config=configs/large.py --topology=v5p:4x4x4
    python -m dlms_jax.plan --config=configs/large.py --topology=v6e:16x16 --slices=2 \\
        --config.mesh.data=2 --json

If the TPU compiler is installed (pip install 'dlms_jax[plan]'), this compiles the train step of a
run for the topology. Otherwise it estimates by formula. It reads no corpus and downloads nothing.
docs/scale.md explains what is counted and what is assumed.
"""

import argparse
import json
import sys

from dlms_jax.config import load_config
from dlms_jax.errors import command_line
from dlms_jax.main import read_overrides
from dlms_jax.planning.chips import parse_topology
from dlms_jax.planning.environment import have_libtpu, set_environment


@command_line
def main(argv=None, prog="python -m dlms_jax.plan"):
    """Runs the command.

    Args:
      argv: its arguments; None: those of the process.
      prog: how it was called, for --help and messages.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog="settings of the recipe: --config.KEY=VALUE, as for dlms_jax.main",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="RECIPE",
        help="a recipe: a file, or a name that dlms recipes lists",
    )
    add("--topology", required=True, metavar="CHIP:SIDES", help="v5e:4x4, v5p:4x4x4, v6e:8x8, ...")
    add("--slices", type=int, default=1, metavar="N", help="number of such slices (default: 1)")
    add("--json", action="store_true", help="print everything as JSON, in bytes and seconds")
    add("--formula", action="store_true", help="do not compile, even if the compiler is installed")
    arguments, rest = parser.parse_known_args(argv)
    topology = parse_topology(arguments.topology, arguments.slices)
    config = load_config(arguments.config, read_overrides(rest))

    compile_it = have_libtpu() and not arguments.formula
    set_environment()  # before JAX is imported, which would look for a TPU

    from rich.console import Console

    from dlms_jax.planning import report
    from dlms_jax.planning.plan import make_plan

    plan = make_plan(config, topology, compile_it)
    if arguments.json:
        print(json.dumps(report.as_dict(plan), indent=1))
        return
    width = None if sys.stdout.isatty() else 160  # when piped, one line per row
    report.show(Console(soft_wrap=True, width=width), plan)


if __name__ == "__main__":
    main()
