"""Folders that are written whole or not at all, their JSON and their checksums."""

from collections.abc import Callable
import contextlib
import json
import pathlib
import shutil
from typing import Any

from dlms_jax.errors import UserError
from dlms_jax.files import UNFINISHED, sha256_of, write_json

CHECKSUMS = "SHA256SUMS"


def save_json(path: pathlib.Path, data: Any):
    """Writes JSON as Hugging Face's files have it."""
    with writable(path.parent):
        write_json(path, data, indent=2, sort_keys=False)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Returns the object of a JSON file; raises UserError where it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); get it anew") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is no JSON object; get it anew")
    return data


@contextlib.contextmanager
def writable(folder: pathlib.Path):
    """Turns what goes wrong in writing to a folder into one line."""
    try:
        yield
    except Exception as error:  # safetensors has its own kinds
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"cannot write to {folder} ({why}); free some space or mend it") from None


@contextlib.contextmanager
def finished_folder(path: pathlib.Path, say: Callable[[str], None], leads: bool = True):
    """Yields a folder to write to, which gets the name `path` when all has gone well; else it is
    removed. Raises UserError where `path` exists and is not empty.

    leads: whether this process makes it, names it and removes it; of several that write, one does.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    if not leads:
        yield unfinished
        return
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists and is not empty; give another --out, or remove it")
    if unfinished.exists():
        say(f"{unfinished} was left by a conversion that did not finish; removed")
        shutil.rmtree(unfinished)
    with writable(path.parent):
        unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_checksums(folder: pathlib.Path):
    """Writes the sha256 of every file of a folder, as `sha256sum --check` reads them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    with writable(folder):
        (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: pathlib.Path):
    """Raises UserError where a file is not what the folder's checksums say; a folder without any
    passes."""
    if not (folder / CHECKSUMS).is_file():
        return
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}, which {CHECKSUMS} names, is missing; get it anew")
        if sha256_of(folder / name) != expected:
            raise UserError(
                f"{folder / name} is damaged or was changed: its sha256 is not that of "
                f"{CHECKSUMS}; get it anew, or remove {CHECKSUMS}"
            )
