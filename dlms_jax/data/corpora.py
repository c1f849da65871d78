"""Documents to train on: text that every Python carries, or the user's own files.

The standard library's text (PSF licence) is read where it is installed; nothing is copied. It
differs between Python versions, which is why a run keeps its fingerprint (dataset.py).
"""

import ast
from collections.abc import Iterator
import hashlib
import pathlib
import sysconfig
from typing import NamedTuple

from dlms_jax.errors import UserError

TEXT_SUFFIXES = (".txt", ".md", ".rst")
_PIECE = 16 * 1024  # characters: a longer file is cut, at line ends, into documents of this size


class Document(NamedTuple):
    name: str
    text: str


def load_corpus(corpus: str) -> list[Document]:
    """Returns the documents of a named corpus, a text file or a folder, in a fixed order.

    Exact duplicates are dropped, so that no held-out text was trained on.
    """
    documents = CORPORA[corpus]() if corpus in CORPORA else _read_files(corpus)
    unique = {}
    for document in documents:
        if document.text.strip():
            unique.setdefault(document.text, document)
    if not unique:
        raise UserError(f"the corpus {corpus} holds no text")
    return list(unique.values())


def split_corpus(documents: list[Document], heldout_fraction: float):
    """Returns (train, held-out) documents.

    A document's side depends on its text alone, so a corpus that grows moves nothing across.
    """
    sides = [], []
    for document in documents:
        digest = hashlib.sha256(document.text.encode("utf-8", "surrogateescape")).digest()
        heldout = int.from_bytes(digest[:8], "big") < heldout_fraction * 2**64
        sides[heldout].append(document)
    return sides


def _python_docs() -> Iterator[Document]:
    """Yields the language reference that `help()` shows: pydoc's topics."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(f"pydoc/{name}", topics[name])


def _python_docstrings() -> Iterator[Document]:
    """Yields one document a module: its docstrings, in the order of the source."""
    for name, source in _python_sources():
        tree = ast.parse(source)
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        nodes.sort(key=lambda node: getattr(node, "lineno", 0))
        docstrings = [ast.get_docstring(node) for node in nodes]
        yield Document(f"docstrings/{name}", "\n\n".join(filter(None, docstrings)))


def _python_code() -> Iterator[Document]:
    """Yields the source files."""
    for name, source in _python_sources():
        yield Document(f"code/{name}", source)


def _python_prose() -> Iterator[Document]:
    """Yields English prose about Python: the docs, then the docstrings."""
    yield from _python_docs()
    yield from _python_docstrings()


CORPORA = {
    "python-docs": _python_docs,
    "python-docstrings": _python_docstrings,
    "python-code": _python_code,
    "python-prose": _python_prose,
}


def _python_sources() -> Iterator[Document]:
    """Yields the standard library's modules, without its tests and what was installed beside it."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if left_out.isdisjoint(relative.parts):
            yield Document(relative.as_posix(), path.read_text(encoding="utf-8", errors="replace"))


def _read_files(corpus: str) -> Iterator[Document]:
    path = pathlib.Path(corpus)
    if not corpus:
        raise UserError(f"no corpus is named; the corpora are {', '.join(CORPORA)}")
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES and p.is_file())
        if not files:
            raise UserError(f"the folder {corpus} has no {', '.join(TEXT_SUFFIXES)} file")
    else:
        raise UserError(
            f"no corpus, file or folder is named {corpus!r}; the corpora are {', '.join(CORPORA)}"
        )
    for file in files:
        try:
            text = file.read_bytes().decode("utf-8", "surrogateescape")  # line ends as they are
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from None
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        for number, piece in enumerate(_pieces(text)):
            yield Document(f"{name}#{number}", piece)


def _pieces(text: str) -> Iterator[str]:
    """Yields the text in pieces of at most about _PIECE characters that end at a line's end."""
    start = 0
    while start < len(text):
        end = text.rfind("\n", start, start + _PIECE) + 1
        if len(text) - start <= _PIECE or end <= start:
            end = min(start + _PIECE, len(text))
        yield text[start:end]
        start = end
