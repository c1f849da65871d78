"""Recipes of public corpora: the exact texts that come out of each source's own format."""

import bz2
import gzip
import io
import json
import lzma
import re
import shlex
import sys
import tarfile
import tracemalloc
import types
import zipfile

from hypothesis import given, settings, strategies as st
import pytest

from dlms_jax.data.corpora import benchmarks, books, openwebtext, wikipedia
from dlms_jax.data.corpora.document import Document, to_str
from dlms_jax.data.corpora.public_corpora import PUBLIC_CORPORA
from dlms_jax.data.corpora.public_corpus import PublicCorpus, card, documents, find_files
from dlms_jax.errors import UserError


def texts_of(found) -> list[str]:
    return [to_str(document.text) for document in found]


def one_line(call, *parts: str) -> str:
    """Checks that a call ends with a UserError of one line that says all of `parts`."""
    with pytest.raises(UserError) as error:
        list(call())
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


# Wikipedia

WIKITEXT = """{{Short description|Town}}
{{Infobox settlement
| name = [[Foo]]
| image = [[File:x.jpg|thumb]]
}}
'''Foo''' ({{lang-de|Fuh}}, {{IPA|fu}}; pop. 5&nbsp;000) is a [[town|small town]] of [[France]]s
''south''.<ref name="a">{{cite book|title=Leaked}}</ref><ref name=a /> It has f(), 1 &lt; 2 &amp; 3.
[[File:Foo.jpg|thumb|left|A [[caption]] that leaks]] [[Datei:Foo.png|mini]]<!-- hidden -->
{| class="wikitext"
! Year !! Leaked
|-
| 1900 || 5
|}
== History ==
=== Middle ages ===
* One {{convert|5|km}} line
* See [http://x.org the site] and [http://y.org]
<gallery>
File:a.jpg|leaked
</gallery>
<math>x^2 leaked</math>
=== Empty ===
{{Main|Leaked}}
== References ==
<references />
== See also ==
* [[:Category:Towns]]
[[Category:Leaked]] [[Kategorie:Leaked]] [[de:Leaked]]
__NOTOC__
"""
PROSE = """Foo (pop. 5 000) is a small town of Frances
south. It has f(), 1 < 2 & 3.

History

Middle ages

One line
See the site and

See also

Category:Towns"""


def page(title: str, text: str, ns: int = 0, redirect: str = "") -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    target = f'<redirect title="{redirect}" />' if redirect else ""
    return f"""  <page>
    <title>{title}</title>
    <ns>{ns}</ns>
    <id>7</id>
    {target}
    <revision>
      <id>1</id>
      <timestamp>2024-01-01T00:00:00Z</timestamp>
      <contributor><username>Text</username><id>2</id></contributor>
      <comment>title</comment>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{len(text)}" xml:space="preserve">{escaped}</text>
      <sha1>abc</sha1>
    </revision>
  </page>
"""


EXPORT = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="de">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <namespaces>
      <namespace key="-1" case="first-letter">Spezial</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
DUMP = "".join(
    (
        EXPORT,
        page("Foo", WIKITEXT),
        page("Talk:Foo", "Leaked talk", ns=1),
        page("Foos", "#REDIRECT [[Foo]]", redirect="Foo"),
        page("Only markup", "{{Disambiguation}}\n[[Category:X]]"),
        page("AT&amp;T", "Caf\xe9 & [[\u6771\u4eac]]."),
        page("Template:Foo", "Leaked template", ns=10),
        "</mediawiki>\n",
    )
)
ARTICLES = [f"Foo\n\n{PROSE}\n", "AT&T\n\nCaf\xe9 & \u6771\u4eac.\n"]


def packed(name: str, raw: bytes) -> bytes:
    """Returns bytes as a file of that name holds them."""
    zstandard = pytest.importorskip("zstandard")
    pack = {"bz2": bz2.compress, "gz": gzip.compress, "xz": lzma.compress,
            "zst": zstandard.ZstdCompressor().compress}  # fmt: skip
    return pack.get(name.rpartition(".")[2], bytes)(raw)


@pytest.mark.parametrize("name", ["d.xml", "d.xml.bz2", "d.xml.gz", "d.xml.zst"])
def test_wikipedia_dump(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(packed(name, DUMP.encode()))
    found = list(documents(PUBLIC_CORPORA["wiki"], path))
    assert texts_of(found) == ARTICLES
    assert [document.name for document in found] == [f"{path}#Foo", f"{path}#AT&T"]


def test_dump_of_many_bzip2_streams(tmp_path):
    """As the multistream dumps are; one that stopped after the first stream would lose pages."""
    path = tmp_path / "d.xml.bz2"
    half = DUMP.index("  <page>", DUMP.index("Talk:"))
    path.write_bytes(bz2.compress(DUMP[:half].encode()) + bz2.compress(DUMP[half:].encode()))
    assert texts_of(wikipedia.parse(path)) == ARTICLES


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("plain", "plain"),
        ("a<br />b", "a\nb"),
        ("see {{x}}.", "see ."),
        ("(see {{x}}) (a; {{y}})", "(see) (a)"),
        ("f() ({{x}}) (, {{y}})", "f()"),
        ("[[a|''b'']] [[c (d)|]][[File:x|[[y]]]]", "b"),
        ("<nowiki>[[raw]]</nowiki> <sup>2</sup><ref>no</ref>", "[[raw]] 2"),
        ("== A ==\n=== B ===\n== C ==\nd", "C\n\nd"),
        ("== A ==\n=== B ===\nb\n==== C ====\n== D ==\n", "A\n\nB\n\nb"),
        ("a\n\n\n\nb  \n c", "a\n\nb\nc"),
        ("[[Image:x]][[category:x]]", ""),
        ("{| \n| [[a]] {{b}}\n|}", ""),
        ("[[unclosed {{also <ref>", "[[unclosed {{also <ref>"),
        ("&#233;&eacute;&nosuch;", "\xe9\xe9&nosuch;"),
    ],
)
def test_prose_of_wikitext(wikitext, text):
    assert wikipedia.plain_text(wikitext) == text


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab {}[]|=<>/'\n*:#&;!-(),", max_size=60))
def test_any_wikitext_gives_clean_text(wikitext):
    text = wikipedia.plain_text(wikitext)
    assert text == text.strip() and "\0" not in text and "\n\n\n" not in text


def test_dump_is_read_in_bounded_memory(tmp_path):
    """Ten times the pages, the same peak: read pages are let go of."""
    peaks = []
    for number in (100, 1000):
        path = tmp_path / f"{number}.xml"
        with path.open("w") as file:
            file.write(EXPORT)
            for index in range(number):
                file.write(page(f"P{index}", f"{index} " * 2000, ns=1))
            file.write("</mediawiki>")
        tracemalloc.start()
        assert list(wikipedia.parse(path)) == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 8e6
    assert peaks[1] < 1.3 * peaks[0] and peaks[1] < 1e6


@pytest.mark.parametrize("name", ["d.xml", "d.xml.bz2", "d.xml.gz", "d.xml.zst"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_dump_that_is_cut_off(name, share, tmp_path):
    path = tmp_path / name
    raw = packed(name, DUMP.encode())
    path.write_bytes(raw[: int(len(raw) * share)])
    one_line(lambda: wikipedia.parse(path), path, "cut off")


@pytest.mark.parametrize(
    ("name", "raw", "says"),
    [
        ("d.xml", b"<html><body/></html>", "<html>"),
        ("d.xml", b"<mediawiki><page><title>a</title></page></mediawiki>", "<ns>"),
        ("d.xml", b"plain", "line 1"),
        ("d.xml", b"", "no element"),
        ("d.xml.bz2", b"plain", "Invalid"),
        ("d.xml.gz", b"plain", "gzip"),
    ],
)
def test_file_that_is_no_dump(name, raw, says, tmp_path):
    path = tmp_path / name
    path.write_bytes(raw)
    one_line(lambda: wikipedia.parse(path), path, says)


# Project Gutenberg

BODY = "CHAPTER I\n\nIt was caf\xe9 time.\n\n*** a break ***\n\nThe end."
NEW = ("\ufeffThe Project Gutenberg eBook of Foo\n\nTitle: Foo\n\n"
       "*** START OF THE PROJECT GUTENBERG EBOOK FOO ***\n\n\n",
       "\n\n\n*** END OF THE PROJECT GUTENBERG EBOOK FOO ***\n\nUpdated editions\n")  # fmt: skip
OLD = ("The Project Gutenberg EBook of Foo\n\nCharacter set encoding: ISO-8859-1\n\n"
       "*** START OF THIS PROJECT GUTENBERG EBOOK FOO ***\n\n",
       "\n\nEnd of the Project Gutenberg EBook of Foo, by Bar\n\n"
       "*** END OF THIS PROJECT GUTENBERG EBOOK FOO ***\n\nlicence\n")  # fmt: skip
TIGHT = ("***START OF THE PROJECT GUTENBERG EBOOK FOO***\n\n\n",
         "\n\n***END OF THE PROJECT GUTENBERG EBOOK FOO***\n")  # fmt: skip
LONG = ("x\n*** START OF THIS PROJECT GUTENBERG EBOOK A LONG, LONG TITLE\nTHAT GOES ON ***\n\n",
        "\n\n*** END OF THIS PROJECT GUTENBERG EBOOK A LONG TITLE\nTHAT GOES ON ***\n")  # fmt: skip
SMALL_PRINT = ("Project Gutenberg Etext of Foo\n\n***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN "
               "ETEXTS**START***\nWhy is this here?\n"
               "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n",
               "\n\nEnd of Project Gutenberg's Etext of Foo\n")  # fmt: skip
SMALL_PRINT_2 = (SMALL_PRINT[0].replace("*END*THE", "*END THE"), "\n")
STYLES = {"new": NEW, "old": OLD, "tight": TIGHT, "long": LONG, "small": SMALL_PRINT,
          "small 2": SMALL_PRINT_2, "no end": (TIGHT[0], ""), "no start": ("", NEW[1])}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_book_without_its_licence(style, newline, tmp_path):
    path = tmp_path / "12.txt"
    before, after = STYLES[style]
    path.write_bytes((before + BODY + after).replace("\n", newline).encode())
    assert list(books.parse(path)) == [Document(f"{path}#0", f"{BODY}\n".encode())]


def test_markers_inside_a_book_do_not_cut_it(tmp_path):
    """A collection repeats them; what stands between the first and the last start is text, too."""
    text = f"{NEW[0]}{BODY}\nthe end of Project Gutenberg as we know it\n{NEW[1]}"
    assert books.strip_licence(text).endswith("as we know it")
    twice = f"{TIGHT[0]}one\n***START OF THE PROJECT GUTENBERG EBOOK BAR***\ntwo{TIGHT[1]}"
    assert books.strip_licence(twice).startswith("one\n")


@pytest.mark.parametrize("text", ["Just a text.\n", f"{TIGHT[0]}\n{TIGHT[1]}", "no *** START OF\n"])
def test_book_without_markers_is_kept_whole_and_named_so(text, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(text)
    (document,) = books.parse(path)
    assert document.text == text.encode()
    assert document.name.startswith(str(path)) and "no Gutenberg markers" in document.name
    assert books.strip_licence(text) is None


@pytest.mark.parametrize(
    ("name", "stated", "encoding"),
    [
        ("12-8.txt", "", "latin-1"),
        ("12-8.txt", "ISO-8859-1", "latin-1"),
        ("12.txt", "ISO-8859-1", "latin-1"),
        ("12.txt", "ISO Latin-1", "latin-1"),
        ("12.txt", "ASCII", "latin-1"),  # a stray letter in what should have none
        ("12.txt", "Windows-1252", "cp1252"),
        ("12.txt", "CP-1252", "cp1252"),
        ("12.txt", "ISO-8859-15", "iso8859-15"),
        ("12-0.txt", "UTF-8", "utf-8"),
        ("12-8.txt", "ISO-8859-1", "utf-8"),  # converted, the header not
        ("12.txt", "Unicode UTF-8", "utf-8-sig"),
    ],
)
def test_encoding_of_a_book(name, stated, encoding, tmp_path):
    letters = {"cp1252": "\u2019", "iso8859-15": "\u20ac", "utf-8": "\u6771"}.get(encoding, "\xe9")
    head = f"Project Gutenberg's Foo\n\nCharacter set encoding: {stated}\n" if stated else ""
    path = tmp_path / name
    path.write_bytes(f"{head}{TIGHT[0]}{letters}{TIGHT[1]}".encode(encoding))
    assert texts_of(books.parse(path)) == [f"{letters}\n"]


def test_book_of_no_known_encoding(tmp_path):
    path = tmp_path / "note.txt"
    path.write_bytes(b"caf\xe9")
    one_line(lambda: books.parse(path), path, "not UTF-8", "iconv")
    path.write_bytes(b"Character set encoding: no such\n\ncaf\xe9")
    one_line(lambda: books.parse(path), path)
    one_line(lambda: books.parse(tmp_path / "gone.txt"), "gone.txt")


def test_gutenberg_folder(tmp_path):
    for number in (10, 9):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / f"pg{number}.txt").write_text(f"{NEW[0]}{number}{NEW[1]}")
        (tmp_path / f"{number}" / f"pg{number}.html").write_text("<p>no</p>")
    (tmp_path / "empty.txt").write_text(" \n")
    assert texts_of(documents(PUBLIC_CORPORA["gutenberg"], tmp_path)) == ["10\n", "9\n"]


# OpenWebText


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo("openwebtext")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


PAGES = [{"0-a.txt": b"One page.\n\nTwo.", "1-b.txt": b" \n", "2-c.txt": "caf\xe9 \u6771".encode()},
         {"0-d.txt": b"no UTF-8: \xff"}]  # fmt: skip
INNER = {
    f"openwebtext/urlsf_subset00-{number}_data.xz": lzma.compress(tar_of(pages))
    for number, pages in enumerate(PAGES, 1)
}
WEB = [b"One page.\n\nTwo.", "caf\xe9 \u6771".encode(), b"no UTF-8: \xff"]


@pytest.fixture(params=["urlsf_subset00.tar", "openwebtext.tar.xz", "whole.tar.xz", "inner"])
def web(request, tmp_path):
    """An OpenWebText corpus as its parts, as one archive, as an archive of parts, or opened."""
    if request.param == "inner":
        for name, raw in INNER.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(raw)
        return tmp_path
    raw = tar_of(INNER)
    name = request.param
    if name == "whole.tar.xz":
        name, raw = "openwebtext2.tar.xz", tar_of({"openwebtext/urlsf_subset00.tar": raw})
    (tmp_path / name).write_bytes(lzma.compress(raw) if name.endswith(".xz") else raw)
    return tmp_path


def test_openwebtext(web):
    found = list(documents(PUBLIC_CORPORA["openwebtext"], web))
    assert [document.text for document in found] == WEB
    assert len({document.name for document in found}) == 3
    assert re.search(r"urlsf_subset00-1_data\.xz/2-c\.txt$", found[1].name)


def test_openwebtext_parquet(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00080.parquet", ["a", "b"])
    assert texts_of(documents(PUBLIC_CORPORA["openwebtext"], tmp_path)) == ["a", "b"]


def test_member_that_is_broken_is_named(tmp_path):
    """The pages before it have come out by then; it must not look like a shorter archive."""
    good, bad = INNER
    middle = len(INNER[bad]) // 2
    for broken in (INNER[bad][:middle], INNER[bad][:-4], b"\0" * 2000, b"plain text",
                   INNER[bad][:middle] + b"\xff" + INNER[bad][middle + 1 :]):  # fmt: skip
        path = tmp_path / "urlsf_subset00.tar"
        path.write_bytes(tar_of({good: INNER[good], bad: broken}))
        found = openwebtext.parse(path)
        assert [next(found).text, next(found).text] == WEB[:2]
        one_line(lambda found=found: found, path, bad, "damaged")


@pytest.mark.parametrize("name", ["urlsf_subset00.tar", "openwebtext.tar.xz", "urlsf_subset.xz"])
def test_archive_that_is_cut_off_anywhere(name, tmp_path):
    """Also between two members, where tarfile itself sees nothing wrong."""
    raw = tar_of(INNER if ".tar" in name else PAGES[0])
    if name.endswith(".xz"):
        raw = lzma.compress(raw)
    path = tmp_path / name
    end = len(raw.rstrip(b"\0")) if name.endswith(".tar") else len(raw)
    for length in (0, 100, 512, 1024, 1536, end // 2, end - 1, end // 512 * 512):
        if length < end:
            path.write_bytes(raw[:length])
            one_line(lambda: openwebtext.parse(path), path, "damaged")


# Benchmarks' text files

WIKITEXT_FILE = (
    " \n = Robert <unk> = \n \n Robert is an actor , born in 1950 @-@ 51 . \n \n"
    " = = Career = = \n \n He acted . \n = not a title = \n"
    " \n = Du Fu = \n \n Du Fu was a poet . \n \n"
)


def test_wikitext_articles(tmp_path):
    path = tmp_path / "wiki.train.tokens"
    path.write_text(WIKITEXT_FILE)
    (tmp_path / "wiki.test.tokens").write_text(" \n = Test = \n \n leaked \n")
    texts = texts_of(documents(PUBLIC_CORPORA["wikitext103"], tmp_path))
    assert "".join(texts) == WIKITEXT_FILE
    assert [text.splitlines()[1] for text in texts] == [" = Robert <unk> = ", " = Du Fu = "]


@settings(deadline=None)
@given(st.lists(st.sampled_from([b" \n", b" = A = \n", b" = = B = = \n", b" text \n", b"x\n"])))
def test_no_line_of_wikitext_is_lost(lines):
    found = list(benchmarks.articles(lines))
    assert b"".join(found) == b"".join(lines)
    assert all(text.strip() for text in found[:-1])


def test_stories(tmp_path):
    end = benchmarks.STORY_END.decode()
    path = tmp_path / "TinyStoriesV2-GPT4-train.txt"
    path.write_text(f"\nOnce.\nTwice.\n{end}\n\nLily ran.{end}{end} Ben sat.\n\nHe ate.\n", "utf-8")
    (tmp_path / "TinyStoriesV2-GPT4-valid.txt").write_text("leaked")
    write_parquet(tmp_path / "train-00000-of-00004.parquet", ["Parquet."])
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", ["leaked"])
    expected = ["Once.\nTwice.", "Lily ran.", "Ben sat.\n\nHe ate.", "Parquet."]
    assert texts_of(documents(PUBLIC_CORPORA["tinystories"], tmp_path)) == expected


def test_sentences_are_documents(tmp_path):
    """Line ends are \\n alone: news has other characters that Python counts as such."""
    root = tmp_path / "1-billion-word-language-modeling-benchmark-r13output"
    for folder, name in [
        ("training", "news.en-00001-of-00100"),
        ("heldout", "news.en-00000-of-00100"),
        ("heldout", "news.en.heldout-00000-of-00050"),
    ]:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / name).write_bytes(
            f"{folder} , one .\nb\u2028b\x0b\x1c .\r\n\nlast".encode()
        )
    found = list(documents(PUBLIC_CORPORA["lm1b"], tmp_path))
    assert texts_of(found) == ["training , one .", "b\u2028b\x0b\x1c .\r", "last"]
    assert len({document.name for document in found}) == 3


def test_pg19_books_are_documents(tmp_path):
    (tmp_path / "10006.txt").write_bytes(b"A book.\r\n" * 5000)
    assert texts_of(documents(PUBLIC_CORPORA["pg19"], tmp_path)) == ["A book.\r\n" * 5000]


@pytest.mark.parametrize("name", ["enwik8", "text8"])
@pytest.mark.parametrize("is_zip", [False, True])
def test_endless_text_is_cut_and_whole(name, is_zip, tmp_path, monkeypatch):
    raw = (
        b"a line of it\r\n\xff\xfe \xe6\x9d\xb1\n" * 60000
        if name == "enwik8"
        else b"abc de" * 200000
    )
    path = tmp_path / (f"{name}.zip" if is_zip else name)
    if is_zip:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, raw)
    else:
        path.write_bytes(raw)
    found = texts_of(documents(PUBLIC_CORPORA[name], tmp_path))
    assert b"".join(document.text for document in documents(PUBLIC_CORPORA[name], tmp_path)) == raw
    sizes = [len(text) for text in found]
    assert max(sizes) <= 16 * 1024 and min(sizes[:-1]) > 16 * 1024 - 30
    if name == "enwik8":
        assert all(text.endswith("\n") for text in found)


def test_zip_that_is_damaged(tmp_path):
    path = tmp_path / "enwik8.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("enwik8", bytes(range(256)) * 1000)
    raw = path.read_bytes()
    for broken in (raw[: len(raw) // 2], b"", b"plain", raw[:300] + b"\xff\0\xff" + raw[303:]):
        path.write_bytes(broken)
        one_line(lambda: documents(PUBLIC_CORPORA["enwik8"], path), path, "damaged")


# JSON lines and Parquet

ROWS = ["A page.\n\nIt ends.", "caf\xe9 \u6771 \U0001f600 \u2028"]
JSON_FILES = {
    "c4": ("c4-train.00000-of-01024.json.gz", {"timestamp": "2019-04-25T12:57:54Z", "url": "u"}),
    "dolma": ("books-0000.json.gz", {"id": "1", "source": "books", "metadata": {"a": [1]}}),
    "dclm": ("shard_00000000_processed.jsonl.zst", {"url": "u", "metadata": {}}),
    "slimpajama": ("train/chunk1/example_train_0.jsonl.zst",
                   {"meta": {"redpajama_set_name": "RedPajamaC4"}}),
    "pile-uncopyrighted": ("train/00.jsonl.zst", {"meta": {"pile_set_name": "Pile-CC"}}),
    "redpajama": ("stackexchange/stackexchange.jsonl", {"meta": {"language": "en"}}),
}  # fmt: skip
HELD_OUT = ["c4-validation.00000-of-00008.json.gz", "val.jsonl.zst", "test.jsonl.zst",
            "validation/chunk1/example_holdout_0.jsonl.zst"]  # fmt: skip


def json_lines(name: str, rows, others=()) -> bytes:
    lines = [json.dumps({"text": text, **dict(others)}) + "\n" for text in rows]
    return packed(name, "".join(lines).encode())


@pytest.mark.parametrize("corpus", JSON_FILES)
def test_json_lines(corpus, tmp_path):
    name, others = JSON_FILES[corpus]
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json_lines(name, ROWS, others))
    if corpus in ("c4", "slimpajama", "pile-uncopyrighted"):
        for held_out in HELD_OUT:
            (tmp_path / held_out).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / held_out).write_bytes(json_lines(held_out, ["leaked"]))
    assert texts_of(documents(PUBLIC_CORPORA[corpus], tmp_path)) == ROWS


@pytest.mark.parametrize("corpus", ["c4", "dclm"])
def test_compressed_json_that_is_cut_off(corpus, tmp_path):
    name, others = JSON_FILES[corpus]
    path = tmp_path / name
    raw = json_lines(name, [f"{number}" for number in range(3000)], others)
    path.write_bytes(raw[: len(raw) // 2])
    one_line(lambda: documents(PUBLIC_CORPORA[corpus], path), path)


def write_parquet(path, texts):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"id": list(map(str, texts)), "text": texts}), path)


@pytest.mark.parametrize("corpus", [name for name in PUBLIC_CORPORA if name.startswith("fineweb")])
def test_fineweb(corpus, tmp_path):
    write_parquet(tmp_path / "sample" / "10BT" / "000_00000.parquet", ROWS)
    assert texts_of(documents(PUBLIC_CORPORA[corpus], tmp_path)) == ROWS
    (tmp_path / "sample" / "10BT" / "001_00000.parquet").write_bytes(b"PAR1 no PAR1")
    one_line(lambda: documents(PUBLIC_CORPORA[corpus], tmp_path), "001_00000.parquet")


# Which files are read


@pytest.mark.parametrize("corpus", PUBLIC_CORPORA)
def test_wrong_files_say_what_is_expected(corpus, tmp_path):
    recipe = PUBLIC_CORPORA[corpus]
    (tmp_path / "other.doc").write_text("no")
    for path in (tmp_path / "gone", tmp_path, tmp_path / "other.doc", str(tmp_path / "*.doc")):
        one_line(lambda path=path: documents(recipe, path), path, corpus, *recipe.formats)
    one_line(lambda: documents(recipe, []), corpus, *recipe.formats)


def test_files_are_sorted_and_read_once(tmp_path):
    recipe = PUBLIC_CORPORA["books"]
    for name in ("b.txt", "a.txt", "c/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.txt").mkdir()
    every = [tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c" / "d.txt"]
    assert find_files(recipe, tmp_path) == every
    assert (
        find_files(recipe, [tmp_path / "c", str(tmp_path / "*.txt"), tmp_path / "a.txt"]) == every
    )


def test_mistakes_are_told_before_the_first_document(tmp_path):
    """So that a command stops at once, not when it first asks for one."""
    for wrong in ({"paths": tmp_path}, {"via": "files"}, {"via": "tfds"}):
        with pytest.raises(UserError):
            documents(PUBLIC_CORPORA["tinystories"], **wrong)


# TensorFlow Datasets and `datasets`


@pytest.fixture
def tfds(monkeypatch):
    """A stand-in, which says what it was asked; test_tfds.py has the real one."""
    asked = []

    def data_source(name, split, data_dir, builder_kwargs):
        asked.append((name, split))
        if name == "pg19":
            return [{"book_id": 1, "book_text": b"A book."}]
        return [{"title": b"T", "text": "caf\xe9".encode()}, {"text": b" "}, {"text": b"\xff"}]

    module = types.SimpleNamespace(data_source=data_source, asked=asked)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    return module


@pytest.mark.parametrize("via", ["tfds", None])
def test_tfds(tfds, via):
    found = list(documents(PUBLIC_CORPORA["wiki"], via=via))
    assert [document.text for document in found] == ["caf\xe9".encode(), b"\xff"]
    assert found[1].name == "wikipedia/20230601.en#2"
    assert texts_of(documents(PUBLIC_CORPORA["pg19"], via=via)) == ["A book."]
    assert tfds.asked == [("wikipedia/20230601.en", "train"), ("pg19", "train")]


def test_half_a_surrogate_pair_of_a_library_is_replaced(tfds, monkeypatch):
    """No bytes stand for it, so a document cannot hold it."""
    rows = [{"text": "a\ud800b \udcff"}]
    monkeypatch.setattr(tfds, "data_source", lambda name, **how: rows)
    (document,) = documents(PUBLIC_CORPORA["wiki"], via="tfds")
    assert document.text == "a\ufffdb ".encode() + b"\xff"


def test_tfds_that_fails(tfds, monkeypatch):
    def data_source(name, **how):
        raise NotImplementedError("no random access\nfor this")

    monkeypatch.setattr(tfds, "data_source", data_source)
    one_line(
        lambda: documents(PUBLIC_CORPORA["lm1b"], via="tfds"), "lm1b", "no random access", "files"
    )
    monkeypatch.setattr(tfds, "data_source", lambda name, **how: [{"lines": b"a"}])
    one_line(lambda: documents(PUBLIC_CORPORA["lm1b"], via="tfds"), "lm1b#0", "'text'", "lines")


def test_tfds_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    one_line(lambda: documents(PUBLIC_CORPORA["lm1b"], via="tfds"), "tensorflow_datasets", "[tfds]")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Returns a function that writes a small dataset, and a recipe that loads it from there."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def make(rows: list[dict], corpus: str) -> PublicCorpus:
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = dict(vars(PUBLIC_CORPORA[corpus]), hub=(str(folder), None, "train"))
        return PublicCorpus(**recipe)

    return make


def test_datasets_are_streamed(hub):
    recipe = hub([{"text": text, "meta": {"a": 1}} for text in (*ROWS, "")], "slimpajama")
    found = list(documents(recipe))
    assert texts_of(found) == ROWS
    assert len({document.name for document in found}) == 2
    assert texts_of(documents(recipe, via="datasets")) == ROWS


def test_datasets_field_is_the_recipes(hub):
    recipe = hub([{"TEXT": "A book.", "SOURCE": "s"}], "books")
    assert texts_of(documents(recipe, via="datasets")) == ["A book."]
    recipe = hub([{"text": "A book.", "SOURCE": "s"}], "books")
    one_line(lambda: documents(recipe, via="datasets"), "'TEXT'", "SOURCE", "set/train#0")


def test_rows_of_the_hubs_wikitext_are_its_lines(hub, tmp_path):
    """Its blank lines are empty there: the articles are those of the file all the same."""
    lines = WIKITEXT_FILE.splitlines(keepends=True)
    rows = [{"text": line if line.strip() else ""} for line in lines]
    path = tmp_path / "wiki.train.tokens"
    path.write_text(WIKITEXT_FILE)
    from_files = texts_of(documents(PUBLIC_CORPORA["wikitext103"], path))
    assert texts_of(documents(hub(rows, "wikitext103"), via="datasets")) == from_files


def test_dataset_that_is_not_there(tmp_path):
    pytest.importorskip("datasets")
    recipe = dict(vars(PUBLIC_CORPORA["c4"]), hub=(str(tmp_path / "gone"), None, "train"))
    one_line(
        lambda: documents(PublicCorpus(**recipe), via="datasets"), "gone", "files, tfds, datasets"
    )


@pytest.mark.parametrize("corpus", PUBLIC_CORPORA)
def test_ways_that_a_corpus_does_not_have(corpus):
    recipe = PUBLIC_CORPORA[corpus]
    if not recipe.tfds:
        one_line(lambda: documents(recipe, via="tfds"), corpus, "tfds", "files")
    if not recipe.hub:
        one_line(lambda: documents(recipe, via="datasets"), corpus, "datasets", "files")
    if not (recipe.tfds or recipe.hub):
        one_line(lambda: documents(recipe), *recipe.download, recipe.command)
    one_line(lambda: documents(recipe, via="files"), *recipe.download, recipe.command)


def test_files_and_a_way_without_files(tmp_path):
    one_line(
        lambda: documents(PUBLIC_CORPORA["wiki"], tmp_path, via="tfds"), "wiki", "tfds", tmp_path
    )


# Cards


@pytest.mark.parametrize("corpus", PUBLIC_CORPORA)
def test_card(corpus):
    recipe = PUBLIC_CORPORA[corpus]
    assert recipe.name == corpus
    text = card(recipe)
    for part in (recipe.title, recipe.source, recipe.licence, recipe.size, recipe.command):
        assert part and part in text and part == part.strip()
    assert recipe.source.startswith("https://") and re.search(r"\d", recipe.size)
    assert all(command in text for command in recipe.download)
    assert (recipe.tfds or corpus) in text and (not recipe.hub or recipe.hub[0] in text)


@pytest.mark.parametrize("corpus", PUBLIC_CORPORA)
def test_commands_of_a_card(corpus):
    """They parse, name the recipe, and what is downloaded lies where it is read from."""
    blocks = card(PUBLIC_CORPORA[corpus]).split("```")[1::2]
    *download, prepare = [shlex.split(line) for line in blocks[0].strip().splitlines()]
    expected = ["python", "-m", "dlms_jax.prepare", "corpus", "--name", corpus,
                "--out", f"datasets/{corpus}"]  # fmt: skip
    assert prepare == [*expected, "--from", f"data/{corpus}"]
    assert {words[0] for words in download} <= {"wget", "hf", "rsync", "unzip", "tar", "gcloud",
                                                "mkdir"}  # fmt: skip
    assert f"data/{corpus}" in download[-1]
    if PUBLIC_CORPORA[corpus].tfds or PUBLIC_CORPORA[corpus].hub:
        assert shlex.split(blocks[1].strip()) == expected
    else:
        assert len(blocks) == 1


def test_the_recipes_that_the_issue_names():
    named = {"wiki", "books", "openwebtext", "fineweb", "c4", "slimpajama", "gutenberg", "lm1b"}
    assert named <= PUBLIC_CORPORA.keys()
