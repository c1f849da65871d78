"""Corpora by name or path: one order and one split, whatever files the text lies in."""

import os
import pathlib
import sys
import sysconfig

from hypothesis import given, settings, strategies as st
import pytest

from dlms_jax.data.corpora import python
from dlms_jax.data.corpora.document import Document, is_heldout, order_key, strip, to_bytes, to_str
from dlms_jax.data.corpora.options import ReadOptions
from dlms_jax.data.corpora.source import NAMES, SYNTHETIC, Source, find_sources, read_sorted
from dlms_jax.data.corpora.synthetic import SyntheticLanguage
from dlms_jax.errors import UserError

RAW = st.lists(st.binary(max_size=8), unique=True, max_size=30)
FRACTION = st.floats(0.05, 0.95)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("corpora")


def load(corpus, seed: int = 0, **options) -> list[Document]:
    return read_sorted(find_sources(corpus, seed, 20), ReadOptions(**options), seed)


def texts_of(corpus, **settings) -> list[str]:
    return [to_str(document.text) for document in load(corpus, **settings)]


def heldout_of(texts, fraction) -> set[bytes]:
    return {text for text in texts if is_heldout(text, fraction)}


# Bytes

TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=9)


@settings(deadline=None)
@given(raw=st.binary(max_size=12))
def test_bytes_come_back_from_their_text(raw):
    assert to_bytes(to_str(raw)) == raw


@settings(deadline=None)
@given(raw=st.lists(
    st.sampled_from([b"a", b"\xff", b"\n", b"\x1c", *map(str.encode, ("\x85", "\u3000", "\u200b"))])
).map(b"".join))  # fmt: skip
def test_white_space_is_that_of_str(raw):
    assert strip(raw) == to_bytes(to_str(raw).strip())


@settings(deadline=None)
@given(text=TEXT)
def test_bytes_of_unicode_are_its_utf8(text):
    assert to_bytes(text) == text.encode("utf-8")


# The split


@settings(deadline=None)
@given(raw=RAW, fractions=st.tuples(FRACTION, FRACTION))
def test_a_larger_fraction_holds_out_more_and_the_same(raw, fractions):
    small, large = (heldout_of(raw, fraction) for fraction in sorted(fractions))
    assert small <= large


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.9])
def test_fraction_is_that_of_the_documents(fraction):
    n = 4000
    heldout = heldout_of([b"%d" % number for number in range(n)], fraction)
    deviation = (n * fraction * (1 - fraction)) ** 0.5
    assert abs(len(heldout) - n * fraction) < 4 * deviation


def test_split_is_the_one_that_checkpoints_were_made_with():
    """Another rule would evaluate old checkpoints on what they were trained on."""
    heldout = heldout_of([bytes([letter]) for letter in b"abcdefghijklmnopqrstuvwxyz"], 0.3)
    assert b"".join(sorted(heldout)) == b"bcdefjnprsuvx"


def test_split_does_not_depend_on_the_order():
    """Else the held-out documents would lie together, and a seed would choose among them."""
    texts = [b"%d" % number for number in range(4000)]
    for seed in (0, 1):
        ordered = sorted(texts, key=lambda text: order_key(text, seed))
        for part in range(4):
            share = len(heldout_of(ordered[part * 1000 : (part + 1) * 1000], 0.3)) / 1000
            assert abs(share - 0.3) < 4.5 * (0.3 * 0.7 / 1000) ** 0.5


# The order


@settings(deadline=None)
@given(raw=RAW, seeds=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)))
def test_order_keys_are_of_the_text_and_the_seed(raw, seeds):
    keys = {(text, seed): order_key(text, seed) for text in raw for seed in seeds}
    assert len(set(keys.values())) == len(keys)
    assert all(len(key) == 32 for key in keys.values())


def test_order_is_the_one_that_datasets_were_made_with():
    texts = [bytes([letter]) for letter in b"abcdefgh"]
    assert b"".join(sorted(texts, key=lambda text: order_key(text, 0))) == b"bhcfegad"
    assert b"".join(sorted(texts, key=lambda text: order_key(text, 1))) == b"fgacebhd"


def test_order_is_a_shuffle():
    """Not by length, alphabet or file: neighbours were not neighbours."""
    texts = [b"%05d" % number for number in range(4000)]
    ordered = [int(text) for text in sorted(texts, key=lambda text: order_key(text, 0))]
    close = sum(abs(a - b) == 1 for a, b in zip(ordered, ordered[1:], strict=False))
    assert close < 12  # 2 expected
    halves = sum(number < 2000 for number in ordered[:2000])
    assert abs(halves - 1000) < 4.5 * (4000 / 16) ** 0.5


# Sorted reading


@settings(deadline=None, max_examples=40)
@given(data=st.data(), shuffle=st.randoms(use_true_random=False))
def test_order_depends_on_the_texts_alone(folder, data, shuffle):
    """Not on files or their names, nor on how often a text stands in them."""
    words = data.draw(st.lists(st.text("abc\n", min_size=1, max_size=5), min_size=1, max_size=8))
    expected = sorted(
        {word for word in words if word.strip()}, key=lambda word: order_key(word.encode(), 7)
    )
    for old in folder.iterdir():
        old.unlink()
    again = [*words, *data.draw(st.lists(st.sampled_from(words), max_size=4))]
    shuffle.shuffle(again)
    files = data.draw(st.integers(1, 3))
    for number in range(files):
        part, name = again[number::files], data.draw(st.sampled_from("xyz")) + str(number)
        as_lines = "".join(f'{{"text": {_quoted(word)}}}\n' for word in part)
        (folder / f"{name}.jsonl").write_text(as_lines)
    assert texts_of(folder, seed=7) == expected
    sources = find_sources(folder, 7, 0)
    backwards = read_sorted(sources[::-1], ReadOptions(), 7)
    assert [to_str(document.text) for document in backwards] == expected


def _quoted(word: str) -> str:
    return '"' + word.replace("\n", "\\n") + '"'


def test_growth_moves_nothing(tmp_path):
    """Documents keep their side, and their place among one another."""
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    before = texts_of(tmp_path)
    for number in range(40, 80):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    after = texts_of(tmp_path)
    assert [text for text in after if text in set(before)] == before
    first = heldout_of(map(to_bytes, before), 0.3)
    assert first == heldout_of(map(to_bytes, after), 0.3) & set(map(to_bytes, before))


def test_seeds_name_orders(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text(f"text {number}")
    orders = [texts_of(tmp_path, seed=seed) for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1] and len(set(map(tuple, orders))) == 3
    assert len(set(map(frozenset, orders))) == 1


def test_duplicates_are_dropped_across_files(tmp_path):
    """A text that stands twice could be trained on and held out."""
    for name, text in {"1": "b", "2": " \n\t", "3": "a", "4": "b", "5": "", "6": "c"}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    assert sorted(texts_of(tmp_path)) == ["a", "b", "c"]
    assert sorted(texts_of([tmp_path, tmp_path / "1.txt"])) == ["a", "b", "c"]


def test_options_reach_the_files(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"body": "one"}\n{"body": "\xff"}\n')
    assert sorted(texts_of(tmp_path, field="body", invalid="keep")) == ["one", "\udcff"]
    (source,) = find_sources(tmp_path, 0, 0)
    counts = []
    options = ReadOptions(field="body", invalid="skip")
    assert [document.text for document in source.read(options, counts.append)] == [b"one"]
    assert counts == ["skipped"]


# Sources


def test_sources_are_files_with_size_and_time(tmp_path):
    """By which it is known whether a corpus changed since."""
    (tmp_path / "sub").mkdir()
    for name, text in {"b.txt": "bee", "a.md": "", "sub/c.txt": "sea!"}.items():
        (tmp_path / name).write_text(text)
    sources = find_sources(str(tmp_path), 0, 0)
    assert [(source.file, source.size) for source in sources] == [
        (str(tmp_path / "a.md"), 0), (str(tmp_path / "b.txt"), 3), (str(tmp_path / "sub/c.txt"), 4)
    ]  # fmt: skip
    assert all(os.stat(source.file).st_mtime_ns == source.modified for source in sources)
    assert find_sources([tmp_path / "b.txt", tmp_path], 0, 0) == sources
    assert find_sources(f"{tmp_path}/b*", 0, 0) == sources[1:2]


@pytest.mark.parametrize("name", ["python-doc", "/nowhere/text.txt", "nothing like it"])
def test_unknown_name_lists_the_corpora(name):
    with pytest.raises(UserError, match=name) as error:
        find_sources(name, 0, 0)
    assert all(corpus in str(error.value) for corpus in NAMES)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", [], [""]])
def test_no_name_is_not_the_current_folder(name, tmp_path, monkeypatch):
    """config.data.corpus="" is a mistake, not a wish to train on what lies around."""
    (tmp_path / "notes.txt").write_text("private")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        find_sources(name, 0, 0)
    assert "\n" not in str(error.value)


def test_folder_without_text(tmp_path):
    with pytest.raises(UserError, match=r"\.txt") as error:
        find_sources(str(tmp_path), 0, 0)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "empty.md").write_text(" \n")
    assert load(str(tmp_path)) == []  # whose user says what that means


def test_synthetic_language_is_a_corpus_of_any_size():
    (source,) = find_sources(SYNTHETIC, 5, 30)
    documents = list(source.read(ReadOptions()))
    assert documents == list(SyntheticLanguage(5).documents(30))
    size = sum(len(document.text) for document in documents)
    assert 0.6 < source.size / size < 1.6
    assert find_sources(SYNTHETIC, 6, 30) != [source]


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


def read(corpus: str) -> list[Document]:
    """Returns a named corpus in the order in which it is read."""
    (source,) = find_sources(corpus, 0, 0)
    assert source == Source(corpus)
    return list(source.read(ReadOptions()))


def test_sources_are_the_librarys_own(small_library):
    names = [document.name for document in read("python-code")]
    expected = ["attest.py", "mod.py", "package/__init__.py", "package/part.py"]
    assert names == [f"code/{name}" for name in expected]
    for document in read("python-code"):
        path = small_library / document.name.removeprefix("code/")
        assert document.text == path.read_bytes()


def test_docstrings_are_those_of_the_source_in_its_order(small_library):
    """A module without any is no document."""
    documents = {d.name: d.text.decode() for d in read("python-docstrings")}
    assert documents == {
        "docstrings/attest.py": "Attest.",
        "docstrings/mod.py": "Module.\n\nC.\n\nG.\n\nIndented.\n\nF.",
        "docstrings/package/part.py": "Part.",
    }


def test_prose_is_docs_and_docstrings(small_library):
    assert read("python-prose") == read("python-docs") + read("python-docstrings")


def test_python_docs_suffice_for_a_first_run():
    documents = load("python-docs")
    assert len(documents) > 50
    assert sum(len(document.text) for document in documents) > 300_000


@pytest.fixture(scope="module")
def prose() -> list[Document]:
    """The one reading of the standard library's docstrings: parsing it takes seconds."""
    return load("python-prose")


def test_prose_is_large_english_and_without_duplicates(prose):
    assert len({document.text for document in prose}) == len(prose)
    assert sum(len(document.text) for document in prose) > 1_500_000
    docstrings = [d for d in prose if d.name.startswith("docstrings/")]
    assert len(docstrings) > 400
    text = "\n".join(d.text.decode() for d in docstrings)
    assert text.count("def ") < 0.1 * text.count("the ")  # prose, not source


def test_both_sides_of_the_default_split_hold_text(prose):
    heldout = heldout_of([document.text for document in prose], 0.05)
    assert 0.02 < len(heldout) / len(prose) < 0.1


def test_no_test_modules_among_the_sources():
    """By name, not by the folders that the code leaves out."""
    names = [document.name for document in python._python_sources()]
    assert len(names) > 400 and "argparse.py" in names
    allowed = {"doctest.py", "unittest"}
    for name in names:
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
        load("python-docs")
        load("python-code")
        assert written == []
        with open(os.devnull, "w"):
            assert written == [os.devnull]  # the hook does see writing
    finally:
        watching[0] = False
