"""All settings as text, for --help and for docs/settings.md."""

import dataclasses
import json
import textwrap
from typing import Any

from dlms_jax.config.sections import SETTINGS, Config
from dlms_jax.config.setting import OBJECTIVES, Setting

_PAGE = """\
# Settings

This page lists every setting with its default, its allowed values and its meaning. A recipe sets
`c.section.name = value`. On the command line, `--config.section.name=value` overrides it. The page
is generated from `dlms_jax/config/sections/` by `python -m dlms_jax.config`.

The last column says what a change means for an existing run:

- **resume**: the run can resume with another value. All other settings are fixed for the run.
- **weights**: the setting determines the network's weights or their shapes, so weights of a run
  with another value (`training.start_from`) do not fit. (gaussian): only with Gaussian diffusion.
- **outputs**: weights of a run with another value fit, but the network computes something else with
  them, or its outputs mean something else.
"""
_INDENTED = textwrap.TextWrapper(
    100, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
)


def settings_help() -> str:
    """Returns the text of --help: each setting with its default, meaning and allowed values."""
    lines = []
    for name, _, keys in _sections():
        lines += ["", f"{name}:"] if name else []
        for key in keys:
            setting = SETTINGS[key]
            lines.append(f"  --config.{key}={_text(setting.default)}")
            allowed = f" ({setting.allowed})" if setting.allowed else ""
            lines += _INDENTED.wrap(setting.meaning + allowed)
    return "\n".join(lines)


def settings_page() -> str:
    """Returns the text of docs/settings.md."""
    parts = [_PAGE]
    for name, meaning, keys in _sections():
        rows = [_row(SETTINGS[key]) for key in keys]
        parts += [
            f"## {name or 'config'}\n\n{meaning}\n",
            "| Setting | Default | Values | Meaning | A change |\n|-|-|-|-|-|\n" + "".join(rows),
        ]
    return "\n".join(parts)


def _sections() -> list[tuple[str, str, list[str]]]:
    """Returns (name, docstring, setting keys) of each section; the name "" is the top level."""
    of_none = [key for key in SETTINGS if "." not in key]
    found = [("", _docstring(Config), of_none)]
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.type):
            keys = [key for key in SETTINGS if key.startswith(f"{field.name}.")]
            found.append((field.name, _docstring(field.type), keys))
    return found


def _docstring(section: object) -> str:
    """Returns a section's docstring in one line."""
    return " ".join((section.__doc__ or "").split())


def _row(setting: Setting) -> str:
    name = setting.key.rpartition(".")[2]
    cells = f"`{name}`", f"`{_text(setting.default)}`" if setting.default != "" else "empty"
    changes = []
    for word, objectives in (("weights", setting.shapes), ("outputs", setting.computes)):
        if objectives:
            only = "" if objectives == OBJECTIVES else f" ({', '.join(objectives)})"
            changes.append(word + only)
    if setting.changeable:
        changes.append("resume")
    row = [*cells, setting.allowed or setting.kind, setting.meaning, ", ".join(changes)]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n"


def _text(value: Any) -> str:
    """Returns a value as the command line accepts it."""
    return value if isinstance(value, str) else json.dumps(value)
