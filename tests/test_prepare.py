"""`prepare` as a user types it: what it writes, prints and refuses."""

import json

import pytest

from dlms_jax.config import TokenizerConfig
from dlms_jax.data import DatasetBuilder
from dlms_jax.data.corpora.options import ReadOptions
from dlms_jax.data.corpora.source import find_sources, first_texts
from dlms_jax.data.store.prepared import open_prepared
from dlms_jax.data.tokenizers import fingerprint, make_tokenizer
from dlms_jax.prepare.__main__ import main


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"Text {number}: " + "the quick brown fox. " * 9)
    return folder


def refused(capsys, *arguments) -> str:
    """Returns the one line with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and printed.startswith("error: ")
    return printed


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_tokenizer_alone_is_the_one_that_a_dataset_trains(texts, tmp_path, kind, capsys):
    """Also: what it writes is read back, by its own path, as the same tokenizer."""
    out = tmp_path / ("t.model" if kind == "sentencepiece" else "t.json")
    main(["tokenizer", str(texts), "--out", str(out), "--tokenizer", kind, "--vocab-size", "290"])
    assert "290 tokens" in capsys.readouterr().out
    alone = make_tokenizer(TokenizerConfig(kind, path=str(out)), ())
    config = TokenizerConfig(kind, 290)
    built = DatasetBuilder(out=tmp_path / "d").build_from_raw(texts, config, 32)
    assert fingerprint(alone) == fingerprint(built.tokenizer)


def test_tokenizer_sample_is_bounded_random_and_the_same(texts):
    sources = find_sources(texts, 0, 1)
    size = sum(source.size for source in sources)

    def sample(seed, limit, sources=sources):
        documents = (d for source in sources for d in source.read(ReadOptions()))
        return first_texts(documents, seed, 0.05, limit)

    whole = sample(0, size)
    part = sample(0, size // 3)
    assert part == whole[: len(part)] and 0 < sum(map(len, part)) <= size // 3
    assert sum(map(len, whole[: len(part) + 1])) > size // 3
    assert sample(0, size // 3, sources[::-1]) == part
    assert sample(1, size // 3) != part
    assert whole != sorted(whole)  # not the files' order


def test_dataset_is_complete_the_second_time(texts, tmp_path, capsys):
    command = ["dataset", str(texts), "--out", str(tmp_path / "d"), "--sequence-length", "64"]
    main([*command, "--workers", "1"])
    first = capsys.readouterr().out
    assert "40 documents" in first and "% scored" in first and "train: " in first
    main([*command, "--workers", "1"])
    assert "is complete" in capsys.readouterr().out
    main(["verify", str(tmp_path / "d")])
    assert "all checksums match" in capsys.readouterr().out


def test_special_tokens_reach_the_dataset(texts, tmp_path):
    options = ["--special-token", "<|task|>", "--special-token", "<|turn|>", "--workers", "1"]
    main(["dataset", str(texts), "--out", str(tmp_path / "d"), "--sequence-length", "64", *options])
    assert {"<|task|>", "<|turn|>"} <= set(open_prepared(tmp_path / "d").tokenizer.special_ids)


def test_clean_writes_documents_that_a_dataset_reads(texts, tmp_path, capsys):
    (texts / "copy.txt").write_text((texts / "0.txt").read_text())
    out = tmp_path / "clean"
    main(["clean", str(texts), "--out", str(out), "--min-characters", "20"])
    assert "exact" in capsys.readouterr().out
    main(["dataset", str(out), "--out", str(tmp_path / "d"), "--sequence-length", "64"])
    assert open_prepared(tmp_path / "d").card["read"]["documents"] == 40


def test_corpus_from_files(tmp_path, capsys):
    lines = [{"text": f"page {n} " * 20, "timestamp": "", "url": ""} for n in range(9)]
    path = tmp_path / "c4-train.00000-of-01024.json.gz"
    import gzip

    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    main(["corpus", "--name", "c4", "--from", str(path), "--out", str(tmp_path / "c4")])
    assert "input,read,9" in capsys.readouterr().out
    assert "ODC-By" in (tmp_path / "c4" / "_README.md").read_text()
    main(["dataset", str(tmp_path / "c4"), "--out", str(tmp_path / "d"), "--sequence-length", "64",
          "--heldout-fraction", "0.3"])  # fmt: skip
    assert open_prepared(tmp_path / "d").card["read"]["documents"] == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset", "TEXTS", "--sequence-length", "8", "--heldout-fraction", "1"], "heldout-frac"),
        (["dataset", "TEXTS", "--sequence-length", "8", "--workers", "0"], "--workers=0"),
        (["dataset", "TEXTS", "--sequence-length", "8", "--tokenizer", "hf"], "tokenizer.path"),
        (["dataset", "TEXTS", "--sequence-length", "8", "--tokenizer", "bpe",
          "--tokenizer-from", "TEXTS"], "--tokenizer-from already gives a tokenizer"),
        (["dataset", "TEXTS", "--sequence-length", "8", "--beam"], "--out"),
        (["dataset", "TEXTS", "--sequence-length", "8", "--beam", "--out", "OUT",
          "--tokenizer", "bpe"], "prepare tokenizer"),
        (["dataset", "TEXTS", "--sequence-length", "8", "--beam", "--out", "OUT",
          "--shard-bytes", "0"], "--shard-bytes=0"),
        (["dataset", "TEXTS", "--sequence-length", "1000000000", "--out", "OUT"], "12.11 GiB"),
        (["tokenizer", "TEXTS", "--out", "OUT", "--tokenizer", "bytes"], "cannot be trained"),
        (["tokenizer", "TEXTS", "--out", "TEXTS"], "already exists"),
        (["corpus", "--name", "c4"], "--out"),
        (["corpus", "--name", "c5", "--out", "OUT"], "unknown corpus"),
        (["clean", "TEXTS", "--out", "OUT", "--quality", "best"], "gopher"),
        (["clean", "nowhere", "--out", "OUT"], "nowhere"),
        (["chat", "nowhere.jsonl", "--out", "OUT", "--sequence-length", "8"], "nowhere.jsonl"),
        (["chat", "TEXTS", "--out", "OUT", "--sequence-length", "8", "--tokenizer", "bpe"],
         "--tokenizer-from"),
        (["verify", "nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_refused_in_one_line(arguments, message, texts, tmp_path, capsys):
    names = {"TEXTS": str(texts), "OUT": str(tmp_path / "out")}
    assert message in refused(capsys, *(names.get(a, a) for a in arguments))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["dataset", "tokenizer", "clean"])
def test_a_place_that_cannot_be_written_is_named(command, texts, capsys):
    options = {"dataset": ["--sequence-length", "8"], "tokenizer": ["--vocab-size", "300"]}
    printed = refused(
        capsys, command, texts, "--out", "/proc/nowhere/out", *options.get(command, [])
    )
    assert "/proc/nowhere" in printed


def test_unknown_option_is_not_taken_for_beams(texts, capsys):
    with pytest.raises(SystemExit):
        main(["dataset", str(texts), "--sequence-length", "8", "--runner=DirectRunner"])
    assert "--runner=DirectRunner" in capsys.readouterr().err
