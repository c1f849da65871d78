"""The files of a release."""

import dataclasses
import importlib.metadata
import pathlib
import re
import shutil

from dlms_jax.conversion.bundle import demo, readme, scripts
from dlms_jax.conversion.bundle.archive import Files
from dlms_jax.conversion.export_source import ExportSource
from dlms_jax.conversion.folder import (
    CHECKSUMS,
    digests_of,
    files_of,
    save_json,
    writable,
    write_checksums,
)
from dlms_jax.errors import UserError

PACKAGE = pathlib.Path(__file__).parents[2]  # the folder dlms_jax, wherever it is installed
TESTED = {"torch": "2.13.0", "transformers": "5.24.0", "safetensors": "0.8.0"}


@dataclasses.dataclass(frozen=True)
class Release:
    """What the release command was given.

    Attributes:
      name: the name of the release.
      version: its version.
      options: the other options of the command that are not defaults, for the README.
      licence: the licence of the weights; "" if it is not stated.
      with_checkpoint: whether to include the JAX checkpoint and this package's source.

    Raises:
      UserError: the name or the version cannot be a part of a file name.
    """

    name: str
    version: str
    options: tuple[str, ...] = ()
    licence: str = ""
    with_checkpoint: bool = False

    def __post_init__(self):
        for option in ("name", "version"):
            value = getattr(self, option)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", value):
                raise UserError(
                    f"--{option}={value!r} becomes a part of file names; use letters, digits and "
                    ". _ + -, with a letter or digit first"
                )

    @property
    def title(self) -> str:
        """The name of the archives and of the folder in them, without the system."""
        return f"{self.name}-v{self.version}"


def gather(release: Release, source: ExportSource, folder: pathlib.Path) -> Files:
    """Writes the files of a release that are still missing; returns all of them, by name.

    Args:
      release: the release.
      source: the checkpoint. It and this package's source are not copied to `folder`.
      folder: has the exported weights in model/, and the run's log and curves if there are any.

    Raises:
      UserError: a file cannot be read or written.
    """
    with writable(folder):
        for name, text in (("run_demo.sh", scripts.to_sh()), ("run_demo.bat", scripts.to_bat())):
            (folder / name).write_bytes(text.encode("ascii"))
        shutil.copyfile(demo.__file__, folder / "demo.py")
        (folder / "LICENSE").write_text(_licence(), encoding="utf-8")
        _write_pins(folder / "requirements.txt", TESTED)
        if release.with_checkpoint:
            _write_pins(folder / "requirements-jax.txt", _installed())
    save_json(folder / "config.json", source.config.to_dict())
    files = files_of(folder)
    if release.with_checkpoint:
        for name, path in files_of(source.folder).items():
            files[f"checkpoint/{source.folder.name}/{name}"] = path
        for path in PACKAGE.rglob("*.py"):
            files[f"source/dlms_jax/{path.relative_to(PACKAGE).as_posix()}"] = path
    text = readme.readme(release, source, list(files), TESTED)
    files["README.md"] = folder / "README.md"
    with writable(folder):
        files["README.md"].write_text(text, encoding="utf-8")
    write_checksums(folder, digests_of(files))
    return files | {CHECKSUMS: folder / CHECKSUMS}


def _write_pins(path: pathlib.Path, versions: dict[str, str]):
    path.write_text("".join(f"{name}=={v}\n" for name, v in versions.items()), encoding="utf-8")


def _installed() -> dict[str, str]:
    """Returns the installed version of each package that dlms_jax requires."""
    needs = importlib.metadata.requires("dlms_jax") or []
    names = [re.split(r"[^\w.-]", need)[0] for need in needs if "extra ==" not in need]
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def _licence() -> str:
    """Returns the licence of dlms_jax, from its checkout or its installation."""
    beside = PACKAGE.with_name("LICENSE")
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    text = importlib.metadata.distribution("dlms_jax").read_text("licenses/LICENSE")
    if text is None:
        raise UserError("the LICENSE of dlms_jax is not installed; run this from a checkout of it")
    return text
