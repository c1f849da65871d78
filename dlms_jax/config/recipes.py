"""Recipe files and command-line text -> Config."""

import dataclasses
import difflib
import json
import pathlib
import runpy
import typing
from typing import Any, Literal

import ml_collections

from dlms_jax.config.sections import Config
from dlms_jax.errors import UserError


def default_config() -> ml_collections.ConfigDict:
    """Returns the default settings as a ConfigDict, for a recipe to change and return.

    It takes values of any type: `from_dict` checks them, and says which setting is wrong.
    """
    return ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)


def load_config(recipe: str, overrides: dict[str, str] | None = None) -> Config:
    """Returns the Config of a recipe file, with `{"section.key": "text"}` overrides applied."""
    path = pathlib.Path(recipe)
    if not path.is_file():
        raise UserError(f"--config={recipe}: no such file; the recipes are configs/*.py")
    try:
        namespace = runpy.run_path(str(path))
        settings = namespace["get_config"]() if "get_config" in namespace else None
    except Exception as error:  # the recipe is the user's code
        raise UserError(f"--config={recipe}: {type(error).__name__}: {error}") from None
    if "get_config" not in namespace:
        raise UserError(f"--config={recipe}: a recipe needs a function get_config()")
    if not hasattr(settings, "to_dict") and not isinstance(settings, dict):
        raise UserError(f"--config={recipe}: get_config() should return a ConfigDict")
    settings = to_plain(settings)
    for key, text in (overrides or {}).items():
        *sections, leaf = key.split(".")
        hint = _hint_of(key)
        target = settings
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"config.{section} is a section; the recipe set it to {target!r}")
        target[leaf] = _parse(key, text, hint)
    return from_dict(settings)


def to_plain(settings) -> dict[str, Any]:
    """Returns a ConfigDict (or a dict, or a Config) as a nested dict."""
    if isinstance(settings, Config):
        return settings.to_dict()
    return settings.to_dict() if hasattr(settings, "to_dict") else dict(settings)


def from_dict(settings) -> Config:
    """Returns the Config of a ConfigDict or nested dict; keys left out keep their defaults."""
    if isinstance(settings, Config):
        return settings
    return _build(Config, to_plain(settings), prefix="")


def changed_settings(before: Config, now: Config) -> list[tuple[str, Any, Any]]:
    """Returns ("section.key", before, now) for every setting in which two configs differ."""
    before, now = before.to_dict(), now.to_dict()
    changed = []
    for key in leaf_types():
        section, _, leaf = key.rpartition(".")
        old, new = (c[section][leaf] if section else c[leaf] for c in (before, now))
        if old != new:
            changed.append((key, old, new))
    return changed


def leaf_types(cls=Config, prefix: str = "") -> dict[str, Any]:
    """Returns {"section.key": type} for every setting."""
    leaves = {}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            leaves |= leaf_types(hint, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = hint
    return leaves


def settings_help() -> str:
    """Returns a line a setting: its key, default and choices."""
    lines, defaults = [], Config().to_dict()
    for key, hint in leaf_types().items():
        section, _, leaf = key.rpartition(".")
        value = defaults[section][leaf] if section else defaults[leaf]
        choices = f"  (of {_choices(hint)})" if typing.get_origin(hint) is Literal else ""
        lines.append(f"  {key}={value}{choices}")
    return "\n".join(lines)


def _hint_of(key: str):
    leaves = leaf_types()
    if key not in leaves:
        inside = [leaf for leaf in leaves if leaf.startswith(key + ".")]
        near = difflib.get_close_matches(key, leaves, n=1, cutoff=0.0)[0]
        if inside:
            raise UserError(f"config.{key} is a section, not a setting; it has {', '.join(inside)}")
        raise UserError(f"config.{key} is no setting; did you mean config.{near}?")
    return leaves[key]


def _build(cls, settings: dict[str, Any], prefix: str):
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in settings.items():
        key = prefix + name
        if name in hints and dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise UserError(
                    f"config.{key} is a section, not a setting; it was set to {value!r}"
                )
            values[name] = _build(hints[name], value, key + ".")
        else:
            hint = _hint_of(key)
            if name not in hints:
                raise UserError(f"config.{key} should be nested: {{section: {{key: value}}}}")
            values[name] = _check(key, value, hint)
    return cls(**values)


def _check(key: str, value, hint):
    """Returns `value` if it is of the type that the setting wants (an int passes for a float)."""
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise UserError(f"config.{key}={value!r} is not one of {_choices(hint)}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint == tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise UserError(f"config.{key}={value!r} should be {_a(hint)}")
        return tuple(value)
    if hint == dict[str, float]:
        if not isinstance(value, dict):
            raise UserError(f"config.{key}={value!r} should be {_a(hint)}")
        return {name: _check(f"{key}[{name!r}]", x, float) for name, x in value.items()}
    if type(value) is not hint:
        raise UserError(f"config.{key}={value!r} should be {_a(hint)}")
    return value


def _parse(key: str, text: str, hint):
    """Returns the value that `text`, from the command line, stands for."""
    if hint is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise UserError(f"config.{key}={text} should be true or false")
        return words[text.lower()]
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise UserError(f"config.{key}={text} should be {_a(hint)}") from None
    if typing.get_origin(hint) in (dict, tuple):
        try:
            return _check(key, json.loads(text), hint)
        except json.JSONDecodeError:
            raise UserError(f"config.{key}={text} should be {_a(hint)}") from None
    return _check(key, text, hint)


def _choices(hint) -> str:
    return ", ".join(map(str, typing.get_args(hint)))


def _a(hint: type) -> str:
    return {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "a text",
        tuple[str, ...]: 'a list of texts, ["a", "b"]',
        dict[str, float]: 'a name and a number each, {"a": 0.7, "b": 0.3}',
    }[hint]
