"""One machine and Apache Beam keep the same documents, for the same reasons, in any order."""

import collections
import csv
import io
import json
import random

from hypothesis import given, settings, strategies as st
import pytest
import zstandard

from dlms_jax.data.cleaning import pipeline
from dlms_jax.data.cleaning.beam import run_beam_clean
from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.cleaning.pipeline import clean, run_local_clean
from dlms_jax.data.cleaning.record import Record
from dlms_jax.data.cleaning.report import (
    KEPT,
    READ,
    WRITTEN,
    Count,
    dropped,
    merge_counts,
    to_csv,
)
from dlms_jax.data.cleaning.spill import Spill
from dlms_jax.data.corpora.document import Document, order_key, to_bytes, to_str
from dlms_jax.data.corpora.files import read_file
from dlms_jax.data.corpora.options import ReadOptions
from dlms_jax.errors import UserError

ENGLISH = (
    "The committee has decided that the proposal of the school will have to be read again, and "
    "number {} of the members agreed with that. Another of them asked whether the books about {} "
    "could be found in the library of the town. Nobody had an answer to the question of {}, so "
    "the meeting about {} was closed by the oldest of the members, with thanks to all of them."
)
GERMAN = (
    "Der Ausschuss hat beschlossen, den Vorschlag der Schule noch einmal zu lesen, und Mitglied {} "
    "war damit einverstanden. Niemand wusste eine Antwort auf die Frage, wie {} zu lesen sei."
)
NOUNS = [a + b for a in ("tree", "horse", "paper", "river") for b in ("s", "house", "work", "less")]
QUIZ = " ".join(f"question{i}" for i in range(20))

OPTIONS = CleaningOptions(
    normalize="NFC",
    min_characters=50,
    max_characters=4000,
    languages=("en",),
    min_language_probability=0.5,
    quality=("gopher", "gopher-repetition", "c4", "fineweb"),
    near_duplicates=0.7,
    decontaminate=("quiz",),
)


def text_document(name: str, text: str) -> Document:
    return Document(name, to_bytes(text))


def corpus(seed: int) -> list[Document]:
    """Returns documents of which every stage has something to drop, shuffled."""
    pick = random.Random(0)
    texts = []
    for number in range(27):
        # Three paragraphs of nouns of their own: unlike one another, as whole texts.
        lines = [" ".join(pick.sample(NOUNS, 8)) + f" and the place of {number}." for _ in range(3)]
        texts.append("\n".join([ENGLISH.format(number, *pick.sample(NOUNS, 3)), *lines]))
    documents = [text_document(f"good/{i:02d}", text) for i, text in enumerate(texts[:24])]
    documents += [text_document(f"copy/{i % 5}", texts[i % 3]) for i in range(9)]
    documents += [text_document(f"copy/{i}", text) for i, text in enumerate(texts[:2])]
    near = [f"{text}\nIt is {i} o'clock in the town." for i, text in enumerate(texts[5:12])]
    documents += [text_document(f"near/{i}", text) for i, text in enumerate(near)]
    documents += [text_document("quiz", f"{texts[24]}\nThe {QUIZ} is here.")]
    documents += [
        text_document("decomposed", f"{texts[21]}\nThe cafe\u0301 is of the house of a town.")
    ]
    documents += [
        text_document("composed", f"{texts[21]}\nThe caf\u00e9 is of the house of a town.")
    ]
    documents += [
        text_document("script", f"{texts[26]}\nYou have to turn on javascript to see it.")
    ]
    documents += [text_document("short", "Too short."), text_document("long", texts[0] * 20)]
    documents += [text_document("german", GERMAN.format(1, "das")), text_document("empty", "")]
    documents += [text_document("raw \udcff", f"\udcff{texts[25]}")]
    documents += [text_document("loop", "the same of the words and the same of the words. " * 20)]
    documents += [text_document("code", texts[0].replace("school", "{school}"))]
    random.Random(seed).shuffle(documents)
    return documents


def reader(documents: list[Document], files: int = 3):
    """Returns (paths, read): the documents as if in some files, and the evaluation texts."""
    parts = {f"part {i}": documents[i::files] for i in range(files)}
    return list(parts), {**parts, "quiz": [text_document("q", QUIZ)]}.__getitem__


def run_local(folder, documents, options=OPTIONS, **more):
    paths, read = reader(documents)
    report = run_local_clean(paths, folder, options, read, **more)
    return report, written(folder)


def written(folder) -> list[Document]:
    """Returns what the shards hold, in order."""
    shards = sorted(folder.glob("documents-*"))
    assert [path.name for path in shards] == [
        f"documents-{i:05d}-of-{len(shards):05d}.jsonl.zst" for i in range(len(shards))
    ]
    lines = b"".join(
        zstandard.ZstdDecompressor().stream_reader(p.open("rb")).read() for p in shards
    )
    return [text_document(**json.loads(line)) for line in lines.splitlines()]


def cleaned(documents, options, folder) -> list[Document]:
    evaluation = [text_document("q", QUIZ)] if options.decontaminate else []
    records, report = clean(documents, evaluation, options, folder)
    return [Document(r.name, r.text) for r in records], report


def files_in(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_adds_up(report, documents):
    """What was read is what was kept and what was dropped, in documents and bytes."""
    rows = [report[KEPT], *dropped(report).values()] if KEPT in report else dropped(report).values()
    size = sum(len(d.text) for d in documents)
    total = merge_counts(rows)
    assert total[:2] == report.get(READ, Count())[:2] == (len(documents), size)


# One machine


def test_every_stage_drops_what_it_should(tmp_path):
    documents = corpus(0)
    report, kept = run_local(tmp_path / "out", documents)
    assert_adds_up(report, documents)
    reasons = {key: count.documents for key, count in dropped(report).items()}
    near = ("near duplicates", "nearly the same text as another")
    assert reasons.pop(near) == 8  # 7, and one of a text with and without coffee
    assert reasons == {
        ("length", "under 50 characters"): 2,
        ("length", "over 4000 characters"): 1,
        ("language", "language de"): 1,
        ("quality", "c4: curly bracket"): 1,
        ("quality", "gopher-repetition: over 20% of characters in one 2-gram"): 1,
        ("exact duplicates", "same text as another"): 12,
        ("contamination", "shares words in a row with an evaluation text"): 1,
    }
    assert len(kept) == len({d.text for d in kept}) == report[KEPT].documents
    names = collections.Counter(d.name for d in kept)  # copies 0 are of two texts
    assert names["copy/0"] == 2 and names["copy/1"] == names["raw \\udcff"] == 1
    assert report[KEPT].bytes > report[WRITTEN].bytes == sum(len(d.text) for d in kept)
    assert report[("exact duplicates", "same text as another")].example == "copy/0"


def test_documents_lie_in_the_order_of_order_key(tmp_path):
    _, kept = run_local(tmp_path / "out", corpus(0), shard_bytes=3000)
    keys = [order_key(d.text, 0) for d in kept]
    assert keys == sorted(keys)
    assert len(list((tmp_path / "out").iterdir())) > 5


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_documents_does_not_matter(tmp_path, seed):
    run_local(tmp_path / "a", corpus(0), shard_bytes=3000)
    run_local(tmp_path / "b", corpus(seed), shard_bytes=3000)
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


WORDS = st.lists(st.sampled_from(["a", "b", "é", "e\u0301", "c.", "\udc80"]), max_size=8)


@settings(deadline=None, max_examples=25)
@given(
    texts=st.lists(WORDS.map(" ".join), max_size=8),
    names=st.randoms(use_true_random=False),
    near=st.sampled_from([0.0, 0.5]),
)
def test_any_documents_add_up_in_any_order(tmp_path_factory, texts, names, near):
    options = CleaningOptions(normalize="NFC", min_characters=2, near_duplicates=near, num_perm=16)
    documents = [text_document(names.choice("xyz"), text) for text in texts]
    first, report = cleaned(documents, options, tmp_path_factory.mktemp("first"))
    assert_adds_up(report, documents)
    names.shuffle(documents)
    again, other = cleaned(documents, options, tmp_path_factory.mktemp("again"))
    assert (first, report) == (again, other)
    assert len({d.text for d in first}) == len(first)
    if not near:  # then the smallest name of each text, and every text
        expected = collections.defaultdict(list)
        for name, raw in documents:
            text = to_str(raw).replace("e\u0301", "é")
            if len(text) >= 2:
                expected[text].append(name)
        assert {to_str(d.text): d.name for d in first} == {t: min(n) for t, n in expected.items()}


def test_cleaning_twice_drops_nothing_more(tmp_path):
    """Without near duplicates, which are only compared with the first of their bucket."""
    options = CleaningOptions(
        normalize="NFC", languages=("en",), quality=OPTIONS.quality, decontaminate=("quiz",)
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    kept, report = cleaned(corpus(0), options, tmp_path / "one")
    assert dropped(report)
    again, report = cleaned(kept, options, tmp_path / "two")
    assert again == kept and not dropped(report) and report[KEPT] == report[WRITTEN] == report[READ]


def test_what_is_written_is_read_again(tmp_path):
    """By the reader of any other JSON lines; a raw byte comes back as it was."""
    run_local(tmp_path / "out", corpus(0), CleaningOptions())
    (shard,) = (tmp_path / "out").glob("*.zst")
    documents = read_file(shard, ReadOptions(invalid="keep"))
    texts = collections.Counter(document.text for document in documents)
    assert set(texts.values()) == {1} and any(b"\xff" in text for text in texts)
    assert set(texts) == {d.text for d in corpus(0) if d.text}  # the reader leaves empty texts out


def test_no_documents(tmp_path):
    report, kept = run_local(tmp_path / "out", [])
    assert report == {} and kept == []
    assert (
        tmp_path / "out" / "_report.csv"
    ).read_bytes() == b"stage,reason,documents,bytes,example\r\n"


def test_damaged_intermediate_file_is_named(tmp_path):
    """Not read as shorter or other documents."""
    spill = Spill(tmp_path)
    for number in range(9):
        spill.add(Record.of(f"{number}", b"text %d" % number, 6))
    spill.close()
    assert sorted(record.name for record in spill) == [str(number) for number in range(9)]
    file = min(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"^{file} is damaged") as error:
        list(spill)
    assert "\n" not in str(error.value)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("text")
    for run in (run_local_clean, run_beam_clean):
        with pytest.raises(UserError) as error:
            run(["a"], str(tmp_path / "out"), CleaningOptions(), reader([])[1])
        assert f"{tmp_path}/out is not empty" in str(error.value)
        assert "\n" not in str(error.value)
    assert files_in(tmp_path / "out") == {"mine": b"text"}


def test_a_run_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """Whether it fails at reading or at writing; and an empty folder may be there before."""
    (tmp_path / "out").mkdir()
    paths, read = reader(corpus(0))

    def broken(path):
        yield from read(path)
        raise UserError(f"{path}:7 is not JSON")

    with pytest.raises(UserError, match="part 0:7"):
        run_local_clean(paths, tmp_path / "out", CleaningOptions(), broken)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (tmp_path / "out.partial").mkdir()  # of a run that was killed
    (tmp_path / "out.partial" / "documents-00008-of-00009.jsonl.zst").write_text("old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(pipeline, "write_shard", lambda *_: (_ for _ in ()).throw(OSError("full")))
        run_local_clean(paths, tmp_path / "out", OPTIONS, read)
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]
    run_local_clean(paths, tmp_path / "out", OPTIONS, read)
    assert {path.name for path in tmp_path.iterdir()} == {"out"} and written(tmp_path / "out")


@pytest.mark.parametrize("run", [run_local_clean, run_beam_clean])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"languages": ("xx",)}, "cleaning.languages names 'xx'"),
        ({"near_duplicates": 1.0}, "cleaning.near_duplicates=1.0 cannot be estimated"),
    ],
)
def test_options_are_judged_before_anything_is_read(tmp_path, run, options, says):
    def read(path):
        raise AssertionError("read")

    with pytest.raises(UserError, match=says):
        run(["a"], str(tmp_path / "out"), CleaningOptions(**options), read)
    assert not (tmp_path / "out").exists()


# Beam


@pytest.mark.parametrize(
    ("documents", "options"),
    [
        (corpus(0), OPTIONS),
        (corpus(3), CleaningOptions()),
        ([], CleaningOptions(near_duplicates=0.8, decontaminate=("quiz",))),
    ],
    ids=["all stages", "defaults", "nothing"],
)
def test_beam_writes_the_same_files(tmp_path, documents, options):
    """Byte for byte, from other files in another order: documents, shards and report."""
    run_local(tmp_path / "local", documents, options, shard_bytes=3000)
    paths, read = reader(documents[::-1], files=2)
    run_beam_clean(paths, str(tmp_path / "beam"), options, read, shard_bytes=3000)
    assert files_in(tmp_path / "beam") == files_in(tmp_path / "local")


def test_beam_names_the_file_that_cannot_be_read(tmp_path):
    def read(path):
        raise UserError(f"{path}:7 is not JSON")

    with pytest.raises(UserError, match="^books.jsonl:7 is not JSON") as error:
        run_beam_clean(["books.jsonl"], str(tmp_path / "out"), CleaningOptions(), read)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "out").glob("*"))


def test_beam_checks_evaluation_texts(tmp_path):
    options = CleaningOptions(decontaminate=("quiz",), ngram=21)
    paths, read = reader(corpus(0))
    for run in (run_local_clean, run_beam_clean):
        with pytest.raises(UserError, match=r"\(quiz\) has 21 words"):
            run(paths, str(tmp_path / "out"), options, read)


# The report

COUNTS = st.tuples(st.integers(1, 9), st.integers(0, 9), st.text(max_size=2)).map(
    lambda fields: Count(*fields)
)


@given(st.lists(COUNTS, max_size=5), st.integers(0, 5), st.randoms(use_true_random=False))
def test_counts_add_up_in_any_order(counts, cut, shuffle):
    total = merge_counts(counts)
    assert total.documents == sum(c.documents for c in counts)
    assert total.example == min((c.example for c in counts), default="")
    assert merge_counts([total, Count()]) == total
    shuffle.shuffle(counts)
    assert merge_counts([merge_counts(counts[:cut]), merge_counts(counts[cut:])]) == total


@given(st.dictionaries(st.tuples(st.text(), st.text()), COUNTS, max_size=4))
def test_the_csv_is_read_back(rows):
    report = {READ: Count(9, 9, "a"), **rows, KEPT: Count(1, 2, 'b,"c'), WRITTEN: Count(1, 1, "b")}
    header, *lines = csv.reader(io.StringIO(to_csv(report), newline=""))
    assert header == ["stage", "reason", "documents", "bytes", "example"]
    assert {(s, r): Count(int(d), int(b), e) for s, r, d, b, e in lines} == report
    assert [tuple(line[:2]) for line in lines[:1] + lines[-2:]] == [READ, KEPT, WRITTEN]
