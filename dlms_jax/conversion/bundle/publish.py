"""Archives get their names when they are whole, or not at all."""

from collections.abc import Callable, Iterator
import contextlib
import os
import pathlib
import shutil

from dlms_jax.conversion.folder import writable
from dlms_jax.errors import UserError
from dlms_jax.files import UNFINISHED, sha256_of

Say = Callable[[str], None]


@contextlib.contextmanager
def unfinished_folder(out: pathlib.Path, title: str, say: Say) -> Iterator[pathlib.Path]:
    """Yields a folder inside `out` to work in, which is removed at the end, as is `out` where it is
    new and nothing was put there."""
    folder, new = out / f"{title}{UNFINISHED}", not out.exists()
    if folder.exists():
        say(f"{folder} was left by a release that did not finish; removed")
        shutil.rmtree(folder)
    with writable(out):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):  # it has something in it
                out.rmdir()


def publish(archives: list[pathlib.Path], out: pathlib.Path, say: Say):
    """Moves archives to `out`. One that is there with the same bytes stays; raises UserError, and
    moves none, where one is there with others."""
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
            say(f"{path} was there already, with the same bytes")
    with writable(out):
        for archive, path in moved:
            os.replace(archive, path)
    for _, path in moved:
        say(f"{path}: {path.stat().st_size / 1e6:.1f} MB, sha256 {sha256_of(path)}")
