"""Command-line options that have the type, range and help of a setting."""

import argparse
from typing import Any

from dlms_jax.config.formats import old_names
from dlms_jax.config.sections import SETTINGS
from dlms_jax.errors import UserError

_METAVARS = {int: "N", float: "X", str: "TEXT"}


def add_option(parser, flag: str, key: str, *, help: str = "", default: Any = None, **how: Any):
    """Adds an option that is parsed and checked like a setting.

    Args:
      parser: an argparse parser or group.
      flag: "--name"; for a boolean setting, "--no-name" makes it false.
      key: the setting, "section.name".
      help: replaces the setting's meaning.
      default: the value if the option is left out; the help shows it.
      **how: further arguments of add_argument, such as metavar.
    """
    setting = SETTINGS[key]
    choices = f" ({setting.allowed})" if setting.choices else ""
    text = (help or setting.meaning + choices).replace("%", "%%")
    text += f" (default: {default})" if default is not None else ""
    if setting.type is bool:
        how |= {"action": "store_false" if flag.startswith("--no-") else "store_true"}
        how.setdefault("dest", key.rpartition(".")[2])
    else:
        how |= {"type": lambda value: setting.parse(value, flag)}
        how.setdefault("metavar", _METAVARS.get(setting.type, "NAME"))
    parser.add_argument(flag, help=text, default=default, **how)
    for old in old_names(key):
        old_flag = f"--{old.rpartition('.')[2].replace('_', '-')}"
        parser.add_argument(
            old_flag,
            action=_Renamed,
            nargs="*",
            const=flag,
            dest=argparse.SUPPRESS,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


class _Renamed(argparse.Action):
    """Refuses the old name of an option."""

    def __call__(self, parser, namespace, values, option_string=None):
        raise UserError(f"{option_string} is now {self.const}")
