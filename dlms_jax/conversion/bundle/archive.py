"""Files -> tar.gz and zip, of the same bytes whenever and wherever they are made.

What else would differ is fixed: order, times, owners, permissions, and the names that gzip keeps.
"""

from collections.abc import Callable, Mapping
import gzip
import os
import pathlib
import shutil
import stat
import tarfile
import time
import zipfile

from rich.console import Console

from dlms_jax.conversion.folder import writable
from dlms_jax.errors import UserError
from dlms_jax.terminal import byte_progress

_EXECUTABLE = (".sh", ".bat")
# zlib's fastest: of weights, 6 makes 0.3% (float32) to 0.7% (bfloat16) less in 1.1 to 3.4 times the
# time, while not to deflate them makes 7% and 24% more.
_LEVEL = 1
_FIRST_DATE = 315_532_800  # 1980-01-01, the first that a zip can hold
_LAST_DATE = 4_354_819_198  # 2107-12-31 23:59:58

Files = Mapping[str, pathlib.Path]  # by their names in the archive
Advance = Callable[[int], None]  # is told how many bytes were read


def date() -> int:
    """Returns the time that all files get: SOURCE_DATE_EPOCH where that is set, else 1980."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        return _FIRST_DATE
    if not given.isdecimal():
        raise UserError(
            f"SOURCE_DATE_EPOCH={given} should be a number of seconds; mend or unset it"
        )
    return min(max(int(given), _FIRST_DATE), _LAST_DATE)


def write_archives(
    folder: pathlib.Path, title: str, files: Files, console: Console
) -> list[pathlib.Path]:
    """Writes both archives to a folder; returns their paths."""
    date()  # a wrong one is told before anything is written
    with writable(folder):
        total = sum(path.stat().st_size for path in files.values())
    writers = {"tar.gz": write_tar_gz, "zip": write_zip}
    paths = []
    with byte_progress(console) as progress:
        for kind, write in writers.items():
            task = progress.add_task(kind, total=total)
            paths.append(folder / f"{title}-linux.{kind}")
            with writable(folder):
                write(paths[-1], title, files, lambda n, task=task: progress.advance(task, n))
    return paths


def write_tar_gz(path: pathlib.Path, top: str, files: Files, advance: Advance):
    """Writes a tar.gz, whose names begin with the folder `top`."""
    with (
        open(path, "wb") as raw,
        gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size, entry.mode = files[name].stat().st_size, _mode(name)
            entry.mtime = date()
            with _Counted(files[name], advance) as file:
                archive.addfile(entry, file)


def write_zip(path: pathlib.Path, top: str, files: Files, advance: Advance):
    """Writes a zip, whose names begin with the folder `top`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{top}/{name}", time.gmtime(date())[:6])
            entry.create_system = 3  # Unix, on every system: permissions are kept
            entry.external_attr = (stat.S_IFREG | _mode(name)) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry._compresslevel = _LEVEL  # it has a public name from Python 3.13 on only
            entry.file_size = files[name].stat().st_size  # which decides on zip64
            with _Counted(files[name], advance) as file, archive.open(entry, "w") as out:
                shutil.copyfileobj(file, out, 2**20)


def _mode(name: str) -> int:
    return 0o755 if name.endswith(_EXECUTABLE) else 0o644


class _Counted:
    """A file to read, that tells how much was read."""

    def __init__(self, path: pathlib.Path, advance: Advance):
        self._path, self._advance = path, advance

    def __enter__(self):
        self._file = open(self._path, "rb")  # noqa: SIM115 (__exit__ closes it)
        return self

    def __exit__(self, *_):
        self._file.close()

    def read(self, size: int) -> bytes:
        part = self._file.read(size)
        self._advance(len(part))
        return part
