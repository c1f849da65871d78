"""A checkpoint with one flipped bit, anywhere: it is named, and never used."""

import io
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

from dlms_jax import DiffusionLM, Trainer
from dlms_jax.checkpoints.checkpoint import open_checkpoint
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.errors import UserError
from dlms_jax.testing import small_config


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A run with checkpoints at steps 2 and 4."""
    workdir = tmp_path_factory.mktemp("damage") / "run"
    train(workdir)
    return workdir


def train(workdir, **settings) -> str:
    config = small_config(
        data__corpus="synthetic", data__synthetic_documents=200, training__steps=4,
        checkpoint__every=2, training__ema_decay=0.5, **settings,
    )  # fmt: skip
    printed = io.StringIO()
    Trainer(workdir, Console(file=printed, soft_wrap=True)).train(config)
    return printed.getvalue()


def largest(folder: pathlib.Path) -> pathlib.Path:
    """Returns the file that holds the arrays of an item."""
    return max((p for p in folder.rglob("d/*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(file: pathlib.Path, share: float):
    """Inverts one bit of the byte at a share of a file."""
    data = bytearray(file.read_bytes())
    data[int(share * (len(data) - 1))] ^= 1 << 5
    file.write_bytes(data)


def same(tree, other) -> bool:
    pairs = zip(leaves(tree), leaves(other), strict=True)
    return all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def test_a_flipped_bit_is_named_or_does_not_matter(run, tmp_path):
    expected, named = DiffusionLM.load_checkpoint(run).params, 0
    for tenth in range(1, 10):
        shutil.copytree(run, tmp_path / "run")
        step = tmp_path / "run/checkpoints/4"
        flip(largest(step / "ema"), tenth / 10)
        try:
            assert same(DiffusionLM.load_checkpoint(step).params, expected)
        except UserError as error:
            message = rf"the checkpoint {step} cannot be read .*; other steps: 2"
            assert re.fullmatch(message, str(error))
            named += 1
        shutil.rmtree(tmp_path / "run")
    assert named >= 6  # the rest of the file is the names and the index


@pytest.mark.parametrize("item", ["params", "rest"])
def test_a_run_resumes_from_the_checkpoint_before(item, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    step = tmp_path / "run/checkpoints/4"
    flip(largest(step / item), 0.5)
    printed = train(tmp_path / "run")
    assert f"{step} cannot be read" in printed and "after step 2" in printed
    weights = [DiffusionLM.load_checkpoint(folder).params for folder in (tmp_path / "run", run)]
    assert same(*weights)


def leaves(tree):
    return jax.tree.leaves(jax.device_get(tree))


def test_a_flip_in_the_metadata_is_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run/checkpoints/4/metadata/metadata"
    text = file.read_text()
    for before, after in (('"seed": 0', '"seed": 2'), ('"width": 32', '"width": 33')):
        assert before in text
        file.write_text(text.replace(before, after, 1))
        with pytest.raises(UserError, match="is damaged"):
            open_checkpoint(tmp_path / "run/checkpoints/4")


def test_checks_can_be_skipped_and_older_checkpoints_have_none(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    metadata = open_checkpoint(run).metadata
    assert set(metadata["digests"]) == {"params", "ema", "rest"}
    assert "not checked" not in train(tmp_path / "run", checkpoint__verify=False)


def test_an_export_reads_in_parts_and_checks_the_sum_of_them(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    step = tmp_path / "run/checkpoints/4"
    paths = open_checkpoint(step).metadata["digests"]["ema"]
    whole = open_export_source(step).arrays
    for path in paths:
        assert len(list(whole.layers(path, limit=1))) == len(whole.read(path))
    flip(largest(step / "ema"), 0.5)
    arrays, named = open_export_source(step).arrays, []
    for path in paths:
        try:
            arrays.read(path)
        except UserError as error:
            named.append(path)
            assert path in str(error) and "try another checkpoint" in str(error)
            with pytest.raises(UserError, match=path):
                list(arrays.layers(path, limit=1))
    assert len(named) == 1
