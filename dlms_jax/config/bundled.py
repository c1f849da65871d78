"""The recipes that come with the package: configs/ of a checkout, dlms_jax/recipes/ of a wheel."""

import ast
import difflib
import os
import pathlib

from dlms_jax.errors import UserError

_PACKAGE = pathlib.Path(__file__).parents[1]


def folder() -> pathlib.Path:
    """Returns the folder of the bundled recipes."""
    packaged = _PACKAGE / "recipes"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "configs"


def recipes() -> dict[str, pathlib.Path]:
    """Returns the files of the bundled recipes, by name: "tiny", "family/masked", ..."""
    root = folder()
    paths = [path for path in sorted(root.rglob("*.py")) if not path.name.startswith("_")]
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def recipe_file(recipe: str) -> pathlib.Path:
    """Returns the file of a recipe.

    Args:
      recipe: a file; or the name of a bundled recipe, "tiny" or "configs/tiny.py". A file wins.

    Raises:
      UserError: there is neither.
    """
    path = pathlib.Path(recipe)
    if os.path.isfile(recipe):  # False, not an error, for a name that is too long
        return path
    known = recipes()
    name = recipe.removeprefix("configs/").removesuffix(".py")
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the recipes are {', '.join(known)}"
    raise UserError(f"--config={recipe}: no such file or recipe; {hint}")


def recipe_folder(path: pathlib.Path) -> pathlib.Path:
    """Returns a folder of recipes: `path`, or, if it is not there, the bundled one of that name."""
    if path.is_dir():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    bundled = folder().joinpath(*parts)
    return bundled if ".." not in parts and bundled.is_dir() else path


def summary(path: pathlib.Path) -> str:
    """Returns the first line of a recipe's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return (text.splitlines() or [""])[0]
