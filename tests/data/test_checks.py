"""What Python callers give is refused at once, in one line, and leaves no folder behind."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from dlms_jax.config import DataConfig, TokenizerConfig, from_dict
from dlms_jax.data import DatasetBuilder, ReadOptions, checks
from dlms_jax.data.build.dialogues import DialogueOptions
from dlms_jax.data.chat import ChatOptions
from dlms_jax.data.cleaning.options import CleaningOptions
from dlms_jax.data.feed.dataset import build_dataset, load_split
from dlms_jax.data.feed.loader import train_batches
from dlms_jax.data.store.card import ShardPlan
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError
from dlms_jax.prepare.__main__ import main

SEEDS = [-1, 2**32, 2**70, 0.5, "x", None, True, float("nan")]
FRACTIONS = ["x", 0, 1, -0.1, float("nan"), float("inf"), None, True]
WORDS = ["x", "", None, 1, ["strict"]]
COUNTS = [0, -1, 0.5, "x", None, True]
BAD = {
    ReadOptions: {"field": [5, None], "invalid": WORDS, "piece_bytes": [-1, 0.5, "x", True]},
    DatasetBuilder: {
        "seed": SEEDS, "heldout_fraction": FRACTIONS, "packing": WORDS, "read": ["strict", None],
        "shard_bytes": COUNTS, "sample_bytes": COUNTS, "workers": COUNTS, "out": [5],
        "synthetic_documents": [*COUNTS, 10**400], "tfds_directory": [5], "overwrite": ["no", 1],
    },
    DialogueOptions: {
        "sequence_length": [0, 1, "x", 10**12], "seed": SEEDS, "heldout_fraction": FRACTIONS,
        "prompt_length": [-1, 8, 10**12, "x"], "eos": WORDS, "too_long": WORDS,
    },
    ChatOptions: {"score": WORDS, "template": [5], "prompt_field": [5], "task": [None]},
    CleaningOptions: {
        "normalize": WORDS, "min_characters": [-1, "x", 0.5], "ngram": COUNTS, "shingle": COUNTS,
        "near_duplicates": [2, "x", float("nan")], "min_language_probability": ["x"],
    },
    ShardPlan: {
        "seed": SEEDS, "heldout_fraction": FRACTIONS, "packing": WORDS,
        "buckets": [0, 10**9], "sequence_length": [1, 10**12],
    },
}  # fmt: skip
NEEDED = {DialogueOptions: {"sequence_length": 8}, ShardPlan: {"buckets": 1, "sequence_length": 8}}


def refused(call, *args, **kwargs) -> str:
    """Returns the one line that a call is refused with."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    message = str(error.value)
    assert message and "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("made", BAD, ids=lambda made: made.__name__)
def test_bad_value_is_refused_when_it_is_given(made):
    made(**NEEDED.get(made, {}))
    for name, values in BAD[made].items():
        for value in values:
            message = refused(made, **NEEDED.get(made, {}) | {name: value})
            assert name in message or name in ("sequence_length", "buckets")


def test_numbers_of_numpy_are_pythons():
    builder = DatasetBuilder(seed=np.int64(3), heldout_fraction=np.float32(0.5), workers=np.int8(2))
    found = (builder.seed, builder.heldout_fraction, builder.workers)
    assert found == (3, 0.5, 2) and [type(x) for x in found] == [int, float, int]


@pytest.mark.parametrize(
    ("path", "vocab", "length"),
    [("TEXTS", "bytes", x) for x in ("x", 0, 1, -5, None, 0.5, 10**9, 10**30)]
    + [("TEXTS", x, 32) for x in (10**8, 10**30, -1, 0, TokenizerConfig("x"), 0.5,
                                  TokenizerConfig("bpe", "x"), TokenizerConfig("bpe", 10**12),
                                  TokenizerConfig("sentencepiece", 10**30))]
    + [(5, "bytes", 32), (None, "bytes", 32)],
    ids=str,
)  # fmt: skip
def test_build_refuses_before_it_makes_a_folder(tmp_path, path, vocab, length):
    (tmp_path / "a.txt").write_text("some text\n" * 50)
    builder = DatasetBuilder(tmp_path / "out", console=Console(file=io.StringIO()))
    path = tmp_path / "a.txt" if path == "TEXTS" else path
    refused(builder.build_from_raw, path, vocab, length)
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


# Sizes


@pytest.mark.parametrize(
    ("corpus", "settings", "said"),
    [("synthetic", {"shard_bytes": 1}, "--shard-bytes"),
     ("synthetic", {"synthetic_documents": 10**12, "shard_bytes": 10**10}, "on disk"),
     ("sparse.txt", {"shard_bytes": 10**12}, "shard_bytes=1000000000000 takes about 5587 GiB of"),
     ("sparse.txt", {"sample_bytes": 10**12}, "sample_bytes=1000000000000 takes about 931.32 GiB")],
    ids=["shards", "disk", "memory of a shard", "memory of a sample"],
)  # fmt: skip
def test_size_is_estimated_before_it_is_built(tmp_path, monkeypatch, corpus, settings, said):
    monkeypatch.chdir(tmp_path)
    with open("sparse.txt", "wb") as file:
        file.truncate(10**12)  # takes no space on disk
    builder = DatasetBuilder(tmp_path / "out", **settings)
    message = refused(builder.build_from_raw, corpus, 300, 32)
    assert said in message
    assert not (tmp_path / "out").exists()


def test_row_that_does_not_fit_in_memory_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("some text\n" * 50)
    data = DataConfig(corpus=str(tmp_path / "a.txt"), sequence_length=10**10)
    message = refused(load_split, data.corpus, ByteTokenizer(), data)
    assert "10000000000" in message and "121.07 GiB" in message


@pytest.mark.parametrize("setting", [{"prefetch": 10**9}, {"workers": 10**6}])
def test_batches_that_do_not_fit_in_memory_are_refused(setting):
    config = {"data": {"corpus": "synthetic", "synthetic_documents": 300, "sequence_length": 64}}
    dataset = build_dataset(from_dict(config))
    train_batches(dataset, from_dict(config), np.arange(4))
    config["data"] |= setting
    message = refused(train_batches, dataset, from_dict(config), np.arange(4))
    assert all(f"config.data.{name}={value}" in message for name, value in setting.items())
    assert "GiB of memory" in message


@pytest.mark.parametrize("weights", [(1e308, 1e308), (1e-320, 1.0), (0.0, 1.0), (-1.0, 1.0)])
def test_weights_whose_shares_are_not_finite_are_refused(weights):
    """Of 1e308 and 1e308, only the first corpus was drawn."""
    mixture = dict(zip(("python-docs", "synthetic"), weights, strict=True))
    assert "config.data.mixture" in refused(from_dict, {"data": {"mixture": mixture}})


def test_estimates_allow_what_fits(tmp_path):
    checks.check_memory(1 << 20, "it")
    checks.check_disk(1, tmp_path / "not" / "there", "it")
    checks.check_row(1 << 20)


# Seeds of the commands


@pytest.mark.parametrize("command", ["dataset", "tokenizer", "chat"])
@pytest.mark.parametrize("seed", ["4294967296", "-1", str(2**70), "1" * 5000, "0.5", "nan", "x"])
def test_seed_beyond_32_bits_is_refused(tmp_path, command, seed, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "response": "b"}))
    arguments = [command, str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "out")]
    length = [] if command == "tokenizer" else ["--sequence-length", "8"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *length, f"--seed={seed}"])
    assert ended.value.code == 2
    assert "--seed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
