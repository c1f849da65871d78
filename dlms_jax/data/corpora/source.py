"""What a corpus may be called: a name we know, or a path to raw text."""

from collections.abc import Iterable, Iterator
import dataclasses
import heapq
import pathlib

from dlms_jax.data.corpora import python
from dlms_jax.data.corpora.document import Document, is_heldout, order_key, to_bytes
from dlms_jax.data.corpora.files import Count, ReadOptions, list_files, read_file
from dlms_jax.data.corpora.synthetic import SyntheticLanguage
from dlms_jax.errors import UserError

SYNTHETIC = "synthetic"
_EXPANDS = {".gz": 4, ".zst": 4, ".parquet": 3}  # about how many bytes of text come from one
NAMES = (*python.CORPORA, SYNTHETIC)


@dataclasses.dataclass(frozen=True)
class Source:
    """A part of a corpus that is read on its own: a file, or all of a named corpus.

    size: about how many bytes of text it will yield (0: unknown).
    """

    corpus: str = ""
    file: str = ""
    size: int = 0
    modified: int = 0  # nanoseconds
    seed: int = 0  # synthetic only
    documents: int = 0  # synthetic only

    def read(self, options: ReadOptions, count: Count = id) -> Iterator[Document]:
        """Yields the documents that hold text."""
        if self.file:
            yield from read_file(pathlib.Path(self.file), options, count)
        elif self.corpus == SYNTHETIC:
            yield from SyntheticLanguage(self.seed).documents(self.documents)
        else:
            yield from (d for d in python.CORPORA[self.corpus]() if d.text.strip())


def find_sources(
    corpus: str | pathlib.Path | Iterable[str | pathlib.Path], seed: int, synthetic_documents: int
) -> list[Source]:
    """Returns the sources of a named corpus, a file, folder, glob, or list of these."""
    if corpus == SYNTHETIC:
        size = int(synthetic_documents * SyntheticLanguage(seed).bytes_per_document)
        return [Source(SYNTHETIC, size=size, seed=seed, documents=synthetic_documents)]
    if isinstance(corpus, str) and corpus in python.CORPORA:
        return [Source(corpus)]
    if not corpus:
        raise UserError(f"no corpus is named; the corpora are {', '.join(NAMES)}")
    try:
        files = list_files(corpus)
    except UserError as error:
        if isinstance(corpus, str) and not pathlib.Path(corpus).exists():
            raise UserError(f"{error}; the named corpora are {', '.join(NAMES)}") from None
        raise
    stats = [(file, file.stat()) for file in files]
    return [
        Source(file=str(f), size=s.st_size * _EXPANDS.get(f.suffix, 1), modified=s.st_mtime_ns)
        for f, s in stats
    ]


def first_texts(
    sources: list[Source], options: ReadOptions, seed: int, heldout_fraction: float, limit: int,
    count: Count = id, advance: Count = id,
) -> list[str]:  # fmt: skip
    """Returns the first `limit` bytes of training text in the order that `seed` names: a sample
    that no more than twice as much memory is taken for, whatever the sources' size.

    advance: told the bytes of each text that was read.
    """
    kept: list[tuple[int, bytes, bytes]] = []  # a heap: the last in order on top
    keys, size = set(), 0
    for source in sources:
        for document in source.read(options, count):
            text = to_bytes(document.text)
            advance(len(text))
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
    return [text.decode("utf-8", "surrogateescape") for text in texts]


def read_sorted(sources: list[Source], options: ReadOptions, seed: int) -> list[Document]:
    """Returns all documents, exact duplicates dropped, in the order that `seed` names.

    The order is that of a hash of each text, so it depends on no file or name.
    """
    unique = {}
    for source in sources:
        for document in source.read(options):
            unique.setdefault(order_key(to_bytes(document.text), seed), document)
    return [unique[key] for key in sorted(unique)]
