"""A public corpus: what is known of it, its card, and how it becomes documents.

It is read from downloaded files, or through TensorFlow Datasets or Hugging Face `datasets`. The
corpora themselves are in public_corpora.py.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import fnmatch
import glob
import itertools
import pathlib
from typing import Any, Literal

from dlms_jax.data.corpora import tfds
from dlms_jax.data.corpora.document import Document, strip
from dlms_jax.data.corpora.files import read_file
from dlms_jax.errors import UserError, optional_import

Via = Literal["files", "tfds", "datasets"]


@dataclasses.dataclass(frozen=True)
class PublicCorpus:
    """A public corpus.

    Attributes:
      name: what users call it.
      title, source, licence, size: for its card; source is where it is described, and size is what
        the source states.
      formats: patterns of the names of the files that `download` fetches.
      download: shell commands.
      parse: yields the documents of one of these files.
      tfds: its name in TensorFlow Datasets.
      hub: (id, config, split) for `datasets.load_dataset`.
      field: the field of a record that holds the text, with both libraries.
      regroup: makes the texts of documents from the texts of these records.
      notes: what its users should know.
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
    regroup: Callable[[Iterable[bytes]], Iterable[bytes]] = iter
    notes: str = ""

    @property
    def command(self) -> str:
        """Returns the command that prepares the files which `download` fetched."""
        return f"{self.streaming_command} --from data/{self.name}"

    @property
    def streaming_command(self) -> str:
        """Returns the command that prepares the corpus without files."""
        return f"python -m dlms_jax.prepare corpus --name {self.name} --out datasets/{self.name}"


def card(corpus: PublicCorpus) -> str:
    """Returns a Markdown card: source, licence, size, and the commands."""
    lines = [
        f"# {corpus.title}",
        "",
        f"- Source: {corpus.source}",
        f"- Licence: {corpus.licence}",
        f"- Size: {corpus.size}",
        f"- Files: {', '.join(f'`{pattern}`' for pattern in corpus.formats)}",
    ]
    if corpus.tfds:
        lines.append(f"- TensorFlow Datasets: `{corpus.tfds}`")
    if corpus.hub:
        lines.append(f"- Hugging Face datasets: `{' '.join(filter(None, corpus.hub))}`")
    if corpus.notes:
        lines.append(f"- Note: {corpus.notes}")
    lines += ["", "From downloaded files:", "", "```", *corpus.download, corpus.command, "```"]
    if corpus.tfds or corpus.hub:
        lines += ["", "Without files of your own:", "", "```", corpus.streaming_command, "```"]
    return "\n".join(lines) + "\n"


def documents(
    corpus: PublicCorpus,
    paths: str | pathlib.Path | Iterable[str | pathlib.Path] | None = None,
    via: Via | None = None,
    tfds_directory: str = "",
) -> Iterator[Document]:
    """Returns the documents of a corpus, a stream.

    Args:
      corpus: which corpus.
      paths: downloaded files, folders (searched deeply) or globs.
      via: how it is read. None: from files if paths are given, else through TensorFlow Datasets if
        the corpus is there, else through `datasets`.
      tfds_directory: where TensorFlow Datasets are prepared; "": ~/tensorflow_datasets.

    Raises:
      UserError: the paths hold none of the corpus's files, or the corpus is not available that way.
        It is raised at once, not at the first document.
    """
    ways = _ways(corpus)
    if via is None:
        via = "files" if paths is not None else [*ways[1:], "files"][0]
    if via not in ways:
        raise UserError(f"{corpus.name} is not available via {via}, only via {', '.join(ways)}")
    if via != "files":
        if paths is not None:
            raise UserError(f"{corpus.name} is read via {via}, which takes no files: {paths}")
        return _tfds(corpus, tfds_directory) if via == "tfds" else _datasets(corpus)
    if paths is None:
        raise UserError(
            f"{corpus.name} is read from files: download them ({' && '.join(corpus.download)}), "
            f"then {corpus.command}"
        )
    return itertools.chain.from_iterable(map(corpus.parse, find_files(corpus, paths)))


def _ways(corpus: PublicCorpus) -> list[Via]:
    """Returns the ways in which a corpus is available."""
    ways: dict[Via, Any] = {"files": corpus.formats, "tfds": corpus.tfds, "datasets": corpus.hub}
    return [way for way, available in ways.items() if available]


def find_files(corpus: PublicCorpus, paths) -> list[pathlib.Path]:
    """Returns the corpus's files among files, folders and globs, sorted.

    Raises:
      UserError: a path holds none of them.
    """
    expected = f"{corpus.name} is read from {', '.join(corpus.formats)}"
    found: dict[pathlib.Path, pathlib.Path] = {}
    candidates: Iterable[pathlib.Path]
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
        files = [file for file in candidates if file.is_file() and _fits(corpus, file.name)]
        if not files:
            what = "is no such file" if path.is_file() else "holds no such file"
            raise UserError(f"{expected}, and {text} {what}")
        found |= {file.resolve(): file for file in files}
    if not found:
        raise UserError(f"{expected}, and no path is given")
    return sorted(found.values())


def _fits(corpus: PublicCorpus, name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in corpus.formats)


def _tfds(corpus: PublicCorpus, directory: str) -> Iterator[Document]:
    """Returns the documents of a TensorFlow dataset, through its reader that needs no TensorFlow.

    The first use downloads and prepares the whole dataset.
    """
    name = corpus.tfds
    assert name is not None  # `_ways` has it
    return _documents(corpus, name, lambda: tfds.rows(name, "train", directory))


def _datasets(corpus: PublicCorpus) -> Iterator[Document]:
    """Returns the documents of a dataset on the Hub, streamed: nothing is stored."""
    datasets = optional_import("datasets", "hub")
    assert corpus.hub is not None  # `_ways` has it
    name, config, split = corpus.hub

    def load():
        return datasets.load_dataset(name, config, split=split, streaming=True)

    return _documents(corpus, "/".join(filter(None, corpus.hub)), load)


def _documents(corpus: PublicCorpus, where: str, load: Callable[[], Iterable[dict]]):
    texts = corpus.regroup(_texts(corpus, where, load))
    for number, text in enumerate(texts):
        if strip(text):
            yield Document(f"{where}#{number}", text)


def _texts(corpus: PublicCorpus, where: str, load: Callable[[], Iterable[dict]]) -> Iterator[bytes]:
    field = corpus.field
    for number, row in enumerate(_rows(corpus, where, load)):
        if field not in row:
            raise UserError(f"{where}#{number} has no field {field!r}; it has {', '.join(row)}")
        yield tfds.text_of(row[field])


def _rows(corpus: PublicCorpus, where: str, load: Callable[[], Iterable[dict]]) -> Iterator[dict]:
    """Yields rows; every error of the library (network, name, login) becomes a UserError."""
    try:
        yield from load()
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{where} cannot be read ({type(error).__name__}: {reason}); "
            f"{corpus.name} is available via {', '.join(_ways(corpus))}"
        ) from None
