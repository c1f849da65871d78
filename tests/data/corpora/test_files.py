"""Files: every text comes out as it went in, or one line says which file and where."""

import bz2
import csv
import gzip
import io
import json
import pathlib
import sys
import tracemalloc

from hypothesis import given, settings, strategies as st
import pytest
import zstandard

from dlms_jax.data.corpora.document import to_bytes, to_str
from dlms_jax.data.corpora.files import list_files, read_file
from dlms_jax.data.corpora.options import ReadOptions
from dlms_jax.data.corpora.text_files import cut
from dlms_jax.errors import UserError

PACKERS = {
    "": lambda raw: raw, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress,
}  # fmt: skip
TEXTS = [".txt", ".md", ".rst", ".TXT", ".txt.gz", ".txt.zst", ".Txt.BZ2"]
JSON_LINES = [".jsonl", ".JSONL", ".jsonl.gz", ".jsonl.zst", ".jsonl.bz2", ".json.gz", ".json.zst"]
BLOCK = 1 << 20  # bytes that are read at a time

as_text = pytest.mark.parametrize("ending", TEXTS)
as_json = pytest.mark.parametrize("ending", JSON_LINES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """One for all examples of a property: each writes its file anew."""
    return tmp_path_factory.mktemp("files")


def write(folder, name: str, raw: bytes) -> pathlib.Path:
    """Returns a new file; compressed as its name says."""
    path = folder / name
    path.write_bytes(PACKERS.get(path.suffix.lower(), PACKERS[""])(raw))
    return path


def texts_of(path, **options) -> list[str]:
    return [to_str(document.text) for document in read_file(path, ReadOptions(**options))]


def counted(path, **options) -> tuple[list[str], list[str]]:
    """Returns the texts, and what was counted."""
    counts = []
    documents = read_file(path, ReadOptions(**options), counts.append)
    return [to_str(document.text) for document in documents], counts


def error_of(path, **options) -> str:
    """Returns what reading says, in one line and with the file's name."""
    with pytest.raises(UserError) as error:
        texts_of(path, **options)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def json_lines(*records) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def csv_of(*rows) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue().encode()


def parquet_of(path, rows_of_group=1000, **columns):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows_of_group)
    return path


# Text files


@as_text
@pytest.mark.parametrize(
    "content",
    [
        b"one line, no end",
        "é \ufeff \U0001f600 e\u0301\0 ok\n".encode(),
        b"windows\r\nlines\r\nand old\rmacs\n\n\r\n",
    ],
    ids=["plain", "unicode", "line ends"],
)
def test_text_is_read_byte_for_byte(content, ending, tmp_path):
    path = write(tmp_path, f"text{ending}", content)
    for policy in ("strict", "replace", "skip", "keep"):
        texts, counts = counted(path, invalid=policy)
        assert [to_bytes(text) for text in texts] == [content]
        assert counts == []


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_cut_gives_the_text_back(data):
    """Whatever the lengths of lines; only a line longer than a piece is cut inside."""
    size = data.draw(st.integers(1, 12))
    lines = data.draw(st.lists(st.text("ab\u2028\r\U0001f600", max_size=14), max_size=12))
    text = "\n".join(lines)
    blocks = [text[:9], text[9:]]
    pieces = [piece.decode() for piece in cut(blocks, size)]
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces)
    for piece, following in zip(pieces, pieces[1:], strict=False):
        assert piece.endswith("\n") or ("\n" not in piece and len(piece) == size)
        # As long as the lines allow: the next line would not have fitted.
        line = following[: following.find("\n") + 1] or following
        assert len(piece) + len(line) > size


@pytest.mark.parametrize("size", [1000, 7001, BLOCK, 3 * BLOCK, 0])
def test_file_is_cut_as_its_text_would_be(size, tmp_path):
    """Not otherwise at the ends of the blocks in which it is read."""
    text = "".join(f"{'é€' * (n % 97)} line {n}\n" for n in range(9000))
    assert len(text.encode()) > 2 * BLOCK
    path = write(tmp_path, "long.txt", text.encode())
    documents = list(read_file(path, ReadOptions(piece_bytes=size)))
    assert [document.text for document in documents] == list(cut([text], size or len(text)))
    assert [d.name for d in documents] == [f"{path}#{n}" for n in range(len(documents))]
    assert len(documents) > 1 or not size or size > len(text)


def test_text_is_cut_unless_asked_not_to(tmp_path):
    """So that one large file splits into training and held-out."""
    path = write(tmp_path, "long.md", b"a line of a long file\n" * 5000)
    assert len(texts_of(path)) > 5
    assert len(texts_of(path, piece_bytes=0)) == 1


def test_large_file_is_a_stream(tmp_path):
    """64 MiB of text in a few: neither the file nor its pieces are held."""
    path = tmp_path / "large.txt"
    block = (b"x" * 79 + b"\n") * (BLOCK // 80)
    with open(path, "wb") as file:
        for _ in range(64):
            file.write(block)
    tracemalloc.start()
    try:
        size = sum(len(document.text) for document in read_file(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size == 64 * len(block)
    assert peak < 10 << 20


# Bytes that are no UTF-8

INVALID = b"good\ncaf\xe9 \xff\xfe\x80 bad\n"


@as_text
def test_policies_of_a_text_file(ending, tmp_path):
    path = write(tmp_path, f"bad{ending}", INVALID)
    assert "byte 8 " in error_of(path)
    assert "--invalid-utf8" in error_of(path)
    assert counted(path, invalid="replace") == ([INVALID.decode(errors="replace")], ["replaced"])
    assert counted(path, invalid="skip") == ([], ["skipped"])
    texts, counts = counted(path, invalid="keep")
    assert to_bytes("".join(texts)) == INVALID and counts == []


def test_skipped_text_file_gives_no_piece(tmp_path):
    """Not even those before the damage; and is counted once, however many bytes are wrong."""
    path = write(tmp_path, "bad.txt", b"a good line\n" * 5000 + b"\xff\xff\n" * 3)
    assert counted(path, invalid="skip") == ([], ["skipped"])
    texts, counts = counted(path, invalid="replace")
    assert len(texts) > 3 and counts == ["replaced"]


@settings(deadline=None, max_examples=60)
@given(
    before=st.integers(BLOCK - 6, BLOCK + 2) | st.integers(2 * BLOCK - 5, 2 * BLOCK),
    start=st.sampled_from(["", "é", "€", "\U0001f600"]),
    wrong=st.sampled_from([b"\xff", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3", b"\x80", b"\xed\xa0"]),
    after=st.sampled_from([b"", b"a", "€".encode(), b"\xff"]),
)  # fmt: skip
def test_wrong_byte_is_found_past_the_blocks_ends(folder, before, start, wrong, after):
    """Its number is that of the whole file, also where a character lies in two blocks."""
    content = b"a" * before + start.encode() + wrong + after
    with pytest.raises(UnicodeDecodeError) as expected:
        content.decode()
    path = write(folder, "wrong.txt", content)
    assert f": byte {expected.value.start} is not UTF-8" in error_of(path)
    for policy, errors in (("replace", "replace"), ("keep", "surrogateescape")):
        text = "".join(texts_of(path, invalid=policy, piece_bytes=0))
        assert text == content.decode(errors=errors)


@settings(deadline=None, max_examples=30)
@given(before=st.integers(BLOCK - 4, BLOCK), start=st.sampled_from(["é", "€", "\U0001f600"]))
def test_character_in_two_blocks_is_whole(folder, before, start):
    path = write(folder, "whole.txt", b"a" * before + start.encode() + b"b")
    assert "".join(texts_of(path)) == "a" * before + start + "b"


@as_json
def test_policies_of_json_lines(ending, tmp_path):
    """They are about the one record."""
    wrong = b'{"text": "caf\xe9 \xe2\x82"}\n'
    content = json_lines({"text": "a"}) + wrong + wrong + b'{"text": "b"}'
    path = write(tmp_path, f"bad{ending}", content)
    assert f"{path}:2 " in error_of(path) and "byte 13 " in error_of(path)
    both = ["replaced", "replaced"]
    assert counted(path, invalid="replace") == (["a", *["caf\ufffd \ufffd"] * 2, "b"], both)
    assert counted(path, invalid="skip") == (["a", "b"], ["skipped", "skipped"])
    assert counted(path, invalid="keep") == (["a", *["caf\udce9 \udce2\udc82"] * 2, "b"], [])


def test_policies_of_csv(tmp_path):
    path = write(tmp_path, "bad.csv", b"text,n\na,1\ncaf\xe9,2\nb,3\n")
    assert f"{path}:3 " in error_of(path) and "byte 3 " in error_of(path)
    assert counted(path, invalid="replace") == (["a", "caf\ufffd", "b"], ["replaced"])
    assert counted(path, invalid="skip") == (["a", "b"], ["skipped"])
    assert counted(path, invalid="keep") == (["a", "caf\udce9", "b"], [])


@pytest.mark.parametrize("wrong", [b'"x\xff\ny\nz"', b'"x\ny\xff\nz"', b'"x\ny\nz\xff"'])
def test_skipped_csv_record_is_skipped_whole(wrong, tmp_path):
    """With all lines of it, whichever of them is wrong, and no other record."""
    path = write(tmp_path, "bad.csv", b"text,n\na,1\n" + wrong + b",2\nb,3\n")
    assert counted(path, invalid="skip") == (["a", "b"], ["skipped"])
    texts, counts = counted(path, invalid="keep")
    assert to_bytes(texts[1]) == wrong.strip(b'"') and len(texts) == 3 and counts == []


@pytest.mark.parametrize("escape", ["\\ud800", "\\udbff", "\\udc00", "\\udc80", "\\udfff"])
def test_half_a_surrogate_pair_in_json(escape, tmp_path):
    """JSON can spell what is no character; no bytes of a file stand behind it."""
    lines = f'{{"text": "a{escape}b"}}\n{{"text": "\\ud83d\\ude00"}}\n'
    path = write(tmp_path, "half.jsonl", lines.encode())
    assert f"{path}:1 " in error_of(path)
    assert counted(path, invalid="replace") == (["a\ufffdb", "\U0001f600"], ["replaced"])
    assert counted(path, invalid="skip") == (["\U0001f600"], ["skipped"])
    for text in texts_of(path, invalid="keep"):
        to_bytes(text)  # what is kept can be written


@pytest.mark.parametrize("policy", ["strict", "replace", "skip", "keep"])
@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "int8", "int32"])
def test_invalid_bytes_in_parquet(policy, kind, tmp_path):
    """Parquet does not check its strings, and other programs write what they like."""
    pyarrow = pytest.importorskip("pyarrow")
    ends = pyarrow.array([0, 1, 4, 5], pyarrow.int32()).buffers()[1]
    data = pyarrow.py_buffer(b"ac\xe9tb")
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, [None, ends, data])
    if kind.startswith("int"):  # of a category
        column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 2], kind), column)
    elif kind != "string":
        views = column.cast({"large_string": "large_binary", "string_view": "binary_view"}[kind])
        column = pyarrow.Array.from_buffers(getattr(pyarrow, kind)(), 3, views.buffers())
    path = parquet_of(tmp_path / "bad.parquet", text=column)
    if policy == "strict":
        assert f"{path}#1" in error_of(path)
        return
    assert (
        counted(path, invalid=policy)
        == {
            "replace": (["a", "c\ufffdt", "b"], ["replaced"]),
            "skip": (["a", "b"], ["skipped"]),
            "keep": (["a", "c\udce9t", "b"], []),
        }[policy]
    )


# JSON lines


@as_json
def test_json_lines(ending, tmp_path):
    """One document a line, named by it; other fields are nothing to us, blank lines no error."""
    texts = ["one\ntwo", "é \U0001f600 \u2028", "last"]
    lines = [json.dumps({"id": n, "text": text, "more": [1]}) for n, text in enumerate(texts)]
    path = write(tmp_path, f"lines{ending}", "\n".join([lines[0], "", *lines[1:]]).encode())
    documents = list(read_file(path))
    assert [to_str(document.text) for document in documents] == texts
    assert [document.name for document in documents] == [f"{path}#{n}" for n in (1, 3, 4)]


def test_json_lines_that_end_as_on_windows(tmp_path):
    lines = json_lines({"text": "a"}, {"text": "b"}).replace(b"\n", b"\r\n")
    path = write(tmp_path, "lines.jsonl", lines)
    assert texts_of(path) == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_field_may_be_named(name, tmp_path):
    records = [{"text": "no", "body": "yes"}]
    rows = [list(records[0]), list(records[0].values())]
    path = write(tmp_path, name, json_lines(*records) if name == "a.jsonl" else csv_of(*rows))
    assert texts_of(path, field="body") == ["yes"]


@as_json
@pytest.mark.parametrize(
    "line, said",
    [
        (b'{"text": "b"', "not JSON"),
        (b"text", "not JSON"),
        (b'{"txt": "b", "url": 1}', "no field 'text'; it has txt, url"),
        (b'{"text": 5}', "not text but int"),
        (b'{"text": null}', "is null"),
        (b'{"text": ["b"]}', "not text but list"),
        (b'["text"]', "not an object"),
        (b'"text"', "not an object"),
        (b'{"n": ' + b"1" * 5000 + b', "text": 1}', ""),
        (b"[" * 100_000, ""),
    ],
    ids=["cut", "word", "missing", "number", "null", "list", "array", "string", "digits", "deep"],
)
def test_wrong_json_line_is_named(ending, line, said, tmp_path):
    path = write(tmp_path, f"wrong{ending}", json_lines({"text": "a"}) + b"\n" + line + b"\n")
    message = error_of(path)
    assert f"{path}:3" in message and said in message
    assert len(message) < 300


# CSV


def test_csv(tmp_path):
    """Quoted line ends, commas and quotes are text. A record is named by the line it ends on."""
    texts = ["plain", "two\nlines", 'a "quoted", word', "crlf\r\nin it\n", "é"]
    path = write(tmp_path, "a.csv", csv_of(["n", "text"], *enumerate(texts)))
    documents = list(read_file(path))
    assert [to_str(document.text) for document in documents] == texts
    assert [d.name for d in documents] == [f"{path}#{line}" for line in (2, 4, 5, 8, 9)]


@pytest.mark.parametrize("policy", ["strict", "replace", "skip", "keep"])
@pytest.mark.parametrize("ending", [*TEXTS, *JSON_LINES, ".csv", ".tsv.gz"])
def test_byte_order_mark_is_no_text(ending, policy, tmp_path):
    """Excel and Notepad put one before a file. A second one is text."""
    content = {".csv": b"text,n\r\nword,1\r\n", ".tsv.gz": b"text\tn\r\nword\t1\r\n"}.get(
        ending, json_lines({"text": "word"}) if ending in JSON_LINES else b"word"
    )
    mark = "\ufeff".encode()
    assert texts_of(write(tmp_path, f"a{ending}", mark + content), invalid=policy) == ["word"]
    if ending in TEXTS:
        path = write(tmp_path, f"b{ending}", mark + mark + content)
        assert texts_of(path, invalid=policy) == ["\ufeffword"]
        assert texts_of(write(tmp_path, f"c{ending}", mark), invalid=policy) == []


def test_tsv(tmp_path):
    texts = ["plain, with a comma", "two\nlines", "a\ttab", "é"]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter="\t").writerows([["n", "text"], *enumerate(texts)])
    for name in ("a.tsv", "a.TSV", "a.tsv.gz", "a.tsv.zst", "a.tsv.bz2"):
        assert texts_of(write(tmp_path, name, file.getvalue().encode())) == texts
    for name in ("a.csv.gz", "a.csv.zst", "a.csv.bz2"):
        assert texts_of(write(tmp_path, name, csv_of(["text"], ["a,b"]))) == ["a,b"]


NULLS = {
    "a.jsonl": json_lines({"text": "a"}, {"text": None}, {"text": "b"}),
    "a.csv": b"n,text\n1,a\n2\n3,b\n",
}


@pytest.mark.parametrize("name", [*NULLS, "a.parquet"])
def test_null_text_can_be_skipped(name, tmp_path):
    if name == "a.parquet":
        path = parquet_of(tmp_path / name, text=["a", None, "b"])
    else:
        path = write(tmp_path, name, NULLS[name])
    assert counted(path, invalid="skip") == (["a", "b"], ["skipped"])
    for policy in ("strict", "replace", "keep"):
        message = error_of(path, invalid=policy)
        assert "'text' is null" in message and "--invalid-utf8=skip" in message


def test_csv_with_long_texts(tmp_path):
    """Python's own limit is 128 KiB."""
    text = "word, " * 50_000
    assert texts_of(write(tmp_path, "a.csv", csv_of(["text"], [text]))) == [text]


@pytest.mark.parametrize(
    "content, line, said",
    [
        (b'n,text\n1,"a\nb"\n2,c\n3\n', 5, "is null"),
        (b"n,txt\n1,a\n", 2, "no field 'text'; it has n, txt"),
        (b'text\n"a\nb"\n"c\nd"e\n', 5, "not CSV"),
        (b'text\na\n"b\nc\n', 4, "not CSV"),
        (b"text\ra\rb\r", 1, "not CSV"),
    ],
    ids=["short", "missing", "quote", "open", "macs"],
)
def test_wrong_csv_line_is_named(content, line, said, tmp_path):
    path = write(tmp_path, "wrong.csv", content)
    message = error_of(path)
    assert f"{path}:{line}" in message and said in message


# Parquet


def test_parquet(tmp_path):
    """Several row groups, of which some are larger than what is read at a time."""
    texts = [f"text {n} é\n" for n in range(1300)]
    numbers = list(range(1300))
    path = parquet_of(tmp_path / "a.parquet", 500, n=numbers, text=texts, body=["x"] * 1300)
    documents = list(read_file(path))
    assert [to_str(document.text) for document in documents] == texts
    assert [document.name for document in documents] == [f"{path}#{n}" for n in numbers]
    assert set(texts_of(path, field="body")) == {"x"}


@pytest.mark.parametrize(
    "column, said",
    [({"txt": ["a"], "n": [1]}, "no column 'text'; it has txt, n"),
     ({"text": [1, 2]}, "#0: field 'text' is not text but int"),
     ({"text": ["a", None]}, "#1: field 'text' is null")],
    ids=["missing", "number", "null"],
)  # fmt: skip
def test_wrong_parquet_column(column, said, tmp_path):
    path = parquet_of(tmp_path / "wrong.parquet", **column)
    assert said in error_of(path)


def test_damaged_parquet(tmp_path):
    whole = parquet_of(tmp_path / "whole.parquet", text=[f"{n * n}" for n in range(2000)])
    raw = whole.read_bytes()
    for damaged in (b"", b"PAR1", b"no parquet", raw[:-9], raw[: len(raw) // 2],
                    raw[:2000] + b"\xff" * 500 + raw[2500:]):  # fmt: skip
        error_of(write(tmp_path, "damaged.parquet", damaged))


# Compressed files

CONTENT = "".join(f"line {n * n} é\n" for n in range(40)).encode()


@settings(deadline=None, max_examples=40)
@given(ends=st.lists(st.integers(0, len(CONTENT)), max_size=6), skippable=st.booleans())
@pytest.mark.parametrize("ending", [".txt.gz", ".txt.zst", ".txt.bz2"])
def test_file_that_was_appended_to(folder, ending, ends, skippable):
    """Several members or frames, also empty ones; zstd's may have notes between them."""
    packed, start = b"", 0
    note = b"\x50\x2a\x4d\x18" + (3).to_bytes(4, "little") + b"abc"
    for end in [*sorted(ends), len(CONTENT)]:
        packed += note if skippable and ending == ".txt.zst" else b""
        packed += PACKERS[pathlib.PurePath(ending).suffix](CONTENT[start:end])
        start = end
    path = folder / f"frames{ending}"
    path.write_bytes(packed)
    assert "".join(texts_of(path)).encode() == CONTENT


@pytest.mark.parametrize("ending", [".txt.gz", ".txt.zst", ".jsonl.gz", ".jsonl.bz2"])
def test_compressed_file_larger_than_what_is_read_at_a_time(ending, tmp_path):
    numbers = range(60_000)
    lines = [f"line {n * n}" for n in numbers]
    text = "".join(json.dumps({"text": line}) + "\n" for line in lines).encode()
    path = write(tmp_path, f"long{ending}", text)
    assert path.stat().st_size > 1 << 17
    if ending.startswith(".jsonl"):
        assert texts_of(path) == lines
    else:
        assert "".join(texts_of(path)).encode() == text


def checked(ending: str) -> bytes:
    """Returns CONTENT, compressed, with a checksum."""
    if ending != ".txt.zst":
        return PACKERS[pathlib.PurePath(ending).suffix](CONTENT)
    return zstandard.ZstdCompressor(write_checksum=True).compress(CONTENT)


@pytest.mark.parametrize("ending", [".txt.gz", ".txt.zst", ".txt.bz2"])
@pytest.mark.parametrize("before", [b"", CONTENT], ids=["first", "second"])
def test_file_that_is_cut_off(ending, before, tmp_path):
    """Anywhere, in its first frame or a later one: no text is lost in silence."""
    packed = checked(ending)
    path = tmp_path / f"cut{ending}"
    for end in range(1, len(packed)):
        path.write_bytes((packed if before else b"") + packed[:end])
        error_of(path)


@pytest.mark.parametrize("ending", [".txt.gz", ".txt.zst", ".txt.bz2"])
def test_file_that_is_damaged(ending, tmp_path):
    """In any byte: it gives the right text, or one line."""
    packed = checked(ending)
    path = tmp_path / f"damaged{ending}"
    refused = 0
    for place in range(len(packed)):
        path.write_bytes(packed[:place] + bytes([packed[place] ^ 0x55]) + packed[place + 1 :])
        try:
            assert "".join(texts_of(path)).encode() == CONTENT
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > len(packed) * 0.9


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.zst", "a.txt.bz2", "a.jsonl.gz"])
def test_file_that_is_not_compressed_at_all(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b'{"text": "plain"}\n')
    error_of(path)


def test_zstd_with_the_longest_window(tmp_path):
    """As `zstd --long=31` writes it: its frame refers back to up to 2 GiB."""
    header = b"\x28\xb5\x2f\xfd" + b"\0" + bytes([(31 - 10) << 3])  # magic, no flags, 2^31
    block = (len(CONTENT) << 3 | 1).to_bytes(3, "little") + CONTENT  # raw, and the last one
    path = tmp_path / "long.txt.zst"
    path.write_bytes(header + block)
    assert "".join(texts_of(path)).encode() == CONTENT


def test_missing_zstandard_says_how_to_install_it(tmp_path, monkeypatch):
    path = write(tmp_path, "a.txt.zst", b"text")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match=r"pip install 'dlms_jax\[data\]'"):
        texts_of(path)


# What holds no text


@pytest.mark.parametrize("ending", [*TEXTS, *JSON_LINES, ".csv"])
def test_empty_file_has_no_documents(ending, tmp_path):
    assert texts_of(write(tmp_path, f"empty{ending}", b"")) == []
    path = tmp_path / f"nothing{ending}"
    path.write_bytes(b"")
    assert texts_of(path) == []


def test_blank_documents_are_left_out(tmp_path):
    blank = ["", " \n\t", "\u2003\r\n"]
    assert texts_of(write(tmp_path, "a.txt", blank[1].encode())) == []
    records = [{"text": text} for text in [*blank, "a"]]
    assert texts_of(write(tmp_path, "a.jsonl", json_lines(*records))) == ["a"]
    rows = [["n", "text"], *enumerate([*blank, "a"])]
    assert texts_of(write(tmp_path, "a.csv", csv_of(*rows))) == ["a"]
    assert texts_of(parquet_of(tmp_path / "a.parquet", text=[*blank, "a"])) == ["a"]


def test_missing_file(tmp_path):
    for ending in (".txt", ".txt.gz", ".jsonl.zst", ".csv", ".parquet"):
        assert "No such file" in error_of(tmp_path / f"gone{ending}")


# Which files


@pytest.fixture
def tree(tmp_path) -> pathlib.Path:
    """A folder with files that are read, and others."""
    known = ["b.txt", "a.md", "sub/c.rst", "sub/deep/d.jsonl", "e.csv", "f.parquet", "g.txt.gz"]
    for name in [*known, "x.py", "y", "z.tar.gz", "sub/w.json", "note.txt~"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.txt").mkdir()  # a folder with the name of a text
    return tmp_path


def names_of(tree, paths) -> list[str]:
    return [str(path.relative_to(tree)) for path in list_files(paths)]


def test_folder_is_searched_deeply_and_in_order(tree):
    expected = ["a.md", "b.txt", "e.csv", "f.parquet", "g.txt.gz", "sub/c.rst", "sub/deep/d.jsonl"]
    assert names_of(tree, tree) == names_of(tree, str(tree)) == expected


@pytest.mark.parametrize("name", [".a.txt", "_a.csv", "sub/_a.md", ".git/a.md"])
def test_what_is_hidden_is_no_part_of_a_folder(name, tree):
    """Nor are reports that stand beside data; unless they are named."""
    before = list_files(tree)
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_text("text")
    assert list_files(tree) == before
    assert names_of(tree, tree / name) == [name]


def test_files_that_are_left_out_are_listed(tree, capsys):
    list_files(tree / "sub")
    assert "sub: 1 file is left out" in (said := capsys.readouterr().err)
    assert "w.json" in said and "named .jsonl" in said and said.count("\n") == 1
    list_files([f"{tree}/*", tree / "sub"])  # what is said once is not said again
    assert ": note.txt~, x.py, y, z.tar.gz (known" in (said := capsys.readouterr().err)
    assert said.count("\n") == 1 and ".jsonl.bz2" in said
    for number in range(9):
        (tree / f"{number}.pdf").touch()
    list_files(tree)
    assert "14 files are left out, of an unknown format: 9 .pdf, " in capsys.readouterr().err
    list_files([tree / "a.md", f"{tree}/*.md"])
    assert capsys.readouterr().err == ""


def test_case_of_a_name_is_no_matter(tree):
    for name in ("sub/B.TXT", "sub/C.JsonL", "sub/D.csv.GZ", "sub/E.tsv", "sub/F.txt.bz2"):
        (tree / name).touch()
    expected = {"B.TXT", "C.JsonL", "D.csv.GZ", "E.tsv", "F.txt.bz2", "c.rst", "d.jsonl"}
    assert {path.name for path in list_files(tree / "sub")} == expected


def test_glob(tree):
    assert names_of(tree, f"{tree}/*.txt*") == ["b.txt", "g.txt.gz"]
    assert names_of(tree, f"{tree}/**/*") == names_of(tree, tree)
    assert names_of(tree, f"{tree}/[ab].*") == ["a.md", "b.txt"]


def test_list_of_files_folders_and_globs(tree):
    """Each file once, in order, however it was named."""
    paths = [f"{tree}/e.*", tree / "sub", str(tree / "b.txt"), tree / "sub" / ".." / "b.txt"]
    files = list_files(paths)
    assert files == sorted(files)
    expected = [tree / name for name in ("b.txt", "e.csv", "sub/c.rst", "sub/deep/d.jsonl")]
    assert sorted(file.resolve() for file in files) == expected
    assert names_of(tree, (tree / name for name in ["b.txt", "a.md"])) == ["a.md", "b.txt"]


def test_link_to_a_file_is_that_file(tree):
    (tree / "sub" / "link.txt").symlink_to(tree / "b.txt")
    assert len(list_files(tree)) == len(list_files([tree / "sub", tree])) == 7


def test_name_with_brackets_is_a_name_first(tree):
    (tree / "b[1].txt").write_text("text")
    assert names_of(tree, str(tree / "b[1].txt")) == ["b[1].txt"]


@pytest.mark.parametrize(
    "path, said",
    [
        ("x.py", "unknown format"),
        ("sub/w.json", "unknown format"),
        ("y", "unknown format"),
        ("nowhere", "no file or folder"),
        ("nowhere/a.txt", "no file or folder"),
        ("*.pdf", "matches"),
        ("*.py", "matches"),
        ("folder.txt", "has no file of"),
    ],
)
def test_what_holds_no_file_is_named(path, said, tree):
    for paths in (f"{tree}/{path}", [tree / "b.txt", f"{tree}/{path}"]):
        with pytest.raises(UserError, match=said) as error:
            list_files(paths)
        assert f"{tree}/{path}" in str(error.value) and "\n" not in str(error.value)
        if said != "no file or folder":
            assert ".jsonl.zst" in str(error.value)  # what would do


@pytest.mark.parametrize("paths", ["", [""]])
def test_no_name_is_not_the_current_folder(paths, tree, monkeypatch):
    """An empty name is a mistake, not a wish to read what lies around."""
    monkeypatch.chdir(tree)
    with pytest.raises(UserError):
        list_files(paths)
    assert list_files(".")  # which may be asked for
