"""The plain text files of language-modelling benchmarks, each with its own rule for a document."""

from collections.abc import Iterable, Iterator
import contextlib
import io
import pathlib
import re
import zipfile
import zlib

from dlms_jax.data.corpora.document import Document, strip
from dlms_jax.data.corpora.files import read_file
from dlms_jax.data.corpora.text_files import cut
from dlms_jax.errors import UserError

STORY_END = b"<|endoftext|>"
_TITLE = re.compile(rb" = (?!= ).*(?<! =) = \n?")  # sections have more: ` = = Section = = `
_PIECE = 16 * 1024  # characters of a document if the source is one long text
_BLOCK = 1 << 20  # characters of such a text that are read at a time


def wikitext(path: pathlib.Path) -> Iterator[Document]:
    """Yields the articles of a WikiText file; joined, they are the file."""
    yield from _numbered(path, articles(_lines(path)))


def articles(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the articles of WikiText from its lines: a title after a blank line starts one.

    The rows of the Hub's copy are such lines too, but its blank lines are empty: they get their
    " \\n" back.
    """
    article: list[bytes] = []
    after_blank = True
    for line in lines:
        if after_blank and _TITLE.fullmatch(line) and any(map(strip, article)):
            # The blank line before a title belongs to the title's article, as at the file's start.
            *article, blank = article
            yield b"".join(article)
            article = [blank]
        article.append(line or b" \n")
        after_blank = not strip(line)
    yield b"".join(article)


def sentences(path: pathlib.Path) -> Iterator[Document]:
    """Yields the lines of a file of the One Billion Word benchmark: shuffled sentences."""
    yield from _numbered(path, (line.removesuffix(b"\n") for line in _lines(path)))


def stories(path: pathlib.Path) -> Iterator[Document]:
    """Yields the stories of a TinyStories file, .txt or .parquet."""
    if path.suffix == ".parquet":
        yield from read_file(path)
    else:
        yield from _numbered(path, _stories(_lines(path)))


def _stories(lines: Iterable[bytes]) -> Iterator[bytes]:
    story = []
    for line in lines:
        end, *others = line.split(STORY_END)
        story.append(end)
        for other in others:
            yield strip(b"".join(story))
            story = [other]
    yield strip(b"".join(story))


def whole(path: pathlib.Path) -> Iterator[Document]:
    """Yields the text of a file, such as a book of PG-19, as one document."""
    with _opened(path) as stream:
        yield from _numbered(path, [stream.read()])


def endless(path: pathlib.Path) -> Iterator[Document]:
    """Yields enwik8 or text8, zipped or not, in pieces that end at line ends if there are any.

    Joined, they are the file, including bytes that are not UTF-8.
    """
    if path.suffix != ".zip":
        with _opened(path) as stream:
            yield from _numbered(path, _pieces(stream))
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as stream:
                    yield from _numbered(f"{path}/{name}", _pieces(stream))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{path} is cut off or damaged: {error}") from None


def _pieces(stream) -> Iterator[bytes]:
    text = io.TextIOWrapper(stream, "utf-8", "surrogateescape", newline="\n")
    return cut(iter(lambda: text.read(_BLOCK), ""), _PIECE)


def _lines(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the lines of a file; a line ends at \\n only."""
    with _opened(path) as stream:
        yield from stream


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[io.BufferedIOBase]:
    try:
        with open(path, "rb") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _numbered(source, texts: Iterable[bytes]) -> Iterator[Document]:
    for number, text in enumerate(texts):
        if strip(text):
            yield Document(f"{source}#{number}", text)
