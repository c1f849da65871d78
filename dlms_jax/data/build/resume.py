"""Begins a build in a folder that is empty or holds a partial, damaged or different dataset.

A build continues what was interrupted and makes damaged shards again. It refuses a folder that
holds something else.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any

from dlms_jax.data.build.passes import Job, bucket_file, shards_are_whole
from dlms_jax.data.corpora.source import Source
from dlms_jax.data.store.card import CARD, VOCABULARY, read_card
from dlms_jax.data.store.prepared import BUILDING, Prepared
from dlms_jax.errors import UserError
from dlms_jax.files import write_json

_PLAN = "plan.json"  # what is being built


def begin(
    job: Job,
    arguments: dict[str, Any],
    sources: list[Source],
    overwrite: bool,
    say: Callable[[str], None],
) -> bool:
    """Returns whether the folder already holds the whole dataset; else makes it ready to build.

    Args:
      job: the build.
      arguments: what the dataset is made from and how, as dataset.json lists it.
      sources: the files.
      overwrite: whether another dataset in the folder is removed.
      say: prints what was found.

    Raises:
      UserError: the folder holds another dataset, or other files.
    """
    plan = {"arguments": json.loads(json.dumps(arguments)), "sources": digest(sources)}
    repaired = job.building / CARD
    if overwrite and (repaired.is_file() or not _is_readable(job)):
        remove_dataset(job.folder)
    finished, begun = _card(job.folder), _plan(job.building / _PLAN)
    broken = []
    if finished:
        different = _differences(finished, plan["arguments"], sources)
        if different and not overwrite:
            raise UserError(
                f"{job.folder} holds another dataset (other {', '.join(different)}); use another "
                "--out, or --overwrite"
            )
        if different:
            remove_dataset(job.folder)
            finished = None
        elif not (broken := _broken_buckets(job.folder)) and _has_vocabulary(job.folder, finished):
            shutil.rmtree(job.building, ignore_errors=True)
            say(f"{job.folder} is complete, and its checksums are right")
            return True
    elif begun and begun != plan:
        say(f"continuing {job.folder}, whose settings or files have changed")
        _remove_buckets(job)
    elif begun:
        say(f"continuing {job.folder}")
    elif not _is_free(job.folder):
        raise UserError(f"{job.folder} holds something else; use a new folder for --out")
    job.building.mkdir(parents=True, exist_ok=True)
    write_json(job.building / _PLAN, plan)
    if finished:
        say(f"{job.folder}: {len(broken)} of its shards are damaged, and made again")
        _reopen(job, broken, _has_vocabulary(job.folder, finished))
    return False


def repaired_card(job: Job) -> dict[str, Any] | None:
    """Returns dataset.json of the finished dataset that this build repairs; None for a new one."""
    return _card(job.building)


def remove_dataset(folder: pathlib.Path) -> None:
    """Removes what a build writes, dataset.json first, and the folder if it is empty then."""
    (folder / CARD).unlink(missing_ok=True)
    shutil.rmtree(folder / BUILDING, ignore_errors=True)
    _remove_shards(folder)
    for file in folder.glob(f"{VOCABULARY}*"):
        file.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def digest(sources: list[Source], times: bool = True) -> str:
    """Returns a SHA-256 of the names and sizes of files and, with `times`, when they changed."""
    described = [
        dataclasses.astuple(source if times else dataclasses.replace(source, modified=0))
        for source in sources
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _card(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the dataset.json of a folder; None if there is none."""
    return read_card(folder / CARD) if (folder / CARD).is_file() else None


def _plan(file: pathlib.Path) -> dict[str, Any] | None:
    """Returns what is being built; None if nothing is."""
    if not file.is_file():
        return None
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(plan["arguments"], dict):
            return plan
    except (ValueError, TypeError, KeyError):
        pass
    raise UserError(f"{file} is damaged; remove its folder, or use --overwrite")


def _is_readable(job: Job) -> bool:
    """Returns whether dataset.json and plan.json can be read if they are there."""
    try:
        _card(job.folder)
        _plan(job.building / _PLAN)
    except UserError:
        return False
    return True


def _has_vocabulary(folder, card) -> bool:
    try:
        Prepared(folder, card)
    except UserError:
        return False
    return True


def _differences(card, arguments, sources) -> list[str]:
    """Returns the arguments in which a finished dataset is not the one that is asked for."""
    different = [key for key in arguments if card["arguments"].get(key) != arguments[key]]
    if card["sources"] == digest(sources, times=False):
        return different
    if different == ["path"] and card["sources"] == digest(
        _renamed(sources, arguments["path"], card["arguments"]["path"]), times=False
    ):
        return []
    return different or ["files"]


def _renamed(sources, paths: list[str], old_paths: list[str]) -> list[Source]:
    """Returns sources named as from another folder, where their paths were `old_paths`.

    Two absolute paths name the same in every folder, so such a path stays.
    """
    renamed = []
    for source in sources:
        file = pathlib.PurePath(source.file)
        for path, old in zip(map(pathlib.PurePath, paths), old_paths, strict=False):
            both_absolute = path.is_absolute() and pathlib.PurePath(old).is_absolute()
            if file.is_relative_to(path) and not both_absolute:
                file = pathlib.PurePath(old, file.relative_to(path))
                break
        renamed.append(dataclasses.replace(source, file=str(file)))
    return renamed


def _is_free(folder) -> bool:
    """Returns whether a folder holds nothing but the beginning of a build."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name == BUILDING for path in folder.iterdir())


def _remove_shards(folder):
    for file in folder.glob("*.array_record*"):
        file.unlink()


def _remove_buckets(job):
    """Removes what was made of all files together; what was read of each file stays."""
    for pattern in ("bucket-*.json", VOCABULARY):
        for file in job.building.glob(pattern):
            file.unlink()
    _remove_shards(job.folder)


def _broken_buckets(folder) -> list[int]:
    buckets = read_card(folder / CARD)["buckets"]
    return [i for i, bucket in enumerate(buckets) if not shards_are_whole(folder, bucket)]


def _reopen(job, broken: list[int], vocabulary: bool):
    """Turns a finished dataset into a build in which only the buckets `broken` are missing."""
    for number, described in enumerate(read_card(job.folder / CARD)["buckets"]):
        if number not in broken:
            write_json(bucket_file(job.building, number), described)
    if vocabulary:
        shutil.copy(job.folder / VOCABULARY, job.building / VOCABULARY)
    (job.folder / CARD).replace(job.building / CARD)
