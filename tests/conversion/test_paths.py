"""Odd paths and settings: they work, or the error is one line and no file is left behind."""

import errno
import itertools
import json
import os
import shutil

from conversion.exported import random_checkpoint
import pytest

from dlms_jax import convert, release
from dlms_jax.checkpoints.metrics import read_metrics
from dlms_jax.conversion.export import export
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.folder import writable
from dlms_jax.conversion.import_plan import plan_import
from dlms_jax.conversion.importing import import_model
from dlms_jax.errors import UserError

SMALL = {"model__num_layers": 1, "model__width": 16}
METRICS = "step,loss,bits_per_byte,stderr,bound,tokens\n1,5.0,3.0,0.1,4.0,100\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "small"
    random_checkpoint(workdir, **SMALL)
    (workdir / "metrics.csv").write_text(METRICS)
    return workdir


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    source = random_checkpoint(
        tmp_path_factory.mktemp("ar") / "run", objective__name="autoregressive", **SMALL
    )
    folder = tmp_path_factory.mktemp("exported") / "out"
    export(source, folder, "qwen3", verify=False)
    return folder


@pytest.fixture
def commands(run, exported):
    """Returns {name: (checkpoint or model, out) -> (exit status, what it prints as an error)}."""
    kinds = {
        "to-torch": (convert, ["to-torch"], "--checkpoint", run),
        "from-torch": (convert, ["from-torch"], "--model", exported),
        "release": (release, [], "--checkpoint", run),
    }

    def make(command, first, option, default):
        def call(capsys, source=None, out="out"):
            given = [option, str(default if source is None else source), "--out", str(out)]
            status = 0
            try:
                command.main([*first, "--no-verify", *given])
            except SystemExit as stop:
                status = stop.code
            return status, capsys.readouterr().err

        return call

    return {name: make(*kind) for name, kind in kinds.items()}


def one_line(status, text) -> str:
    assert status == 2 and text.startswith("error: ") and text.count("\n") == 1, text
    return text


@pytest.mark.parametrize("name", ["to-torch", "from-torch", "release"])
def test_paths_with_dots(name, commands, run, exported, tmp_path, monkeypatch, capsys):
    source = exported if name == "from-torch" else run
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    source = os.path.relpath(source)
    assert source.startswith("..")
    assert commands[name](capsys, source, "../out") == (0, "")
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    if name == "release":  # it has the name of the workdir
        assert made == ["small-v1-linux.tar.gz", "small-v1-linux.zip"]
        monkeypatch.chdir(run / "checkpoints" / "7")
        assert commands[name](capsys, "../7", tmp_path / "again") == (0, "")
        assert sorted(path.name for path in (tmp_path / "again").iterdir()) == made


LONG = "n" * 300
OUTS = {"file": "exists", "file/x": "cannot write", LONG: "File name too long"}


@pytest.mark.parametrize("name", ["to-torch", "from-torch", "release"])
def test_odd_outs(name, commands, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for out, message in OUTS.items():
        text = one_line(*commands[name](capsys, out=f"../{out}"))
        assert message in text or (name, out) == ("release", "file"), text
        assert "disk" not in text
    if name != "release":
        assert "exists" in one_line(*commands[name](capsys, out="."))  # its user is in it
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
    assert (tmp_path / "file").read_text() == "mine" and not any((tmp_path / "empty").iterdir())


def test_a_name_that_is_not_utf8_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="cannot write to .*utf-8.*; give another --out"):
        export(open_export_source(run), tmp_path / "\udcff", verify=False)
    assert not any(tmp_path.iterdir())


def test_a_link_is_written_through(commands, tmp_path, capsys):
    for name in ("nowhere", "empty"):
        (tmp_path / f"to {name}").symlink_to(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for name, out in (("to-torch", "nowhere"), ("from-torch", "empty")):
        assert commands[name](capsys, out=tmp_path / f"to {out}") == (0, "")
        assert (tmp_path / f"to {out}").is_symlink() and any((tmp_path / out).iterdir())


@pytest.mark.parametrize("name", ["to-torch", "from-torch", "release"])
def test_odd_checkpoints_and_models(name, commands, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    for source in ("file", "file/x", "nowhere", LONG, "a\0b", ""):
        one_line(*commands[name](capsys, source))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some disk space"),
        (RuntimeError("I/O error: No space left on device"), "free some disk space"),
        (OSError(errno.EACCES, "Permission denied"), "check its permissions"),
        (OSError(errno.ENOTDIR, "Not a directory"), "; give another --out"),
        (ValueError("embedded null byte"), "; give another --out"),
    ],
)
def test_the_hint_of_a_failed_write_fits_the_reason(error, hint, tmp_path):
    with pytest.raises(UserError, match="cannot write to .*; ") as raised, writable(tmp_path):
        raise error
    assert hint in str(raised.value)
    with pytest.raises(BrokenPipeError), writable(tmp_path):  # of standard output
        raise BrokenPipeError


def test_settings_of_other_programs_with_a_wrong_type(exported):
    """Each is planned, or the error is one line that names the file."""
    described = json.loads((exported / "config.json").read_text())
    del described["dlms_jax"]
    refused = 0
    values = ("x", None, [], {}, -1, 1.5, True)
    for key, value in itertools.product([*described, "layer_types", "mask_token_id"], values):
        try:
            plan_import(described | {key: value}, "the/config.json", None)
        except UserError as error:
            assert str(error).startswith("the/config.json") and "\n" not in str(error)
            refused += 1
    assert refused > 60


@pytest.mark.parametrize("key", ["num_hidden_layers", "head_dim"])
def test_sizes_that_the_files_cannot_have(key, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    for name in ("SHA256SUMS", "dlms_jax.json"):
        (folder / name).unlink()
    described = json.loads((folder / "config.json").read_text()) | {"attention_bias": True}
    del described["dlms_jax"]
    (folder / "config.json").write_text(json.dumps(described | {key: 10**15}))
    with pytest.raises(UserError, match=f"{key}=1000000000000000, but the files hold"):
        import_model(folder, tmp_path / "out", verify=False)
    (folder / "config.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="config.json is not JSON"):
        import_model(folder, tmp_path / "out", verify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_context_of_0_is_refused(exported, tmp_path):
    with pytest.raises(UserError, match="omit --context"):
        import_model(exported, tmp_path / "out", context=0, verify=False)
    described = json.loads((exported / "config.json").read_text())
    with pytest.raises(UserError, match="sequence_length=0"):
        plan_import(described, "config.json", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(range(256)), "cannot be read"),
        (METRICS.encode("utf-16"), "cannot be read"),
        (METRICS.replace("3.0", "three").encode(), "bits_per_byte='three' at step 1 is not a"),
        (METRICS.replace("100", "1O0").encode(), "tokens='1O0' at step 1 is not a number"),
        (None, "Is a directory"),
    ],
)
def test_a_damaged_log_is_named(content, message, run, commands, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    (workdir / "metrics.csv").unlink()
    if content is None:
        (workdir / "metrics.csv").mkdir()
    else:
        (workdir / "metrics.csv").write_bytes(content)
    for name in ("to-torch", "release"):
        text = one_line(*commands[name](capsys, workdir, tmp_path / "out"))
        assert message in text and str(workdir / "metrics.csv") in text
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    "content", ["", "step\n1\n", "\0" * 50 + "\n", METRICS.replace("\n1,", "\n" + "9" * 5000 + ",")]
)
def test_a_log_without_metrics_is_left_out(content, run, commands, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    (workdir / "metrics.csv").write_text(content)
    assert all(not row["tokens"] for row in read_metrics(workdir / "metrics.csv"))
    assert commands["release"](capsys, workdir, tmp_path / "out") == (0, "")
