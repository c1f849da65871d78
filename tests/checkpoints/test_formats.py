"""The format number of what holds settings on disk: older ones are migrated, newer ones refused."""

import io
import json
import shutil

from conversion.exported import random_checkpoint
import pytest
from rich.console import Console

from dlms_jax.checkpoints import checkpoint
from dlms_jax.checkpoints.checkpoint import find_checkpoint, load_metadata, open_checkpoint
from dlms_jax.config import FORMAT, default_config, formats, from_dict, load_config, upgrade_run
from dlms_jax.config.formats import Renamed, upgrade
from dlms_jax.conversion.export import export
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.importing import import_model
from dlms_jax.errors import UserError
from dlms_jax.studies.family import _Log
from dlms_jax.testing import small_config
from dlms_jax.trainer import Trainer

QUIET = Console(file=io.StringIO())


@pytest.fixture
def renamed(monkeypatch):
    """Two later formats: a setting renamed in both, one moved to another section."""
    entries = (
        Renamed("model.breadth", "model.size", 1, {"wide": 96}),
        Renamed("model.size", "model.width", 2),
        Renamed("training.top_k", "sampling.top_k", 2),
    )
    monkeypatch.setattr(formats, "RENAMED", entries)
    monkeypatch.setattr(formats, "FORMAT", 2)


def one_line(call, *arguments) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# The table


def test_settings_are_renamed_key_by_key_up_to_todays_format(renamed):
    old = {"config": {"model": {"breadth": "wide", "dtype": "float32"}, "training": {"top_k": 5}}}
    kept = json.dumps(old)
    new = upgrade_run(old | {"step": 4}, "here")
    settings = {
        "model": {"width": 96, "dtype": "float32"},
        "training": {},
        "sampling": {"top_k": 5},
    }
    assert new == {"config": settings, "step": 4, "format": 2}
    assert from_dict(new["config"]).model.width == 96
    between = {"config": {"model": {"size": 96}}, "format": 1}
    assert upgrade_run(between, "here")["config"] == {"model": {"width": 96}}
    assert upgrade_run(new, "here") == new
    assert json.dumps(old) == kept  # what was read is not changed


def test_an_old_name_gets_one_line_that_gives_the_new_one(renamed, tmp_path):
    recipe = tmp_path / "recipe.py"
    text = (
        "from dlms_jax.config import default_config\ndef get_config():\n    c = default_config()\n"
    )
    recipe.write_text(text + "    return c\n")
    line = one_line(load_config, str(recipe), {"model.breadth": "wide"})
    assert line == "config.model.breadth is now config.model.width; write config.model.width=96"
    recipe.write_text(text + "    c.training.top_k = 3\n    return c\n")
    assert one_line(load_config, str(recipe)).endswith("write config.sampling.top_k=3")


def test_steps_of_any_table_run_in_order():
    steps = {0: lambda data: data | {"b": data["a"]}, 1: lambda data: data | {"c": data["b"] + 1}}
    assert upgrade({"a": 1}, 2, steps, "x") == {"a": 1, "b": 1, "c": 2, "format": 2}
    assert "x has format 0, which is no longer supported" in one_line(
        upgrade, {}, 2, {1: dict}, "x"
    )
    for nonsense in ("1", -1, 1.0, True, None):
        assert "has the invalid format" in one_line(upgrade, {"format": nonsense}, 1, {}, "x")
    assert "has the invalid format" in one_line(upgrade, [], 1, {}, "x")


def test_every_renamed_setting_has_a_home():
    """A name that leads nowhere would make old checkpoints unreadable."""
    for entry in formats.RENAMED:
        assert entry.format <= FORMAT
        name, _ = formats.new_name(entry.old)
        settings = default_config().to_dict()
        section, _, leaf = name.partition(".")
        assert leaf in settings[section]
        section, _, leaf = entry.old.partition(".")
        assert leaf not in settings[section]


# Checkpoints


@pytest.fixture
def run(tmp_path):
    """A workdir with a checkpoint of a random network."""
    random_checkpoint(tmp_path / "run")
    return tmp_path / "run"


def rewrite(path, change):
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))))


def test_a_checkpoint_has_its_format(run):
    folder = find_checkpoint(run)
    saved = json.loads((folder / "metadata/metadata").read_text())
    assert saved["format"] == FORMAT == load_metadata(folder)["format"]
    assert not (folder / "about").exists()


def test_metadata_of_format_0_is_found_and_read(run):
    """There it had another name."""
    folder = find_checkpoint(run)
    expected = load_metadata(folder)
    new = ("format", "sha256")
    rewrite(folder / "metadata/metadata", lambda data: {k: data[k] for k in data if k not in new})
    (folder / "metadata").rename(folder / "about")
    assert find_checkpoint(run) == find_checkpoint(folder) == folder
    assert load_metadata(folder) == expected
    assert checkpoint.newest_readable(run).metadata == expected


def test_a_checkpoint_of_a_newer_version_is_refused_and_left_alone(run, one_device):
    folder = find_checkpoint(run)
    (folder / "rest").mkdir()  # so that it could be resumed
    rewrite(folder / "metadata/metadata", lambda data: data | {"format": FORMAT + 1})
    expected = (
        f"{folder} has format {FORMAT + 1}, but this version of dlms_jax reads formats up to "
        f"{FORMAT}; update dlms_jax"
    )
    assert one_line(open_checkpoint, run) == expected
    assert one_line(Trainer(run, QUIET).train, small_config()) == expected
    assert one_line(Trainer(console=QUIET).resume, run) == expected
    assert folder.is_dir() and not (run / "checkpoints_broken").exists()


def test_settings_that_cannot_be_read_are_named(run):
    folder = find_checkpoint(run)
    rewrite(folder / "metadata/metadata", lambda data: data | {"format": "new"})
    assert f"{folder} cannot be read" in one_line(load_metadata, folder)


# Exports and logs


def test_an_export_has_the_format_and_a_newer_one_is_refused(run, tmp_path):
    out = tmp_path / "out"
    export(open_export_source(run), out, verify=False, console=QUIET)
    for name, inner in (("config.json", "dlms_jax"), ("dlms_jax.json", None)):
        changed = tmp_path / f"newer-{name}"
        shutil.copytree(out, changed)
        (changed / "SHA256SUMS").unlink()
        described = json.loads((changed / name).read_text(encoding="utf-8"))
        part = described[inner] if inner else described
        assert part["format"] == FORMAT
        part["format"] = FORMAT + 1
        (changed / name).write_text(json.dumps(described))
        line = one_line(import_model, changed, tmp_path / "back")
        assert line.startswith(f"{changed / name} has format {FORMAT + 1}")
        assert not (tmp_path / "back").exists()


def test_the_log_of_a_study_has_the_format(tmp_path, renamed):
    path = tmp_path / "study.json"
    log = _Log(path)
    log.put("masked", share=1.0, config={"model": {"width": 96}})
    assert json.loads(path.read_text())["masked"]["format"] == FORMAT
    rewrite(path, lambda log: {"masked": {"share": 1.0, "config": {"model": {"size": 96}}}})
    assert _Log(path)["masked"]["config"] == {"model": {"width": 96}}
    rewrite(path, lambda log: {"masked": log["masked"] | {"format": 3}})
    assert one_line(_Log, path).startswith(f"{path} has format 3")
