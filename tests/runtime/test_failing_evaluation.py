"""An evaluation or a sample that fails does not lose the training."""

import io

import pytest
from rich.console import Console

from dlms_jax import Trainer
from dlms_jax.checkpoints.checkpoint import find_checkpoint
from dlms_jax.checkpoints.metrics import read_metrics
from dlms_jax.errors import UserError
from dlms_jax.runtime import heldout
from dlms_jax.testing import small_config


def run(workdir, **settings):
    """Returns what a run prints; it ends when three evaluations have failed."""
    config = small_config(
        data__corpus="synthetic", data__synthetic_documents=200, training__steps=5,
        evaluation__every=1, checkpoint__every=100, **settings,
    )  # fmt: skip
    printed = io.StringIO()
    try:
        Trainer(workdir, Console(file=printed, soft_wrap=True)).train(config)
    finally:
        run.printed = printed.getvalue()
    return run.printed


def test_training_continues_and_stops_saved_after_three(tmp_path, monkeypatch):
    sample, failing = heldout.HeldOut.sample, {1, 3, 4}

    def sometimes(self, state):
        if int(state.step) in failing:
            raise RuntimeError("RESOURCE_EXHAUSTED: no memory\nand a long report")
        return sample(self, state)

    monkeypatch.setattr(heldout.HeldOut, "sample", sometimes)
    with pytest.raises(UserError, match="3 evaluations failed .* step 4 is saved"):
        run(tmp_path / "run")
    told = [line for line in run.printed.splitlines() if "failed" in line]
    assert told == [
        f"the evaluation after step {step} failed (RuntimeError: RESOURCE_EXHAUSTED: no memory); "
        "training continues"
        for step in sorted(failing)
    ]
    assert find_checkpoint(tmp_path / "run").name == "4"
    rows = {row["step"]: row["bound"] for row in read_metrics(tmp_path / "run/metrics.csv")}
    assert [step for step, bound in rows.items() if bound] == ["2"]
    failing.clear()
    assert "after step 4" in run(tmp_path / "run")
    assert find_checkpoint(tmp_path / "run").name == "5"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"training__batch_size": 8 * 10**11}, "the rows of config.training.batch_size=8"),
        ({"model__width": 10**6}, "the weights and the optimizer's state of this model need about"),
        ({"sampling__prompt": "x" * 100}, "config.sampling.prompt does not fit"),
        ({"gaussian__embedding_file": "nowhere.npy", "objective__name": "gaussian"}, "nowhere.npy"),
    ],
)
def test_what_can_be_checked_is_refused_before_anything_is_written(settings, words, tmp_path):
    with pytest.raises(UserError) as error:
        run(tmp_path / "run", **settings)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_steps_to_profile_are_checked_first(tmp_path):
    config = small_config(data__corpus="synthetic", data__synthetic_documents=200)
    with pytest.raises(UserError, match="--profile_steps=100-200"):
        Trainer(tmp_path / "run", Console(quiet=True), profile_steps=(100, 200)).train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("config", [[], "configs/tiny.py", None, 3, ["a"]])
def test_what_is_no_config_is_one_line(config, tmp_path):
    with pytest.raises(UserError, match="a config should be a Config, a ConfigDict or a dict"):
        Trainer(tmp_path / "run").train(config)
