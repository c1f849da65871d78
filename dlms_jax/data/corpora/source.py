"""Where a corpus comes from: a name or a path -> its sources, and the documents of these."""

from collections.abc import Iterable, Iterator
import dataclasses
import heapq
import pathlib

from dlms_jax.data.corpora import python, tfds
from dlms_jax.data.corpora.document import Document, is_heldout, order_key, strip
from dlms_jax.data.corpora.files import list_files, read_file
from dlms_jax.data.corpora.options import OnInvalid, ReadOptions, ignore_invalid
from dlms_jax.data.corpora.synthetic import SyntheticLanguage
from dlms_jax.errors import UserError

SYNTHETIC = "synthetic"
NAMES = (*python.CORPORA, SYNTHETIC)
_EXPANSION = {
    ".gz": 4,
    ".zst": 4,
    ".bz2": 4,
    ".parquet": 3,
}  # bytes of text for a byte of such a file, about


@dataclasses.dataclass(frozen=True)
class Source:
    """A part of a corpus that is read by itself: a file, or all of a named corpus.

    Attributes:
      corpus: one of NAMES, or "tfds:DATASET/SPLIT"; "" for a file.
      file: the path of a file, or the folder of TensorFlow Datasets.
      size: about how many bytes of text it yields; 0: unknown.
      modified: when the file was last changed, in nanoseconds.
      seed, documents: the synthetic language and the number of its documents.
    """

    corpus: str = ""
    file: str = ""
    size: int = 0
    modified: int = 0
    seed: int = 0
    documents: int = 0

    def read(
        self, options: ReadOptions, on_invalid: OnInvalid = ignore_invalid
    ) -> Iterator[Document]:
        """Yields the documents that hold text; see files.read_file."""
        if self.corpus.startswith(tfds.PREFIX):
            yield from tfds.read(self.corpus, options.field, self.file)
        elif self.file:
            yield from read_file(pathlib.Path(self.file), options, on_invalid)
        elif self.corpus == SYNTHETIC:
            yield from SyntheticLanguage(self.seed).documents(self.documents)
        else:
            yield from (d for d in python.CORPORA[self.corpus]() if strip(d.text))


def find_sources(
    corpus: str | pathlib.Path | Iterable[str | pathlib.Path], seed: int, synthetic_documents: int,
    tfds_directory: str = "",
) -> list[Source]:  # fmt: skip
    """Returns the sources of a named corpus, a file, folder, glob, or list of these.

    Args:
      corpus: one of NAMES, "tfds:DATASET/SPLIT", or paths.
      seed: which synthetic language.
      synthetic_documents: how many documents the synthetic corpus has.
      tfds_directory: where TensorFlow Datasets are prepared; "": ~/tensorflow_datasets.

    Raises:
      UserError: no corpus has this name, and no file this path.
    """
    if corpus == SYNTHETIC:
        size = int(synthetic_documents * SyntheticLanguage(seed).bytes_per_document)
        return [Source(SYNTHETIC, size=size, seed=seed, documents=synthetic_documents)]
    if isinstance(corpus, str) and corpus in python.CORPORA:
        return [Source(corpus)]
    if isinstance(corpus, str) and corpus.startswith(tfds.PREFIX):
        size = tfds.size_of(corpus, tfds_directory)
        return [Source(corpus, file=tfds_directory, size=size)]
    if not corpus:
        raise UserError(f"no corpus is named; the corpora are {', '.join(NAMES)}")
    try:
        files = list_files(corpus)
    except UserError as error:
        if isinstance(corpus, str) and not pathlib.Path(corpus).exists():
            raise UserError(f"{error}; the named corpora are {', '.join(NAMES)}") from None
        raise
    return list(map(_source, files))


def _source(file: pathlib.Path) -> Source:
    stat = file.stat()
    size = stat.st_size * _EXPANSION.get(file.suffix.lower(), 1)
    return Source(file=str(file), size=size, modified=stat.st_mtime_ns)


def first_texts(
    documents: Iterable[Document], seed: int, heldout_fraction: float, limit: int
) -> list[bytes]:
    """Returns the first `limit` bytes of training text in the order of `seed`: a random sample.

    It holds at most about 2 * limit bytes, however many documents there are.
    """
    kept: list[tuple[int, bytes, bytes]] = []  # a heap, with the last text of the order on top
    keys, size = set(), 0
    for document in documents:
        text = document.text
        key = order_key(text, seed)
        if key in keys or is_heldout(text, heldout_fraction):
            continue
        heapq.heappush(kept, (-int.from_bytes(key, "big"), key, text))
        keys.add(key)
        size += len(text)
        while size - len(kept[0][2]) >= limit:
            _, last, dropped = heapq.heappop(kept)
            keys.remove(last)
            size -= len(dropped)
    texts = [text for _, _, text in sorted(kept, reverse=True)]
    while texts and size > limit:
        size -= len(texts.pop())
    return texts


def read_sorted(sources: list[Source], options: ReadOptions, seed: int) -> list[Document]:
    """Returns all documents, without exact duplicates, in the order of `seed`.

    The order is that of a hash of each text, so it does not depend on files or their names.
    """
    unique: dict[bytes, Document] = {}
    for source in sources:
        for document in source.read(options):
            unique.setdefault(order_key(document.text, seed), document)
    return [unique[key] for key in sorted(unique)]
