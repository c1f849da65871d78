"""What a release holds: a name and a file for each."""

import dataclasses
import importlib.metadata
import pathlib
import re
import shutil

from dlms_jax.conversion.bundle import demo, readme, scripts
from dlms_jax.conversion.bundle.archive import Files
from dlms_jax.conversion.export_source import ExportSource
from dlms_jax.conversion.folder import CHECKSUMS, save_json, writable
from dlms_jax.errors import UserError
from dlms_jax.files import sha256_of

PACKAGE = pathlib.Path(__file__).parents[2]  # dlms_jax, wherever it is
TESTED = {"torch": "2.13.0", "transformers": "5.24.0", "safetensors": "0.8.0"}


@dataclasses.dataclass(frozen=True)
class Release:
    """options: what its command said besides --checkpoint, --out, --name and --version. licence: of
    the weights, "" where it was not said. with_checkpoint: whether the JAX side goes along."""

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
                    f"--{option}={value!r} is to be a part of file names; use letters, digits and "
                    ". _ + -, with a letter or digit first"
                )

    @property
    def title(self) -> str:
        return f"{self.name}-v{self.version}"


def gather(release: Release, source: ExportSource, folder: pathlib.Path) -> Files:
    """Returns all files of a release by their names in it, its SHA256SUMS among them.

    folder: has the exported weights in model/, and the run's log and curves where there are any;
    what is missing is written there. The checkpoint and this package's source are taken from where
    they are.
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
    files = {path.relative_to(folder).as_posix(): path for path in _files_of(folder)}
    if release.with_checkpoint:
        for path in _files_of(source.folder):
            inner = path.relative_to(source.folder).as_posix()
            files[f"checkpoint/{source.folder.name}/{inner}"] = path
        for path in PACKAGE.rglob("*.py"):
            files[f"source/dlms_jax/{path.relative_to(PACKAGE).as_posix()}"] = path
    text = readme.readme(release, source, list(files), TESTED)
    files["README.md"] = folder / "README.md"
    with writable(folder):
        files["README.md"].write_text(text, encoding="utf-8")
    sums = [_line_of(name, files[name]) for name in sorted(files)]
    files[CHECKSUMS] = folder / CHECKSUMS
    with writable(folder):
        files[CHECKSUMS].write_text("".join(sums), encoding="utf-8")
    return files


def _files_of(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _line_of(name: str, path: pathlib.Path) -> str:
    """Returns a file's line of SHA256SUMS."""
    try:
        return f"{sha256_of(path)}  {name}\n"
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); is its run going on?") from None


def _write_pins(path: pathlib.Path, versions: dict[str, str]):
    path.write_text("".join(f"{name}=={v}\n" for name, v in versions.items()), encoding="utf-8")


def _installed() -> dict[str, str]:
    """Returns the versions, in this Python, of what dlms_jax needs to run."""
    needs = importlib.metadata.requires("dlms_jax") or []
    names = [re.match(r"[\w.-]+", need)[0] for need in needs if "extra ==" not in need]
    return {name: importlib.metadata.version(name) for name in sorted(names)}


def _licence() -> str:
    """Returns the licence of dlms_jax, from its checkout or from where it was installed."""
    beside = PACKAGE.with_name("LICENSE")
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    text = importlib.metadata.distribution("dlms_jax").read_text("licenses/LICENSE")
    if text is None:
        raise UserError("the LICENSE of dlms_jax is not installed with it; use a checkout of it")
    return text
