"""The folder of an export: written whole or not at all, with its JSON files and checksums."""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

from rich.console import Console

from dlms_jax.errors import UserError
from dlms_jax.files import UNFINISHED, sha256_of, write_json
from dlms_jax.terminal import say

CHECKSUMS = "SHA256SUMS"
_PATHS = (errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)  # errors of the path itself
DIGEST = "sha256"  # the key of a JSON object that has the SHA-256 of its other keys


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
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object; download it again")
    return data


@contextlib.contextmanager
def writable(folder: pathlib.Path) -> Iterator[None]:
    """Turns every error of writing to a folder into a UserError of one line."""
    try:
        yield
    except (UserError, BrokenPipeError):  # the second comes from standard output
        raise
    except Exception as error:  # safetensors raises its own kinds
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        hint = "give another --out"
        if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM):
            hint = f"check its permissions or {hint}"
        elif getattr(error, "errno", None) not in _PATHS and not isinstance(error, ValueError):
            hint = f"free some disk space or {hint}"
        raise UserError(f"cannot write to {folder} ({reason}); {hint}") from None


@contextlib.contextmanager
def unfinished_folder(path: pathlib.Path, console: Console) -> Iterator[pathlib.Path]:
    """Yields the new, empty folder `path`.unfinished, and removes it when the block ends.

    The folder that holds it is created if needed, and removed again if nothing else was put there.

    Raises:
      UserError: the folder cannot be created.
    """
    folder = path.with_name(path.name + UNFINISHED)
    with writable(path.parent):
        new = not path.parent.exists()
        if folder.exists():
            say(console, f"removed {folder}, which an interrupted command had left")
            shutil.rmtree(folder)
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
      path: the folder to create; it must not exist, or be empty. If it is a link, its target.
      console: where to report a leftover of an interrupted command.
      leads: whether this process creates, renames and removes the folder; if several processes
        write to it, one of them does.

    Raises:
      UserError: `path` exists and is not empty, or its parent cannot be written to.
    """
    with writable(path):
        str(path).encode()  # tokenizers and orbax cannot write to other paths
        path = pathlib.Path(os.path.realpath(path))
        free = not path.exists() or path.is_dir() and not any(path.iterdir())
    if not leads:
        yield path.with_name(path.name + UNFINISHED)
        return
    if not free or path == pathlib.Path.cwd():  # the current folder would be another one then
        raise UserError(f"{path} exists and is not empty; give another --out, or remove it")
    with unfinished_folder(path, console) as folder:
        yield folder
        with writable(path):
            folder.rename(path)


def files_of(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns all files under a folder, by their name relative to it with forward slashes."""
    return {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}


def digests_of(files: Mapping[str, pathlib.Path]) -> dict[str, str]:
    """Returns the SHA-256 of each file, by its name.

    Raises:
      UserError: a file cannot be read.
    """
    found = {}
    for name, path in files.items():
        try:
            found[name] = sha256_of(path)
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}); if its run is still training, wait for "
                "it to end"
            ) from None
    return found


def write_checksums(folder: pathlib.Path, digests: Mapping[str, str]):
    """Writes SHA256SUMS to a folder, in the format of `sha256sum --check`.

    Args:
      folder: where to write it.
      digests: the SHA-256 of each file, by its name.

    Raises:
      UserError: it cannot be written.
    """
    lines = [f"{digests[name]}  {name}\n" for name in sorted(digests)]
    with writable(folder):
        (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: pathlib.Path):
    """Checks every file that a folder's SHA256SUMS lists; passes if there is no SHA256SUMS.

    Raises:
      UserError: a file is missing, is not listed or has another checksum.
    """
    if not (folder / CHECKSUMS).exists():
        return
    try:
        text = (folder / CHECKSUMS).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{folder / CHECKSUMS} cannot be read: {error.strerror}") from None
    pairs = [line.partition("  ") for line in text.splitlines()]
    digests = {name: digest for digest, _, name in pairs}
    check_files(folder, digests, CHECKSUMS)
    for path in [*folder.glob("*.json"), *folder.glob("*.safetensors")]:
        if path.name not in digests:
            raise UserError(
                f"{path} is not listed in {CHECKSUMS}, which may be cut short; download it again, "
                f"or remove {CHECKSUMS} if you changed the folder"
            )


def check_files(folder: pathlib.Path, digests: Mapping[str, str], where: str):
    """Checks that files have the SHA-256 that the file `where` states, by their names.

    Raises:
      UserError: a file is missing or has another checksum.
    """
    for name, expected in digests.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}, which {where} lists, is missing; download it again")
        if sha256_of(folder / name) != expected:
            raise UserError(
                f"{folder / name} is damaged or was changed: its sha256 is not the one in "
                f"{where}; download it again, or remove {where} if you changed it"
            )


def with_digest(data: dict[str, Any]) -> dict[str, Any]:
    """Returns a JSON object with its DIGEST."""
    content = {key: value for key, value in data.items() if key != DIGEST}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return content | {DIGEST: hashlib.sha256(text.encode()).hexdigest()}


def check_digest(data: dict[str, Any], where: pathlib.Path):
    """Checks the DIGEST of an object in the file `where`; passes if it has none, as in older files.

    Raises:
      UserError: the object was changed.
    """
    if DIGEST in data and with_digest(data) != data:
        raise UserError(
            f"{where} is damaged or was changed: it does not have the sha256 that it states; "
            "download it again"
        )
