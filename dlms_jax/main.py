"""Train a model: a recipe, a working directory, and any setting overridden.

    python -m dlms_jax.main --config=configs/tiny.py --workdir=runs/tiny
    python -m dlms_jax.main --config=configs/tiny.py --workdir=runs/tiny-ar \\
        --config.objective.name=autoregressive
    python -m dlms_jax.main --resume=runs/tiny

The same command, or --resume, goes on with a run that was interrupted. Ctrl-C saves before it ends.

On several machines, or as several processes, the same command is run in each (docs/launch.md). On a
Cloud TPU pod and under SLURM they find one another; elsewhere each is told who it is:

    python -m dlms_jax.main --config=configs/large.py --workdir=/shared/large \\
        --coordinator=host0:8476 --num_processes=2 --process_id=0
"""

import argparse
import sys

from dlms_jax.config import load_config, settings_help
from dlms_jax.errors import UserError, command_line

STOPPED = 75  # exit status of a run that was asked to stop, and saved (EX_TEMPFAIL: run it again)


@command_line
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m dlms_jax.main",
        description=__doc__,
        epilog="settings, with the defaults from which recipes start:\n\n" + settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="FILE", help="a recipe, configs/*.py")
    what.add_argument("--resume", metavar="DIR", help="go on with this run, with its own settings")
    parser.add_argument("--workdir", metavar="DIR", help="the run's directory (default: runs/NAME)")
    parser.add_argument(
        "--profile_steps", metavar="A-B", help="trace these steps for xprof, to WORKDIR/profile"
    )
    several = parser.add_argument_group("several processes")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0")
    several.add_argument("--num_processes", type=int, metavar="N", help="of all machines together")
    several.add_argument(
        "--process_id", type=int, metavar="I", help="which of them this is, from 0"
    )
    several.add_argument(
        "--startup_timeout",
        type=float,
        metavar="SECONDS",
        default=300,
        help="how long to wait for all to come (%(default)s)",
    )
    arguments, rest = parser.parse_known_args(argv)
    overrides = read_overrides(rest)
    if arguments.resume and (overrides or arguments.workdir):
        raise UserError(
            "--resume takes directory and settings from the run; to change a setting, "
            "give its --config and --workdir with the setting"
        )
    config = load_config(arguments.config, overrides) if arguments.config else None

    from dlms_jax.parallel import hosts  # after the checks: JAX takes its time

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
    """Returns {"section.key": "text"} of arguments --config.section.key=text (or two words)."""
    overrides = {}
    arguments = iter(arguments)
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not key.startswith("--config."):
            raise UserError(f"{argument} is no option; settings are --config.section.key=value")
        if not equals:
            text = next(arguments, None)
            if text is None or text.startswith("--"):
                raise UserError(f"{argument} has no value; write {argument}=VALUE")
        overrides[key.removeprefix("--config.")] = text
    return overrides


if __name__ == "__main__":
    main()
