"""Corpora: nothing lost, nothing twice, and a split that never moves a document across."""

import os
import pathlib
import sys
import sysconfig

from hypothesis import given, settings, strategies as st
import pytest

from dlms_jax.data import corpora
from dlms_jax.data.corpora import CORPORA, Document, load_corpus, split_corpus
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError

TEXTS = st.lists(st.text(max_size=8), unique=True, max_size=30)
FRACTION = st.floats(0.05, 0.95)


@pytest.fixture(scope="module")
def prose() -> list[Document]:
    """The one reading of the standard library's docstrings: parsing it takes seconds."""
    return load_corpus("python-prose")


@pytest.fixture(scope="module")
def source_names() -> list[str]:
    return [document.name for document in corpora._python_sources()]


def documents_of(texts) -> list[Document]:
    return [Document(f"{number}", text) for number, text in enumerate(texts)]


def raw(text: str) -> bytes:
    """Returns the bytes that a text was read from, by way of the byte tokenizer."""
    return bytes(ByteTokenizer().encode(text).tolist())


# The split


@settings(deadline=None)
@given(texts=TEXTS, fraction=FRACTION)
def test_split_keeps_every_document_once_and_in_order(texts, fraction):
    documents = documents_of(texts)
    train, heldout = split_corpus(documents, fraction)
    assert not set(train) & set(heldout)
    order = {document: number for number, document in enumerate(documents)}
    assert sorted(train + heldout, key=order.get) == documents
    for side in (train, heldout):
        assert side == sorted(side, key=order.get)


@settings(deadline=None)
@given(texts=TEXTS, fraction=FRACTION, shuffle=st.randoms(use_true_random=False))
def test_side_depends_on_the_text_alone(texts, fraction, shuffle):
    """Not on the order, the names or the other documents: a corpus may grow or lose some."""
    heldout = {d.text for d in split_corpus(documents_of(texts), fraction)[1]}
    shuffle.shuffle(texts)
    part = texts[: len(texts) // 2]
    assert {d.text for d in split_corpus(documents_of(part), fraction)[1]} == heldout & set(part)


@settings(deadline=None)
@given(texts=TEXTS, fractions=st.tuples(FRACTION, FRACTION))
def test_a_larger_fraction_holds_out_more_and_the_same(texts, fractions):
    small, large = (set(split_corpus(documents_of(texts), f)[1]) for f in sorted(fractions))
    assert small <= large


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
def test_fraction_is_that_of_the_documents(fraction):
    n = 4000
    heldout = split_corpus(documents_of(map(str, range(n))), fraction)[1]
    deviation = (n * fraction * (1 - fraction)) ** 0.5
    assert abs(len(heldout) - n * fraction) < 4 * deviation


def test_split_is_the_one_that_checkpoints_were_made_with():
    """Another rule would evaluate old checkpoints on what they were trained on."""
    heldout = split_corpus(documents_of("abcdefghijklmnopqrstuvwxyz"), 0.3)[1]
    assert "".join(document.text for document in heldout) == "bcdefjnprsuvx"


# Files and folders


@pytest.mark.parametrize(
    "content",
    [
        b"one line, no end",
        b"caf\xe9 \xff\xfe\x80 is no UTF-8\n",
        "\ufeffé \U0001f600 e\u0301\0 ok\n".encode(),
        b"windows\r\nlines\r\nand old\rmacs\n\n\r\n",
    ],
    ids=["plain", "invalid", "unicode", "line ends"],
)
def test_file_is_read_byte_for_byte(content, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    documents = load_corpus(str(path))
    assert raw("".join(document.text for document in documents)) == content


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_pieces_give_the_text_back(data):
    """Whatever the lengths of lines; only a line longer than a piece is cut inside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_PIECE", 10)
        lines = data.draw(st.lists(st.text("ab\u2028\r", max_size=14), max_size=12))
        text = "\n".join(lines)
        pieces = list(corpora._pieces(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 10 for piece in pieces)
    for piece in pieces[:-1]:
        assert piece.endswith("\n") or ("\n" not in piece and len(piece) == 10)


def test_long_file_is_cut_at_line_ends(tmp_path):
    path = tmp_path / "long.md"
    content = "".join(f"line {number} of a long file\n" for number in range(5000))
    path.write_text(content)
    documents = load_corpus(str(path))
    assert len(documents) > 5
    assert "".join(document.text for document in documents) == content
    assert all(document.text.endswith("\n") for document in documents)
    assert len({document.name for document in documents}) == len(documents)


def test_folder_is_read_in_order_with_its_subfolders(tmp_path):
    files = {"b.txt": "bee", "a.md": "ay", "sub/c.rst": "sea", "sub/deep/d.txt": "dee"}
    ignored = {"x.py": "code", "y": "no suffix", "z.csv": "1,2"}
    for name, text in (files | ignored).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "folder.txt").mkdir()  # a folder with the name of a text
    texts = [document.text for document in load_corpus(str(tmp_path))]
    assert texts == ["ay", "bee", "sea", "dee"]


def test_documents_of_a_folder_have_names_of_their_own(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text(f"text of {folder}")
    names = [document.name for document in load_corpus(str(tmp_path))]
    assert len(set(names)) == 2


def test_a_file_of_any_suffix_may_be_named(tmp_path):
    path = tmp_path / "corpus.dat"
    path.write_text("text")
    assert [document.text for document in load_corpus(str(path))] == ["text"]


def test_duplicates_and_blank_documents_are_dropped(tmp_path):
    """A text that stands twice could be trained on and held out; the first is kept, in place."""
    for name, text in {"1": "b", "2": " \n\t", "3": "a", "4": "b", "5": "", "6": "c"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    documents = load_corpus(str(tmp_path))
    assert [document.text for document in documents] == ["b", "a", "c"]
    assert [document.name[0] for document in documents] == ["1", "3", "6"]


# What cannot be read


@pytest.mark.parametrize("name", ["python-doc", "/nowhere/text.txt", "nothing like it"])
def test_unknown_name_lists_the_corpora(name):
    with pytest.raises(UserError, match=name) as error:
        load_corpus(name)
    assert all(corpus in str(error.value) for corpus in CORPORA)
    assert "\n" not in str(error.value)


def test_no_name_is_not_the_current_folder(tmp_path, monkeypatch):
    """config.data.corpus="" is a mistake, not a wish to train on what lies around."""
    (tmp_path / "notes.txt").write_text("private")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        load_corpus("")


@pytest.mark.parametrize("content", ["", " \n\n\t"])
def test_file_without_text(content, tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(UserError, match="empty.txt"):
        load_corpus(str(path))


def test_folder_without_text(tmp_path):
    with pytest.raises(UserError, match=r"\.txt"):
        load_corpus(str(tmp_path))
    (tmp_path / "empty.md").write_text("")
    with pytest.raises(UserError, match="no text"):
        load_corpus(str(tmp_path))


# The standard library's text


MODULE = '''"""Module."""

@decorated
class C:
    """C."""

    async def g(self):
        """G.

        Indented.
        """

    def h(self):
        "no docstring" + ""

def f():
    """F."""
'''


@pytest.fixture
def small_library(tmp_path, monkeypatch) -> pathlib.Path:
    """A standard library of a few files, with what must be left out."""
    kept = {
        "mod.py": MODULE,
        "package/__init__.py": "x = 'no docstring'\n",
        "package/part.py": '"""Part."""\n',
        "attest.py": '"""Attest."""\n',
    }
    left_out = ["test/test_mod.py", "package/tests/t.py", "idlelib/idle_test/a.py",
                "site-packages/numpy/x.py", "dist-packages/y.py", "__pycache__/z.py"]  # fmt: skip
    for name, text in (kept | {name: '"""Wrong."""' for name in left_out}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "data.txt").write_text("no source")
    monkeypatch.setattr(sysconfig, "get_paths", lambda *_, **__: {"stdlib": str(tmp_path)})
    return tmp_path


def test_sources_are_the_librarys_own(small_library):
    names = [document.name for document in load_corpus("python-code")]
    expected = ["attest.py", "mod.py", "package/__init__.py", "package/part.py"]
    assert names == [f"code/{name}" for name in expected]
    for document in load_corpus("python-code"):
        assert document.text == (small_library / document.name.removeprefix("code/")).read_text()


def test_docstrings_are_those_of_the_source_in_its_order(small_library):
    documents = {d.name: d.text for d in load_corpus("python-docstrings")}
    assert documents == {
        "docstrings/attest.py": "Attest.",
        "docstrings/mod.py": "Module.\n\nC.\n\nG.\n\nIndented.\n\nF.",
        "docstrings/package/part.py": "Part.",
    }


def test_prose_is_docs_and_docstrings(small_library):
    parts = load_corpus("python-docs") + load_corpus("python-docstrings")
    assert load_corpus("python-prose") == parts


def test_python_docs_suffice_for_a_first_run():
    documents = load_corpus("python-docs")
    assert len(documents) > 50
    assert sum(len(document.text.encode()) for document in documents) > 300_000


def test_prose_is_large_english_and_without_duplicates(prose):
    assert len({document.text for document in prose}) == len(prose)
    assert sum(len(document.text.encode()) for document in prose) > 1_500_000
    docstrings = [d for d in prose if d.name.startswith("docstrings/")]
    assert len(docstrings) > 400
    text = "\n".join(d.text for d in docstrings)
    assert text.count("def ") < 0.1 * text.count("the ")  # prose, not source


def test_both_sides_of_the_default_split_hold_text(prose):
    train, heldout = split_corpus(prose, 0.05)
    assert 0.02 < len(heldout) / len(prose) < 0.1
    assert len(train) + len(heldout) == len(prose)


def test_no_test_modules_among_the_sources(source_names):
    """By name, not by the folders that the code leaves out."""
    assert len(source_names) > 400 and "argparse.py" in source_names
    allowed = {"doctest.py", "unittest"}
    for name in source_names:
        parts = set(pathlib.PurePath(name).parts) - allowed
        assert not any("test" in part or "packages" in part for part in parts), name


def test_corpora_copy_nothing():
    """No file is opened for writing while a corpus is read."""
    written, watching = [], [True]
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def hook(event, arguments):  # cannot be taken away again, so it is switched off instead
        if (
            watching[0]
            and event == "open"
            and isinstance(arguments[2], int)
            and arguments[2] & writes
        ):
            written.append(arguments[0])

    from pydoc_data import topics  # noqa: F401 - its import may write a .pyc

    sys.addaudithook(hook)
    try:
        load_corpus("python-docs")
        load_corpus("python-code")
        assert written == []
        with open(os.devnull, "w"):
            assert written == [os.devnull]  # the hook does see writing
    finally:
        watching[0] = False
