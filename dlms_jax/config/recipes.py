"""Makes a Config from a recipe file and command-line overrides."""

from collections.abc import Mapping
import dataclasses
import difflib
import runpy
from typing import TYPE_CHECKING, Any

from dlms_jax.config.bundled import recipe_file
from dlms_jax.config.formats import new_name
from dlms_jax.config.sections import SETTINGS, Config
from dlms_jax.config.setting import Setting
from dlms_jax.errors import UserError

if TYPE_CHECKING:
    import ml_collections


def default_config() -> "ml_collections.ConfigDict":
    """Returns the default settings as a ConfigDict, for a recipe to change and return.

    It accepts values of any type; `from_dict` checks them.
    """
    import ml_collections  # only recipes need it, and its import is slow

    return ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)


def load_config(recipe: str, overrides: dict[str, str] | None = None) -> Config:
    """Returns the Config of a recipe file.

    Args:
      recipe: the path of the file.
      overrides: {"section.key": text}, with texts as on the command line.

    Raises:
      UserError: the file is not a recipe, or a setting is invalid.
    """
    path = recipe_file(recipe)
    try:
        namespace = runpy.run_path(str(path))
        settings = namespace["get_config"]() if "get_config" in namespace else None
    except (Exception, SystemExit) as error:  # the recipe is the user's code
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"--config={recipe}: {type(error).__name__}: {reason}") from None
    if "get_config" not in namespace:
        raise UserError(f"--config={recipe}: a recipe needs a function get_config()")
    if not hasattr(settings, "to_dict") and not isinstance(settings, dict):
        raise UserError(f"--config={recipe}: get_config() should return a ConfigDict")
    settings = to_plain(settings)
    for key, text in (overrides or {}).items():
        *sections, leaf = key.split(".")
        setting = _setting(key, text)
        target = settings
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"config.{section} is a section; the recipe set it to {target!r}")
        target[leaf] = setting.parse(text)
    return from_dict(settings)


def to_plain(settings) -> dict[str, Any]:
    """Returns a ConfigDict, a dict or a Config as a nested dict."""
    if hasattr(settings, "to_dict"):
        return settings.to_dict()
    if not isinstance(settings, Mapping):
        raise UserError(
            f"a config should be a Config, a ConfigDict or a dict, not {type(settings).__name__}; "
            "load_config reads a recipe"
        )
    return dict(settings)


def from_dict(settings) -> Config:
    """Returns the Config of a ConfigDict or nested dict; missing keys have their defaults.

    Raises:
      UserError: a setting is unknown or invalid.
    """
    if isinstance(settings, Config):
        return settings
    return _build(Config, to_plain(settings), prefix="")


def changed_settings(before: Config, now: Config) -> list[tuple[str, Any, Any]]:
    """Returns ("section.key", before, now) of each setting that differs between two configs."""
    pairs = ((key, before.value(key), now.value(key)) for key in SETTINGS)
    return [(key, old, new) for key, old, new in pairs if old != new]


def _setting(key: str, value: Any) -> Setting:
    """Returns the setting of a name, or raises a UserError that names the closest one."""
    if key in SETTINGS:
        return SETTINGS[key]
    if inside := [name for name in SETTINGS if name.startswith(f"{key}.")]:
        raise UserError(f"config.{key} is a section, not a setting; it has {', '.join(inside)}")
    if renamed := new_name(key, value):
        name, value = renamed
        raise UserError(f"config.{key} is now config.{name}; write config.{name}={value}")
    near = difflib.get_close_matches(key, SETTINGS, n=1, cutoff=0.0)[0]
    raise UserError(f"unknown setting config.{key}; did you mean config.{near}?")


def _build(cls: type, settings: dict[str, Any], prefix: str):
    """Returns a section, or the whole config, from a nested dict."""
    types = {field.name: field.type for field in dataclasses.fields(cls)}
    values = {}
    for name, value in settings.items():
        key = prefix + name
        section = types.get(name)
        if isinstance(section, type) and dataclasses.is_dataclass(section):
            if not isinstance(value, dict):
                raise UserError(
                    f"config.{key} is a section, not a setting; it was set to {value!r}"
                )
            values[name] = _build(section, value, f"{key}.")
        else:
            setting = _setting(key, value)
            if "." in name:
                raise UserError(f"config.{key} should be nested: {{section: {{key: value}}}}")
            values[name] = setting.check(value)
    return cls(**values)
