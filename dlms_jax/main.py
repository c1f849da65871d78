"""Train a model from a recipe; any setting can be overridden.

    python -m dlms_jax.main --config=configs/tiny.py --workdir=runs/tiny
    python -m dlms_jax.main --config=configs/tiny.py --workdir=runs/tiny-ar \\
        --config.objective.name=autoregressive
    python -m dlms_jax.main --resume=runs/tiny

The same command, or --resume, continues an interrupted run. Ctrl-C saves the run before it ends.

With several machines or processes, run the same command in each (docs/launch.md). On a Cloud TPU
pod and under SLURM they find one another. Elsewhere, give each process its number:

    python -m dlms_jax.main --config=configs/large.py --workdir=/shared/large \\
        --coordinator=host0:8476 --num_processes=2 --process_id=0
"""

import argparse
import sys

from dlms_jax.config import load_config, settings_help
from dlms_jax.errors import UserError, command_line

STOPPED = 75  # exit status of a run that was stopped and saved (EX_TEMPFAIL: run it again)


@command_line
def main(argv=None, prog="python -m dlms_jax.main"):
    """Runs the command.

    Args:
      argv: its arguments; None: those of the process.
      prog: how it was called, for --help and messages.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        epilog="settings and their defaults, which recipes change:\n\n" + settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--config",
        metavar="RECIPE",
        help="a recipe: a file, or a name that dlms recipes lists",
    )
    what.add_argument("--resume", metavar="DIR", help="continue this run with its own settings")
    parser.add_argument("--workdir", metavar="DIR", help="the run's directory (default: runs/NAME)")
    parser.add_argument(
        "--profile_steps", metavar="A-B", help="trace these steps for xprof, to WORKDIR/profile"
    )
    several = parser.add_argument_group("several processes")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    several.add_argument(
        "--num_processes", type=int, metavar="N", help="number of processes on all machines"
    )
    several.add_argument(
        "--process_id", type=int, metavar="I", help="number of this process, from 0"
    )
    several.add_argument(
        "--startup_timeout",
        type=float,
        metavar="SECONDS",
        default=300,
        help="longest wait for all processes (default: %(default)s)",
    )
    arguments, rest = parser.parse_known_args(argv)
    overrides = read_overrides(rest)
    if arguments.resume and (overrides or arguments.workdir):
        raise UserError(
            "--resume takes the directory and settings from the run; to change a setting, "
            "give --config and --workdir of the run with the setting"
        )
    config = load_config(arguments.config, overrides) if arguments.config else None

    from dlms_jax.parallel import hosts  # after the checks: importing JAX takes seconds

    hosts.start(
        arguments.coordinator,
        arguments.num_processes,
        arguments.process_id,
        arguments.startup_timeout,
    )
    with hosts.parting():
        _train(config, arguments)


def _train(config, arguments):
    from dlms_jax.parallel import hosts
    from dlms_jax.runtime.interrupt import Interrupted
    from dlms_jax.runtime.profiling import steps_to_profile
    from dlms_jax.trainer import Trainer

    trainer = Trainer(arguments.workdir, profile_steps=steps_to_profile(arguments.profile_steps))
    try:
        if config is None:
            trainer.resume(arguments.resume)
        else:
            trainer.train(config)
    except Interrupted as stopped:
        if hosts.is_first():
            print(stopped, file=sys.stderr)
        sys.exit(STOPPED)


def read_overrides(arguments: list[str]) -> dict[str, str]:
    """Returns {"section.key": text} of the arguments that override settings.

    Args:
      arguments: --config.section.key=text, or --config.section.key followed by a text.

    Raises:
      UserError: an argument has another form.
    """
    overrides = {}
    rest = iter(arguments)
    for argument in rest:
        key, equals, text = argument.partition("=")
        if not key.startswith("--config."):
            raise UserError(f"unknown option {argument}; settings are --config.section.key=value")
        if not equals:
            following = next(rest, None)
            if following is None or following.startswith("--"):
                raise UserError(f"{argument} has no value; write {argument}=VALUE")
            text = following
        overrides[key.removeprefix("--config.")] = text
    return overrides


if __name__ == "__main__":
    main()
