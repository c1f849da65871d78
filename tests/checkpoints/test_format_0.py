"""Checkpoints and an export of format 0, written before there was a format number, read by today's
code: the same settings, corruption and tokens, and losses that agree to rounding."""

import dataclasses
import json
import pathlib
import tarfile

from conversion.exported import tree_of
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.checkpoints.checkpoint import open_checkpoint
from dlms_jax.config import SETTINGS
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.importing import import_model
from dlms_jax.data.feed.dataset import build_dataset
from dlms_jax.data.feed.loader import train_batches
from dlms_jax.denoiser import make_denoiser
from dlms_jax.model import DiffusionLM
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.runtime.metric_writer import read_metrics
from dlms_jax.trainer import Trainer
from dlms_jax.training.pretraining import as_batch

FOLDER = pathlib.Path(__file__).parents[1] / "fixtures/format_0"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
STEP = 4
# What format 1 renamed, with the values that it changed.
RENAMED = {
    "model.matmuls": ("model.quantization", {"dtype": "none"}),
    "model.source": ("model.prompt_encoder", {"concatenation": "none"}),
    "model.source_layers": ("model.prompt_encoder_layers", {}),
    "data.repeat": ("data.max_epochs", {}),
    "data.short_rows": ("data.random_length_probability", {}),
    "data.field": ("data.text_field", {}),
    "data.invalid": ("data.invalid_utf8", {}),
    "training.head": ("training.loss_implementation", {}),
    "training.head_chunk": ("training.loss_chunk_size", {}),
    "training.hang_minutes": ("training.watchdog_minutes", {}),
    "training.hang_exit": ("training.watchdog_exit", {}),
    "sampling.grid": ("sampling.timestep_spacing", {}),
    "sampling.rounding": ("sampling.clamp", {}),
}
# What each run was given besides the defaults, of what was renamed.
GIVEN = {
    "masked": {"data.random_length_probability": 0.25, "training.loss_implementation": "plain"},
    "block": {"data.max_epochs": 9},
    "gaussian": {"sampling.clamp": True},
}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The folder of the old runs and the old export, for this module to write to."""
    folder = tmp_path_factory.mktemp("format_0")
    with tarfile.open(FOLDER / "runs.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module", params=EXPECTED)
def loaded(request, old):
    """Returns (the model of an old run, what is expected of it)."""
    mesh = make_mesh(devices=jax.devices()[:1])
    lm = DiffusionLM.load_checkpoint(str(old / request.param / "checkpoints/4"), mesh)
    return lm, EXPECTED[request.param]


def agree(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def batch_of(lm):
    """Returns (tokens, batch) with step index 4."""
    dataset = build_dataset(lm.config, lm.tokenizer)
    rows = train_batches(dataset, lm.config, np.arange(4))[STEP]
    return rows.tokens_RxL, as_batch(rows)


def loss_and_inputs(lm, batch):
    """Returns (the loss of a batch, the inputs of the network's first pass, their times)."""
    seen = []

    def spy(call):
        def spied(inputs, t_BxL, *arguments, **how):
            seen.append((inputs, t_BxL))
            return call(inputs, t_BxL, *arguments, **how)

        return spied

    denoise = make_denoiser(lm.config, lm.network, lm.params, lm.objective, lm.mesh)
    key = jax.random.fold_in(jax.random.key(lm.config.training.seed), STEP)
    spied = denoise._replace(nll=spy(denoise.nll), forward=spy(denoise.forward))
    loss = lm.objective.loss(spied, batch, key, jnp.int32(STEP))
    return float(loss.total), *next(s for s in seen if not isinstance(s[1], jax.core.Tracer))


def bound_of(lm, batch) -> float:
    denoise = make_denoiser(lm.config, lm.network, lm.params, lm.objective, lm.mesh)
    return float(jnp.sum(lm.objective.bound(denoise, batch, jax.random.key(7), 1, 4)))


@pytest.mark.parametrize("name", EXPECTED)
def test_settings_keep_their_values_under_their_new_names(name, old):
    folder = old / name / "checkpoints/4"
    config = open_checkpoint(folder).config
    saved = json.loads((folder / "about/metadata").read_text(encoding="utf-8"))["config"]
    known = {"name"}
    for section, settings in saved.items():
        for leaf, value in settings.items() if isinstance(settings, dict) else ():
            key, values = RENAMED.get(f"{section}.{leaf}", (f"{section}.{leaf}", {}))
            value = tuple(value) if isinstance(value, list) else value
            assert config.value(key) == (values[value] if values else value), key
            known.add(key)
    assert known <= set(SETTINGS) and saved["name"] == config.name == f"fixture-{name}"
    for key in set(SETTINGS) - known:  # settings that are newer
        assert config.value(key) == SETTINGS[key].default, key
    assert {key: config.value(key) for key in GIVEN.get(name, {})} == GIVEN.get(name, {})
    assert config.model.quantization == config.model.prompt_encoder == "none"


def test_corruption_is_the_same_and_losses_agree(loaded):
    lm, expected = loaded
    tokens_RxL, batch = batch_of(lm)
    np.testing.assert_array_equal(tokens_RxL, expected["rows"])
    loss, inputs, t_BxL = loss_and_inputs(lm, batch)
    agree(t_BxL, expected["t"])
    if "inputs" in expected:
        np.testing.assert_array_equal(inputs, expected["inputs"])
    else:
        agree(float(jnp.sum(jnp.abs(inputs.z_BxLxE))), expected["noisy"])
    agree(loss, expected["loss"])
    agree(bound_of(lm, batch), expected["bound"])


def test_evaluation_agrees(loaded):
    lm, expected = loaded
    report = dataclasses.asdict(lm.evaluate(rows=4))
    for name, value in expected["evaluate"].items():
        agree(report[name], value)


def test_sampled_tokens_are_the_same(loaded):
    lm, expected = loaded
    for name, how in {"samples": {}, "guided": {"guidance": 0.5, "temperature": 1.0}}.items():
        *_, canvas = lm.stream([lm.after("The ", 12), lm.after("", 12)], seed=3, **how)
        np.testing.assert_array_equal(canvas.tokens_BxL, expected[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_a_run_resumes(name, old, one_device, monkeypatch):
    """From its checkpoint after step 4 to step 7."""
    monkeypatch.setattr("dlms_jax.runtime.setup.make_mesh", lambda config: one_device)
    config = open_checkpoint(old / name).config
    training = dataclasses.replace(config.training, steps=7)
    Trainer(old / name).train(dataclasses.replace(config, training=training))
    rows = read_metrics(old / name / "metrics.csv")
    assert [row["step"] for row in rows] == list("1234567")
    agree([float(row["loss"]) for row in rows], EXPECTED[name]["losses"])
    assert open_checkpoint(old / name).step == 7


def test_the_export_comes_back_with_the_same_bits(old, tmp_path):
    import_model(old / "export", tmp_path / "back", verify=False)
    run, back = (
        open_export_source(path) for path in (old / "block/checkpoints/4", tmp_path / "back")
    )
    before, after = tree_of(run), tree_of(back)
    assert before.keys() == after.keys()
    for path, array in before.items():
        assert array.tobytes() == after[path].tobytes(), path
