"""The dataset of the Beam pipeline is that of the local builder, byte for byte."""

import json

import pytest
from rich.console import Console

from dlms_jax.data.build.beam import build_on_beam
from dlms_jax.data.build.builder import DatasetBuilder
from dlms_jax.data.corpora.options import ReadOptions
from dlms_jax.data.corpora.source import find_sources
from dlms_jax.data.store.card import ShardPlan
from dlms_jax.data.store.prepared import open_prepared
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.errors import UserError


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(7):
        lines = [{"text": f"line {number % 5} {row} " + "é\U0001f600" * row} for row in range(12)]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("packing", ["concat", "best-fit"])
def test_shards_are_the_local_ones(texts, tmp_path, packing):
    sources = find_sources(texts, 0, 1)
    size = sum(source.size for source in sources)
    plan = ShardPlan(4, 32, packing, heldout_fraction=0.3, seed=5)
    build_on_beam(sources, str(tmp_path / "beam"), ByteTokenizer(), plan, ReadOptions())
    local = DatasetBuilder(
        out=tmp_path / "local", packing=packing, heldout_fraction=0.3, seed=5,
        shard_bytes=-(-size // 4), console=Console(quiet=True),
    ).build_from_raw(texts, "bytes", 32)  # fmt: skip
    shards = sorted(path.name for path in (tmp_path / "local").glob("*.array_record"))
    assert len(shards) == 8
    for name in [*shards, "vocab.json"]:
        assert (tmp_path / "beam" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    beam = open_prepared(tmp_path / "beam")
    for key in ("splits", "buckets", "duplicates", "longest", "token_type", "tokenizer"):
        assert beam.card[key] == local.card[key], key
    assert beam.card["read"]["documents"] == local.card["read"]["documents"] == 7 * 12
    assert beam.card["duplicates"] == 2 * 12


def test_buckets_without_documents_have_shards(texts, tmp_path):
    """More buckets than documents: each still has its two files."""
    plan = ShardPlan(64, 32, heldout_fraction=0.3)
    out = tmp_path / "beam"
    build_on_beam(find_sources(texts, 0, 1), str(out), ByteTokenizer(), plan, ReadOptions())
    assert len(list(out.glob("*.array_record"))) == 128
    assert open_prepared(out).rows("train").number > 0


def test_broken_input_is_one_line(texts, tmp_path):
    (texts / "8.jsonl").write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(UserError, match=r"8\.jsonl:2") as error:
        sources = find_sources(texts, 0, 1)
        build_on_beam(
            sources, str(tmp_path / "o"), ByteTokenizer(), ShardPlan(2, 32), ReadOptions()
        )
    assert "\n" not in str(error.value)
    assert not (tmp_path / "o" / "dataset.json").exists()


def test_useless_input_leaves_no_dataset(texts, tmp_path):
    plan = ShardPlan(2, 32, heldout_fraction=1e-9)
    with pytest.raises(UserError, match="heldout"):
        build_on_beam(
            find_sources(texts, 0, 1), str(tmp_path / "o"), ByteTokenizer(), plan, ReadOptions()
        )
    assert not (tmp_path / "o").exists()


def test_a_folder_in_use_is_refused(texts, tmp_path):
    with pytest.raises(UserError, match="is not empty"):
        build_on_beam(
            find_sources(texts, 0, 1), str(texts), ByteTokenizer(), ShardPlan(2, 32), ReadOptions()
        )
