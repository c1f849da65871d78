"""The size of pieces: one's own text works from 20 KB on; longer ones are cut as before."""

import io
import random

from killed_builder import contents
import numpy as np
import pytest
from rich.console import Console

from dlms_jax.config import TokenizerConfig, from_dict
from dlms_jax.data import DatasetBuilder, ReadOptions
from dlms_jax.data.corpora.options import PIECE_BYTES
from dlms_jax.data.corpora.pieces import with_pieces
from dlms_jax.data.corpora.source import find_sources
from dlms_jax.data.feed.dataset import build_dataset
from dlms_jax.data.tokenizers import fingerprint, make_tokenizer
from dlms_jax.errors import UserError
from dlms_jax.prepare.__main__ import main

WORDS = ["".join(random.Random(n).choices("abcdefghij é", k=5)) for n in range(400)]


def text_of(size: int, seed: int, line: int = 12) -> str:
    draw = random.Random(seed)
    words = draw.choices(WORDS, k=size // 4)
    lines = (" ".join(words[at : at + line]) for at in range(0, len(words), line))
    return "\n".join(lines).encode()[:size].decode(errors="ignore")


def build(path, out, **settings):
    console = Console(file=io.StringIO())
    return DatasetBuilder(out, console=console, **settings).build_from_raw(path, "bytes", 128)


@pytest.mark.parametrize("line", [8, 60, 100_000], ids=["lines", "paragraphs", "one line"])
@pytest.mark.parametrize("size", [20_000, 60_000, 120_000, 360_000])
def test_ones_own_text_works_by_default(tmp_path, size, line, capsys):
    failed = 0
    for seed in range(3):
        path = tmp_path / f"{seed}.txt"
        path.write_text(text_of(size, seed, line))
        dataset = build(path, tmp_path / f"{seed}")
        pieces = dataset.card["arguments"]["read"]["piece_bytes"]
        said = capsys.readouterr().err
        assert dataset.card["splits"]["heldout"]["documents"] >= 1
        assert dataset.card["splits"]["train"]["rows"] * 128 > 0.6 * size
        config = {"data": {"corpus": str(path), "sequence_length": 128}}
        in_memory = build_dataset(from_dict(config))
        for split, name in ((in_memory.train[0], "train"), (in_memory.heldout, "heldout")):
            np.testing.assert_array_equal(
                split.rows.take(slice(None)).tokens_RxL,
                dataset.rows(name).take(slice(None)).tokens_RxL,
            )
        if pieces == PIECE_BYTES:
            assert said == ""
            continue
        failed += 1
        assert f"pieces of {pieces} bytes" in said and said.count("\n") == 1
        with pytest.raises(UserError, match="heldout"):  # the default of before
            build(path, tmp_path / "fixed", read=ReadOptions(piece_bytes=PIECE_BYTES))
    assert failed or size > 100_000


def test_longer_text_is_cut_as_before(tmp_path):
    """Wherever pieces of 16 KiB give both parts, and where a size is given."""
    for seed in range(2):
        path = tmp_path / f"{seed}.md"
        path.write_text(text_of(1_500_000, seed))
        fixed = build(path, tmp_path / f"{seed}fixed", read=ReadOptions(piece_bytes=PIECE_BYTES))
        assert contents(build(path, tmp_path / f"{seed}").folder) == contents(fixed.folder)
    given = ReadOptions(piece_bytes=500)
    assert with_pieces(given, find_sources(path, 0, 1), 0.05) == given


def test_records_are_never_cut(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    chosen = with_pieces(ReadOptions(), find_sources(tmp_path, 0, 1), 0.05)
    assert chosen.piece_bytes == PIECE_BYTES
    assert with_pieces(ReadOptions(), find_sources("synthetic", 0, 9), 0.05) == chosen


def test_sides_are_those_of_the_fraction(tmp_path):
    """A share near 0 or 1 leaves a side of a longer text empty."""
    (tmp_path / "a.txt").write_text(text_of(300_000, 0))
    for fraction in (0.003, 0.997):
        dataset = build(tmp_path / "a.txt", tmp_path / f"{fraction}", heldout_fraction=fraction)
        assert dataset.card["arguments"]["read"]["piece_bytes"] < PIECE_BYTES


def test_tokenizer_and_beam_use_the_same_pieces(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text(text_of(40_000, 2))
    main(["tokenizer", str(path), "--out", str(tmp_path / "t.json"), "--vocab-size", "300"])
    alone = make_tokenizer(TokenizerConfig("bpe", path=str(tmp_path / "t.json")), ())
    command = ["dataset", str(path), "--sequence-length", "64"]
    main([*command, "--out", str(tmp_path / "d"), "--tokenizer", "bpe", "--vocab-size", "300"])
    assert capsys.readouterr().err.count("so text files are split into pieces of") == 1
    options = ["--tokenizer", "bpe", "--tokenizer-path", str(tmp_path / "t.json"), "--beam"]
    main([*command, "--out", str(tmp_path / "beam"), *options])
    here = contents(tmp_path / "d", "*.array_record")
    assert here and contents(tmp_path / "beam", "*.array_record") == here
    built = build_dataset(from_dict({
        "data": {"corpus": str(tmp_path / "d"), "sequence_length": 64},
        "tokenizer": {"name": "bpe", "vocab_size": 300},
    }))  # fmt: skip
    assert fingerprint(built.tokenizer) == fingerprint(alone)
