"""Train a model: a recipe, a working directory, and any setting overridden.

    python -m dlms_jax.main --config=configs/tiny.py --workdir=runs/tiny
    python -m dlms_jax.main --config=configs/tiny.py --workdir=runs/tiny-ar \\
        --config.objective.name=autoregressive
    python -m dlms_jax.main --resume=runs/tiny

The same command, or --resume, goes on with a run that was interrupted. Ctrl-C saves before it ends.
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
        epilog="settings for --config.KEY=VALUE, with the defaults from which recipes start (what "
        "each means: dlms_jax/config/sections.py)\n\n" + settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="FILE", help="a recipe, configs/*.py")
    what.add_argument("--resume", metavar="DIR", help="go on with this run, with its own settings")
    parser.add_argument("--workdir", metavar="DIR", help="the run's directory (default: runs/NAME)")
    arguments, rest = parser.parse_known_args(argv)
    overrides = _overrides(rest)
    if arguments.resume and (overrides or arguments.workdir):
        raise UserError(
            "--resume takes directory and settings from the run; to change a setting, "
            "give its --config and --workdir with the setting"
        )
    config = load_config(arguments.config, overrides) if arguments.config else None

    from dlms_jax.trainer import Interrupted, Trainer  # after the checks: JAX takes its time

    try:
        if config is None:
            Trainer().resume(arguments.resume)
        else:
            Trainer(arguments.workdir).train(config)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(STOPPED)


def _overrides(arguments: list[str]) -> dict[str, str]:
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
