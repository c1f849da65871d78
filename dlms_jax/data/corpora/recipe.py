"""A public corpus: what a recipe states of it, its card, and how it becomes documents.

It is read from files that were downloaded, or through TensorFlow Datasets or Hugging Face
`datasets`. TensorFlow Datasets was not at hand when this was written: it is tested against a
stand-in only. The recipes themselves are in recipes.py.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import fnmatch
import glob
import itertools
import pathlib
from typing import Literal

from dlms_jax.data.corpora.document import Document
from dlms_jax.data.corpora.files import read_file
from dlms_jax.errors import UserError, optional_import

Via = Literal["files", "tfds", "datasets"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A public corpus.

    source: where it is described. size: what the source states. formats: patterns of the names of
    the files that `download` (shell commands) fetches; parse: reads one of them. tfds: its name in
    TensorFlow Datasets. hub: (id, config, split) for `datasets.load_dataset`. field: what holds the
    text in a record of either; regroup: what makes documents of such texts. notes: what its users
    should know.
    """

    name: str
    title: str
    source: str
    licence: str
    size: str
    formats: tuple[str, ...]
    download: tuple[str, ...]
    parse: Callable[[pathlib.Path], Iterator[Document]] = read_file
    tfds: str | None = None
    hub: tuple[str, str | None, str] | None = None
    field: str = "text"
    regroup: Callable[[Iterable[str]], Iterable[str]] = iter
    notes: str = ""

    @property
    def command(self) -> str:
        """Returns the command that prepares the files which `download` fetched."""
        return f"{self.streaming_command} --from data/{self.name}"

    @property
    def streaming_command(self) -> str:
        """Returns the command that prepares it without files."""
        return f"python -m dlms_jax.prepare corpus --name {self.name} --out datasets/{self.name}"


def card(recipe: Recipe) -> str:
    """Returns a Markdown card: source, licence, size, and the commands."""
    lines = [
        f"# {recipe.title}",
        "",
        f"- Source: {recipe.source}",
        f"- Licence: {recipe.licence}",
        f"- Size: {recipe.size}",
        f"- Files: {', '.join(f'`{pattern}`' for pattern in recipe.formats)}",
    ]
    if recipe.tfds:
        lines.append(f"- TensorFlow Datasets: `{recipe.tfds}`")
    if recipe.hub:
        lines.append(f"- Hugging Face datasets: `{' '.join(filter(None, recipe.hub))}`")
    if recipe.notes:
        lines.append(f"- Note: {recipe.notes}")
    lines += ["", "From downloaded files:", "", "```", *recipe.download, recipe.command, "```"]
    if recipe.tfds or recipe.hub:
        lines += ["", "Without files of your own:", "", "```", recipe.streaming_command, "```"]
    return "\n".join(lines) + "\n"


def documents(
    recipe: Recipe,
    paths: str | pathlib.Path | Iterable[str | pathlib.Path] | None = None,
    via: Via | None = None,
) -> Iterator[Document]:
    """Returns a corpus's documents, a stream.

    paths: files, folders (searched deeply) or globs. via: None takes files where paths are given,
    else TensorFlow Datasets where the corpus is there, else `datasets`.

    Raises UserError, at once, for paths that hold none of the recipe's files and for a way that the
    corpus cannot be had by.
    """
    ways = _ways(recipe)
    if via is None:
        via = "files" if paths is not None else [*ways[1:], "files"][0]
    if via not in ways:
        raise UserError(f"{recipe.name} is not to be had via {via}; it is via {', '.join(ways)}")
    if via != "files":
        if paths is not None:
            raise UserError(f"{recipe.name} is read via {via}, so no files can be named: {paths}")
        return _tfds(recipe) if via == "tfds" else _datasets(recipe)
    if paths is None:
        raise UserError(
            f"{recipe.name} is read from files: download them ({' && '.join(recipe.download)}), "
            f"then {recipe.command}"
        )
    return itertools.chain.from_iterable(map(recipe.parse, find_files(recipe, paths)))


def _ways(recipe: Recipe) -> list[Via]:
    """Returns the ways by which a corpus can be had."""
    ways = {"files": recipe.formats, "tfds": recipe.tfds, "datasets": recipe.hub}
    return [way for way, there in ways.items() if there]


def find_files(recipe: Recipe, paths) -> list[pathlib.Path]:
    """Returns the recipe's files among files, folders and globs, sorted; UserError for none."""
    expected = f"{recipe.name} is read from {', '.join(recipe.formats)}"
    found = {}
    for path in [paths] if isinstance(paths, str | pathlib.Path) else list(paths):
        text, path = str(path), pathlib.Path(path)
        if path.is_dir():
            candidates = path.rglob("*")
        elif path.exists():
            candidates = [path]
        elif glob.has_magic(text):
            candidates = map(pathlib.Path, glob.glob(text, recursive=True))
        else:
            raise UserError(f"no file or folder is named {text!r} ({expected})")
        files = [file for file in candidates if file.is_file() and _fits(recipe, file.name)]
        if not files:
            what = "is no such file" if path.is_file() else "holds no such file"
            raise UserError(f"{expected}, and {text} {what}")
        found |= {file.resolve(): file for file in files}
    if not found:
        raise UserError(f"{expected}, and none is named")
    return sorted(found.values())


def _fits(recipe: Recipe, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in recipe.formats)


def _tfds(recipe: Recipe) -> Iterator[Document]:
    """Returns the documents of a TensorFlow dataset, through its reader that needs no TensorFlow.

    The first use downloads and prepares the whole dataset under ~/tensorflow_datasets.
    """
    tfds = optional_import("tensorflow_datasets", "tfds")
    return _documents(recipe, recipe.tfds, lambda: tfds.data_source(recipe.tfds, split="train"))


def _datasets(recipe: Recipe) -> Iterator[Document]:
    """Returns the documents of a dataset on the Hub, streamed: nothing is stored."""
    datasets = optional_import("datasets", "hub")
    name, config, split = recipe.hub

    def load():
        return datasets.load_dataset(name, config, split=split, streaming=True)

    return _documents(recipe, "/".join(filter(None, recipe.hub)), load)


def _documents(recipe: Recipe, where: str, load: Callable[[], Iterable[dict]]):
    texts = recipe.regroup(_texts(recipe, where, load))
    for number, text in enumerate(texts):
        if text.strip():
            yield Document(f"{where}#{number}", text)


def _texts(recipe: Recipe, where: str, load: Callable[[], Iterable[dict]]) -> Iterator[str]:
    field = recipe.field
    for number, row in enumerate(_rows(recipe, where, load)):
        if field not in row:
            raise UserError(f"{where}#{number} has no field {field!r}; it has {', '.join(row)}")
        text = row[field]
        yield text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text


def _rows(recipe: Recipe, where: str, load: Callable[[], Iterable[dict]]) -> Iterator[dict]:
    """Yields rows. Whatever the library raises (network, name, login) is for the user to see."""
    try:
        yield from load()
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{where} cannot be read ({type(error).__name__}: {reason}); "
            f"{recipe.name} is to be had via {', '.join(_ways(recipe))}"
        ) from None
