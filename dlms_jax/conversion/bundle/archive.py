"""Files -> tar.gz and zip, with the same bytes whenever and wherever they are made.

Everything that would make them differ is fixed: order, times, owners, permissions, and the file
name in the header of gzip.
"""

from collections.abc import Callable, Mapping
import functools
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
# zlib's fastest level. Level 6 makes weights 0.3% (float32) to 0.7% (bfloat16) smaller and takes
# 1.1 to 3.4 times as long; without compression they are 7% and 24% larger.
_LEVEL = 1
_FIRST_DATE = 315_532_800  # 1980-01-01, the first date that a zip can hold
_LAST_DATE = 4_354_819_198  # 2107-12-31 23:59:58

Files = Mapping[str, pathlib.Path]  # by their names in the archive
Advance = Callable[[int], None]  # takes the number of bytes that were read


def date() -> int:
    """Returns the modification time of all files, in seconds since 1970.

    It is the variable SOURCE_DATE_EPOCH if that is set, else 1980-01-01.

    Raises:
      UserError: SOURCE_DATE_EPOCH is not a number.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not given:
        return _FIRST_DATE
    if not given.isdecimal():
        raise UserError(
            f"SOURCE_DATE_EPOCH={given} should be a number of seconds; correct or unset it"
        )
    return min(max(int(given), _FIRST_DATE), _LAST_DATE)


def write_archives(
    folder: pathlib.Path, title: str, files: Files, console: Console
) -> list[pathlib.Path]:
    """Writes both archives, and returns their paths.

    Args:
      folder: where to write them.
      title: their name, and the folder in which their files are.
      files: the files, by name.
      console: where to show the progress.

    Raises:
      UserError: a file cannot be read, or an archive cannot be written.
    """
    date()  # an invalid date is an error before anything is written
    with writable(folder):
        total = sum(path.stat().st_size for path in files.values())
    writers = {"tar.gz": write_tar_gz, "zip": write_zip}
    paths = []
    with byte_progress(console) as progress:
        for kind, write in writers.items():
            task = progress.add_task(kind, total=total)
            paths.append(folder / f"{title}-linux.{kind}")
            with writable(folder):
                write(paths[-1], title, files, functools.partial(progress.advance, task))
    return paths


def write_tar_gz(path: pathlib.Path, top: str, files: Files, advance: Advance):
    """Writes a tar.gz whose files are in the folder `top`; `advance` reports the bytes read."""
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
    """Writes a zip whose files are in the folder `top`; `advance` reports the bytes read."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(f"{top}/{name}", time.gmtime(date())[:6])
            entry.create_system = 3  # Unix, whatever this system is, so that permissions are kept
            entry.external_attr = (stat.S_IFREG | _mode(name)) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            # Public (compress_level) only since Python 3.13.
            entry._compresslevel = _LEVEL  # type: ignore[attr-defined]
            entry.file_size = files[name].stat().st_size  # decides whether zip64 is used
            with _Counted(files[name], advance) as file, archive.open(entry, "w") as out:
                shutil.copyfileobj(file, out, 2**20)


def _mode(name: str) -> int:
    return 0o755 if name.endswith(_EXECUTABLE) else 0o644


class _Counted:
    """A file that reports how many bytes were read from it."""

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
