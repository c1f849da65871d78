"""Moves finished archives to the folder of releases."""

import os
import pathlib

from rich.console import Console

from dlms_jax.conversion.folder import writable
from dlms_jax.errors import UserError
from dlms_jax.files import sha256_of
from dlms_jax.terminal import say


def publish(archives: list[pathlib.Path], out: pathlib.Path, console: Console):
    """Moves archives to a folder; one that is already there with the same bytes stays.

    Args:
      archives: the archives.
      out: the folder.
      console: where to print the size and checksum of each.

    Raises:
      UserError: the folder has an archive of the same name with other bytes; none is moved.
    """
    moved = []
    for archive in archives:
        path = out / archive.name
        if not path.exists():
            moved.append((archive, path))
        elif not path.is_file() or sha256_of(path) != sha256_of(archive):
            raise UserError(
                f"{path} exists and is another release; give another --version, --name or --out, "
                "or remove it"
            )
        else:
            say(console, f"{path} exists already, with the same bytes")
    with writable(out):
        for archive, path in moved:
            os.replace(archive, path)
    for _, path in moved:
        say(console, f"{path}: {path.stat().st_size / 1e6:.1f} MB, sha256 {sha256_of(path)}")
