"""The README's first run, from start to end (about 8 minutes): run with `pytest -m slow`."""

import pathlib

import jax
import pytest

from dlms_jax import Trainer
from dlms_jax.config import load_config
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.runtime import setup
from dlms_jax.runtime.metric_writer import read_metrics

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
def test_tiny_ends_a_quarter_below_the_unigram_entropy_and_still_falling(tmp_path, monkeypatch):
    one_device = make_mesh(devices=jax.devices()[:1])
    monkeypatch.setattr(setup, "make_mesh", lambda config: one_device)
    metrics = Trainer(tmp_path).train(load_config(ROOT / "configs" / "tiny.py"))
    assert metrics["bound"] < 0.75 * metrics["unigram_nats"]
    bounds = [float(row["bound"]) for row in read_metrics(tmp_path / "metrics.csv") if row["bound"]]
    assert bounds == sorted(bounds, reverse=True)
