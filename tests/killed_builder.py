"""Builds of datasets that are killed: what data/build/test_builder.py runs as a process of its own.

The package is loaded once. Each build is a fork of this process, which therefore starts no threads,
and dies of SIGKILL. What came of it is printed as one line of JSON.
"""

import contextlib
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import sys
import time

from rich.console import Console

from dlms_jax.data.build import bucket, builder, passes
from dlms_jax.data.build.builder import DatasetBuilder
from dlms_jax.data.store import shards
from dlms_jax.data.store.prepared import open_prepared
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError

SETTINGS = {"shard_bytes": 6000, "heldout_fraction": 0.2}
_note = mmap.mmap(-1, 16)  # where a child that is slow says what it is doing


class SlowBytes(ByteTokenizer):
    """Bytes, slowly, in worker processes too."""

    def _encode_plain(self, texts):
        time.sleep(0.08)
        return super()._encode_plain(texts)


class DeadlyBytes(ByteTokenizer):
    """Bytes; the process that has to encode "deadly" is killed."""

    def _encode_plain(self, texts):
        if any("deadly" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._encode_plain(texts)


def texts(number: int, seed: int = 0, words: int = 40) -> list[str]:
    """Returns documents of about `words` words, no two alike."""
    draw = random.Random(seed)
    spelled = ["".join(draw.choices("abcdefghij é\U0001f600\n", k=4)) for _ in range(200)]
    return [
        f"{i} " + " ".join(draw.choices(spelled, k=draw.randint(1, words))) for i in range(number)
    ]


def write_texts(folder: pathlib.Path, documents: list[str]) -> pathlib.Path:
    """Returns the folder, with a text file for each document."""
    folder.mkdir(parents=True)
    for i, text in enumerate(documents):
        (folder / f"{i:04}.txt").write_text(text)
    return folder


def contents(folder: pathlib.Path, pattern: str = "**/*") -> dict[str, bytes]:
    """Returns the bytes of the files in a folder, by their path there."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def build(source, out, vocab=300, **settings):
    """Returns the prepared dataset, built without a word."""
    settings = SETTINGS | {"console": Console(quiet=True)} | settings
    return DatasetBuilder(out=out, **settings).build_from_raw(source, vocab, 32)


def at_moments(source: pathlib.Path, folder: pathlib.Path, moments: int, seed: int):
    """Kills builds at random moments, twice each: then they go on, and are run to their end."""
    draw = random.Random(seed)
    whole = folder / "whole"
    start = time.monotonic()
    assert _wait(_forked(_slow_build, source, whole)) == 0
    duration = time.monotonic() - start
    expected = contents(whole)
    hit, wrong = [], []
    for number in range(moments):
        out = folder / f"killed-{number}"
        # The first kill is in the number-th tenth of the whole time, the second one anywhere.
        for delay in ((number + draw.random()) / moments, draw.random() / 2):
            _note[:] = b" " * len(_note)
            child = _forked(_slow_build, source, out)
            end = time.monotonic() + delay * duration
            while time.monotonic() < end:
                _check_half(out, expected, wrong)
                time.sleep(0.005)
            os.kill(child, signal.SIGKILL)
            if _wait(child) == -signal.SIGKILL:
                hit.append(_note[:].decode().strip())
            _check_half(out, expected, wrong)
        assert _wait(_forked(build, source, out)) == 0
        _check_whole(out, expected, wrong, f"moment {number}")
    print(json.dumps({"seconds": duration, "stages": hit, "wrong": wrong}))


def at_changes(source: pathlib.Path, folder: pathlib.Path):
    """Kills builds before their first, second, ... change on disk, then runs them to their end:
    builds from naught, and builds that mend a shard of a finished dataset."""
    whole, out = folder / "whole", folder / "killed"
    assert _wait(_forked(build, source, whole)) == 0
    expected, wrong, killed = contents(whole), [], []
    for damage in ("", sorted(expected)[-2]):  # dataset.json, ..., the last shard, vocab.json
        change = 0
        while change < 25 or not damage:  # from there on it is a build that is gone on with
            change += 1
            what = f"{damage or 'new'}, change {change}"
            shutil.rmtree(out, ignore_errors=True)
            if damage:
                shutil.copytree(whole, out)
                os.truncate(out / damage, 100)
            ended = _wait(_forked(_build_until, change, source, out))
            if ended == 0:
                break
            assert ended == -signal.SIGKILL, ended
            _check_half(out, expected, wrong)
            left = sorted(contents(out)) if out.exists() else None
            if _wait(_forked(build, source, out)):
                wrong.append(f"{what}, which left {left}: could not go on")
            else:
                _check_whole(out, expected, wrong, what)
        killed.append(change)
    print(json.dumps({"killed": killed, "wrong": wrong}))


def with_workers(source: pathlib.Path, folder: pathlib.Path, seed: int):
    """Kills a build with two worker processes, and runs it again with one at once."""
    whole, out = folder / "whole", folder / "killed"
    assert _wait(_forked(build, source, whole, ByteTokenizer())) == 0
    expected, wrong = contents(whole), []
    child, ended, needed = _forked(build, source, out, SlowBytes(), workers=2), None, 2 + seed % 4
    while ended is None and len(list(out.glob(".building/bucket-*.json"))) < needed:
        time.sleep(0.01)
        ended = os.waitpid(child, os.WNOHANG)[0] or None
    assert ended is None, "the build ended before it was killed"
    workers = _children(child)
    os.kill(child, signal.SIGKILL)
    _wait(child)
    _check_half(out, expected, wrong)
    if _wait(_forked(build, source, out, SlowBytes())):
        wrong.append("could not go on")
    else:
        _check_whole(out, expected, wrong, "two workers")
    end = time.monotonic() + 3
    while (alive := [pid for pid in workers if _is_alive(pid)]) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    print(json.dumps({"workers": len(workers), "alive": len(alive), "wrong": wrong}))


def _slow_build(source, out):
    """Builds so slowly, at every stage, that a kill may land in any; notes the stage."""
    places = [
        (passes, "order_key", 0.0002, "scatter"),
        (passes, "unique_in_order", 0.005, "sort"),
        (bucket, "pack", 0.003, "pack"),
        (shards, "_to_record", 0.0001, "write a shard"),
        (shards, "sha256_of", 0.002, "checksum"),
        (builder, "make_tokenizer", 0.05, "tokenizer"),
        (builder, "write_dataset", 0.02, "dataset.json"),
        (os, "replace", 0.001, "rename"),
        (shutil, "rmtree", 0.01, "tidy"),
    ]
    for module, name, seconds, stage in places:
        setattr(module, name, _slowed(getattr(module, name), seconds, stage))
    build(source, out)


def _slowed(function, seconds, stage):
    def slow(*args, **kwargs):
        before = _note[:]
        _note[:] = stage.encode().ljust(len(_note))
        time.sleep(seconds)
        result = function(*args, **kwargs)
        _note[:] = before
        return result

    return slow


def _build_until(change, source, out):
    """Builds until just before the change-th change on disk."""
    seen = 0

    def audit(event, args):
        nonlocal seen
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes or event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir"):
            with contextlib.suppress(TypeError):  # a file descriptor
                path = os.fspath(args[0])
                # What rmtree removes is named relative to the folder it is in.
                seen += str(path).startswith(str(out)) or event in ("os.remove", "os.rmdir")
                if seen == change:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    build(source, out)


def _check_half(out, expected, wrong):
    """Notes where a dataset can be opened that is not whole."""
    try:
        open_prepared(out)
    except UserError as error:
        if "\n" in str(error) or str(out) not in str(error):
            wrong.append(f"{out.name}: {error}")
        return
    if contents(out, "*") != expected:
        wrong.append(f"{out.name} was opened when it was not whole")


def _check_whole(out, expected, wrong, what):
    now = contents(out)
    if now != expected:
        names = sorted(n for n in now.keys() | expected if now.get(n) != expected.get(n))
        wrong.append(f"{what}: other bytes in {names}")


def _forked(function, *args, **kwargs) -> int:
    child = os.fork()
    if child:
        return child
    try:
        function(*args, **kwargs)
        os._exit(0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(2)


def _wait(child) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _children(parent) -> list[int]:
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def _is_alive(pid) -> bool:
    with contextlib.suppress(OSError):
        status = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return status not in "ZX"
    return False


if __name__ == "__main__":
    what, *paths, seed = sys.argv[1:]
    source, folder = map(pathlib.Path, paths)
    size = sum(file.stat().st_size for file in source.iterdir())
    # Three pieces of work in the first pass, and in the second ten, or two.
    passes._UNIT = size // 3
    SETTINGS["shard_bytes"] = size // (2 if what == "changes" else 10) + 1
    if what == "moments":
        at_moments(source, folder, 10, int(seed))
    elif what == "changes":
        at_changes(source, folder)
    else:
        with_workers(source, folder, int(seed))
