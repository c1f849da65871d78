"""Text that every Python carries: the standard library's documentation and source.

PSF licence. It is read where it is installed; nothing is copied. It differs between versions of
Python: docs/corpora.md has fingerprints of some, and the oddities of the text.
"""

import ast
from collections.abc import Iterator
import pathlib
import sysconfig

from dlms_jax.data.corpora.document import Document, to_bytes, to_str


def _python_docs() -> Iterator[Document]:
    """Yields the language reference that `help()` shows: pydoc's topics."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(f"pydoc/{name}", to_bytes(topics[name]))


def _python_docstrings() -> Iterator[Document]:
    """Yields a document for each module: its docstrings, in the order of the source."""
    for name, source in _python_sources():
        tree = ast.parse(to_str(source))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
        nodes.sort(key=lambda node: getattr(node, "lineno", 0))
        docstrings = [ast.get_docstring(node) for node in nodes]
        text = "\n\n".join(filter(None, docstrings))
        yield Document(f"docstrings/{name}", to_bytes(text))


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
    """Yields the standard library's modules, without its tests and without installed packages."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if left_out.isdisjoint(relative.parts):
            text = path.read_text(encoding="utf-8", errors="replace")
            yield Document(relative.as_posix(), text.encode())
