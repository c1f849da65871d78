"""The folder of an export: usable without JAX, written whole or not at all, damage is noticed."""

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types

from conversion.exported import odd_tokenizer, random_checkpoint, tree_of
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlms_jax import convert
from dlms_jax.conversion import export as export_module
from dlms_jax.conversion.checkpoint_arrays import CheckpointArrays
from dlms_jax.conversion.export import export
from dlms_jax.conversion.export_source import open_export_source
from dlms_jax.conversion.formats import FORMATS
from dlms_jax.conversion.importing import import_model
from dlms_jax.conversion.pytorch.modeling_dlms import DLMForDiffusion
from dlms_jax.errors import UserError

SHARD = 40_000


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return random_checkpoint(tmp_path_factory.mktemp("source") / "run", odd_tokenizer())


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "out"
    export(source, folder, shard_bytes=SHARD, verify=False, licence="cc0-1.0")
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """A copy to damage, without the checksums, which would notice it first."""
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "SHA256SUMS").unlink()
    return folder


WITHOUT_JAX = """
import sys
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(["ab", "c"], return_tensors="pt", padding=True)
tokens = model.generate(**inputs, max_new_tokens=9, seed=3)
assert tokens.shape == (2, 12) and tokens[1].tolist()[:3] == [256, 257, 99], tokens
hidden = AutoModel.from_pretrained(folder, trust_remote_code=True)(**inputs).last_hidden_state
assert hidden.shape == (2, 3, 32)
assert not {"jax", "flax", "dlms_jax"} & set(sys.modules)
print("sampled", tokenizer.batch_decode(tokens, skip_special_tokens=True))
"""


def test_runs_where_jax_cannot_be_imported(exported, tmp_path):
    for name in ("jax", "flax", "dlms_jax"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not here')")
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX, str(exported)],
        env=environment,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )
    assert done.returncode == 0 and "sampled" in done.stdout, done.stdout


def test_the_model_card(exported):
    text = (exported / "README.md").read_text()
    for part in (
        "# out",
        'from_pretrained("out"',
        "license: cc0-1.0",
        "## Recipe",
        "model.width = 32",
        "AutoModelForMaskedLM",
        "bit for bit",
        "not compared with PyTorch: --no-verify",
    ):
        assert part in text, part


def test_sha256sum_accepts_the_checksums(exported):
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=exported)
    assert done.returncode == 0
    named = {line.split("  ")[1] for line in (exported / "SHA256SUMS").read_text().splitlines()}
    assert named == {path.name for path in exported.iterdir()} - {"SHA256SUMS"}


def test_one_changed_bit_is_noticed(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    file = shard(folder, 1)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=f"{file.name} is damaged or was changed"):
        import_model(folder, tmp_path / "run")


def shard(folder, number: int):
    """Returns a file of weights by its number, from 0."""
    return sorted(folder.glob("model-*.safetensors"))[number]


def truncate(folder):
    file = shard(folder, 1)
    file.write_bytes(file.read_bytes()[:-100])


def empty(folder):
    shard(folder, 0).write_bytes(b"")


def lose(folder):
    shard(folder, 2).unlink()


def reshape(folder):
    name = "model.layers.0.self_attn.k_norm.weight"
    holder = next(f for f in sorted(folder.glob("model-*")) if name in load_file(f))
    tensors = load_file(holder)
    tensors[name] = np.zeros(9, np.float32)
    save_file(tensors, holder)


def lie(folder):
    change(folder, hidden_size=64)


def lie_inside(folder):
    described = json.loads((folder / "config.json").read_text())
    described["dlms_jax"]["config"]["model"]["num_heads"] = 2
    del described["dlms_jax"]["sha256"]
    change(folder, **described)


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def forget_settings(folder):
    change(folder, dlms_jax={"layout": "native"})


def forget_index_entry(folder):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"].pop("model.norm.weight")
    path.write_text(json.dumps(index))


def no_json(folder):
    (folder / "config.json").write_text("{")


def no_config(folder):
    (folder / "config.json").unlink()


DAMAGES = {
    truncate: "model-00002-of-.*.safetensors is truncated or damaged",
    empty: "model-00001-of-.*.safetensors is truncated or damaged",
    lose: "model-00003-of-.*.safetensors, which .* lists, is missing",
    reshape: r"k_norm.weight has the shape \(9,\), but its config.json requires \(8,\)",
    lie: "has hidden_size=64, but the settings in its key dlms_jax give 32",
    lie_inside: "has num_attention_heads=4, but .* give 2",
    forget_settings: "the key dlms_jax lacks 'config'",
    forget_index_entry: "holds model.norm.weight, which .* lists in another file",
    no_json: "config.json is not JSON",
    no_config: "config.json cannot be read: No such file",
}


@pytest.mark.parametrize("damage", list(DAMAGES), ids=lambda damage: damage.__name__)
def test_damage_is_one_line_and_nothing_is_written(damage, copy, tmp_path, capsys):
    damage(copy)
    with pytest.raises(UserError, match=DAMAGES[damage]):
        import_model(copy, tmp_path / "run", verify=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit) as ended:
        convert.main(["from-torch", "--model", str(copy), "--out", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1


def test_a_damaged_checkpoint_is_one_line(source, tmp_path):
    shutil.copytree(source.folder.parents[1], tmp_path / "run")
    for file in (tmp_path / "run").rglob("*"):
        if file.parent.name == "d" and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read .* try another checkpoint"):
        export(open_export_source(tmp_path / "run"), tmp_path / "out", verify=False)
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.unfinished").exists()


def test_a_failure_at_the_end_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module.card, "model_card", full)
    with pytest.raises(OSError):
        export(source, tmp_path / "out", verify=False)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        export_module.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000)
    )
    with pytest.raises(UserError, match="has only 0 MiB free; .* --dtype bfloat16"):
        export(source, tmp_path / "out", verify=False)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_left_is_removed(source, tmp_path, capsys):
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "model.safetensors").write_bytes(b"half")
    export(source, tmp_path / "out", verify=False)
    assert "out.unfinished, which an interrupted command had left" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("command", ["to-torch", "from-torch"])
def test_an_existing_folder_is_not_overwritten(command, source, exported, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    given = {
        "to-torch": ["--checkpoint", str(source.folder)],
        "from-torch": ["--model", str(exported)],
    }[command]
    with pytest.raises(SystemExit):
        convert.main([command, *given, "--out", str(tmp_path / "out")])
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shard-size", "5XB"], "--shard-size=5XB should be a size"),
        (["--shard-size", "0"], "--shard-size=0 should be a size"),
        (["--ema"], "no moving average"),
        (["--layout", "sdar"], "--layout sdar cannot hold"),
        (["--chat-template", "nowhere.jinja"], "nowhere.jinja cannot be read"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, source, tmp_path, capsys):
    given = ["--checkpoint", str(source.folder), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        convert.main(["to-torch", *given, *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1


def test_the_command_knows_every_format():
    assert tuple(FORMATS) == convert._FORMATS


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("200mb", 2 * 10**8), ("7", 7)])
def test_sizes(text, size):
    assert convert._bytes(text) == size


def test_a_model_that_differs_is_noticed(source, tmp_path, monkeypatch):
    """The comparison can fail: another epsilon in PyTorch is enough."""
    load = DLMForDiffusion.from_pretrained

    def wrong(*arguments, **more):
        model = load(*arguments, **more)
        model.model.norm.epsilon = 1e-2
        return model

    monkeypatch.setattr(DLMForDiffusion, "from_pretrained", wrong)
    with pytest.raises(UserError, match="logits differ by"):
        export(source, tmp_path / "out", verify=True)
    assert list(tmp_path.iterdir()) == []


def test_without_torch_the_report_says_what_was_not_checked(source, tmp_path, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    report = export(source, tmp_path / "out")
    assert report["logits"] == "not compared with PyTorch: torch or transformers is not installed"
    assert "bit for bit; logits not compared" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"pip install 'dlms_jax\[torch\]'"):
        export(source, tmp_path / "again", verify=True)


def test_layers_are_read_a_few_at_a_time(source, tmp_path):
    """A parameter above the limit is read in parts, with the same result.

    If one device wrote it as one piece, it is decoded once.
    """
    import_model(exported_of(source, tmp_path), tmp_path / "run", verify=False)
    path = "layers/mlp/gate_proj/kernel"
    whole = source.arrays.read(path)
    for written, expected in ((open_export_source(tmp_path / "run"), [1, 1]), (source, [2])):
        arrays, read = CheckpointArrays(written.folder / written.item), []
        arrays._read = functools.partial(note_layers, read, arrays._read)
        parts = list(arrays.layers(path, limit=whole.nbytes // 2))
        assert read == expected
        np.testing.assert_array_equal(np.stack(parts), whole)


def note_layers(read, plain, path, array):
    read.append(array.shape[0])
    return plain(path, array)


def test_a_checkpoint_split_over_devices_is_read_on_one(source, tmp_path):
    """import_model saves it from eight devices; tree_of reads it without devices."""
    import_model(exported_of(source, tmp_path), tmp_path / "run", verify=False)
    sharding = json.loads(next((tmp_path / "run").rglob("_sharding")).read_text())
    assert any("fsdp" in text for text in sharding.values())
    before, after = tree_of(source), tree_of(open_export_source(tmp_path / "run"))
    for path in before:
        np.testing.assert_array_equal(before[path], after[path])


def exported_of(source, folder) -> pathlib.Path:
    export(source, folder / "split", verify=False)
    return folder / "split"
