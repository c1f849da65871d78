"""The folder of an export: written whole or not at all, with its JSON files and checksums."""

from collections.abc import Iterator, Mapping
import contextlib
import json
import pathlib
import shutil
from typing import Any

from rich.console import Console

from dlms_jax.errors import UserError
from dlms_jax.files import UNFINISHED, sha256_of, write_json
from dlms_jax.terminal import say

CHECKSUMS = "SHA256SUMS"


def save_json(path: pathlib.Path, data: Any):
    """Writes JSON with the indentation and key order of Hugging Face's files.

    Raises:
      UserError: the file cannot be written.
    """
    with writable(path.parent):
        write_json(path, data, indent=2, sort_keys=False)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object of a JSON file.

    Raises:
      UserError: the file cannot be read, or is not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object; download it again")
    return data


@contextlib.contextmanager
def writable(folder: pathlib.Path) -> Iterator[None]:
    """Turns every error of writing to a folder into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # safetensors raises its own kinds
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(
            f"cannot write to {folder} ({reason}); free some disk space or check its permissions"
        ) from None


@contextlib.contextmanager
def unfinished_folder(path: pathlib.Path, console: Console) -> Iterator[pathlib.Path]:
    """Yields the new, empty folder `path`.unfinished, and removes it when the block ends.

    The folder that holds it is created if needed, and removed again if nothing else was put there.

    Raises:
      UserError: the folder cannot be created.
    """
    folder, new = path.with_name(path.name + UNFINISHED), not path.parent.exists()
    if folder.exists():
        say(console, f"removed {folder}, which an interrupted command had left")
        shutil.rmtree(folder)
    with writable(path.parent):
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):  # it is not empty
                path.parent.rmdir()


@contextlib.contextmanager
def finished_folder(
    path: pathlib.Path, console: Console, leads: bool = True
) -> Iterator[pathlib.Path]:
    """Yields a folder to write to, which is renamed to `path` if the block succeeds, else removed.

    Args:
      path: the folder to create; it must not exist, or be empty.
      console: where to report a leftover of an interrupted command.
      leads: whether this process creates, renames and removes the folder; if several processes
        write to it, one of them does.

    Raises:
      UserError: `path` exists and is not empty, or its parent cannot be written to.
    """
    if not leads:
        yield path.with_name(path.name + UNFINISHED)
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not empty; give another --out, or remove it")
    with unfinished_folder(path, console) as folder:
        yield folder
        folder.rename(path)


def files_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns all files under a folder, by their name relative to it with forward slashes."""
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def write_checksums(folder: pathlib.Path, files: Mapping[str, pathlib.Path]):
    """Writes SHA256SUMS to a folder, in the format of `sha256sum --check`.

    Args:
      folder: where to write it.
      files: the files to list, by name; they may be elsewhere.

    Raises:
      UserError: a file cannot be read, or SHA256SUMS cannot be written.
    """
    lines = []
    for name in sorted(files):
        try:
            lines.append(f"{sha256_of(files[name])}  {name}\n")
        except OSError as error:
            raise UserError(
                f"{files[name]} cannot be read ({error.strerror}); if its run is still training, "
                "wait for it to end"
            ) from None
    with writable(folder):
        (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: pathlib.Path):
    """Checks every file that a folder's SHA256SUMS lists; passes if there is no SHA256SUMS.

    Raises:
      UserError: a file is missing or has another checksum.
    """
    if not (folder / CHECKSUMS).is_file():
        return
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        if not (folder / name).is_file():
            raise UserError(
                f"{folder / name}, which {CHECKSUMS} lists, is missing; download it again"
            )
        if sha256_of(folder / name) != expected:
            raise UserError(
                f"{folder / name} is damaged or was changed: its sha256 is not the one in "
                f"{CHECKSUMS}; download it again, or remove {CHECKSUMS} if you changed it"
            )
