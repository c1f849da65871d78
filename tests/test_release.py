"""A release as its users have it: unpacked into an empty folder, run without JAX and offline."""

import hashlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml

from dlms_jax import release
from dlms_jax.conversion.bundle import archive, contents
from dlms_jax.testing import small_config
from dlms_jax.trainer import Trainer

for package in ("torch", "transformers", "safetensors"):
    pytest.importorskip(package)

ROOT = pathlib.Path(__file__).parents[1]
NAMES = ["small-v2-linux.tar.gz", "small-v2-linux.zip"]
AT_THE_TOP = {
    "LICENSE",
    "README.md",
    "SHA256SUMS",
    "config.json",
    "curves.png",
    "demo.py",
    "metrics.csv",
    "requirements.txt",
    "run_demo.bat",
    "run_demo.sh",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run of one step."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "corpus").mkdir()
    for number in range(40):
        (folder / "corpus" / f"{number}.txt").write_text(f"to be or not {number} " * 40)
    config = small_config(
        data__corpus=str(folder / "corpus"), data__heldout_fraction=0.2, training__steps=1
    )
    Trainer(folder / "small").train(config)
    return folder / "small"


def make(run, out, *options):
    """Makes version 2 of a release; returns the exit status."""
    arguments = ["--checkpoint", run, "--out", out, "--version", "2", "--no-verify", *options]
    try:
        release.main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def out(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "dist"
    assert make(run, folder, "--with-checkpoint", "--licence", "cc0-1.0") == 0
    return folder


@pytest.fixture(scope="module")
def unpacked(out, tmp_path_factory):
    """The folder small-v2 of the tar.gz, which tests do not change."""
    folder = tmp_path_factory.mktemp("user")
    with tarfile.open(out / NAMES[0]) as opened:
        opened.extractall(folder, filter="data")
    assert [path.name for path in folder.iterdir()] == ["small-v2"]
    return folder / "small-v2"


def demo(folder, *arguments, without=(), **environment):
    """Runs the demo offline in an empty folder. without: modules that cannot be imported."""
    blocked = folder.parent / "blocked"
    shutil.rmtree(blocked, ignore_errors=True)
    blocked.mkdir()
    for name in without:
        (blocked / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')")
    nowhere = "http://127.0.0.1:9"
    environment = os.environ | {
        "PYTHON": sys.executable,
        "PYTHONPATH": str(blocked),
        "XLA_FLAGS": "",
        "http_proxy": nowhere,
        "https_proxy": nowhere,
        "HF_HOME": str(blocked),
        **environment,
    }
    return subprocess.run(
        ["bash", folder / "run_demo.sh", *arguments],
        cwd=blocked,
        env=environment,
        text=True,
        capture_output=True,
        timeout=120,
    )


def contents_of(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }


def test_both_archives_have_the_same_files_and_a_checksum_of_each(out, unpacked, tmp_path):
    with zipfile.ZipFile(out / NAMES[1]) as opened:
        opened.extractall(tmp_path)
    files = contents_of(tmp_path / "small-v2")
    assert files == contents_of(unpacked)
    lines = files.pop("SHA256SUMS").decode().splitlines()
    assert lines == [f"{hashlib.sha256(files[n]).hexdigest()}  {n}" for n in sorted(files)]
    assert {n for n in files if "/" not in n} == AT_THE_TOP - {"SHA256SUMS"} | {
        "requirements-jax.txt"
    }
    assert {n.split("/")[0] for n in files if "/" in n} == {"model", "checkpoint", "source"}
    assert files["curves.png"].startswith(b"\x89PNG") and files["metrics.csv"].count(b"\n") == 2
    assert sorted(path.name for path in out.iterdir()) == NAMES


def test_the_demo_samples_with_pytorch_only_and_offline(unpacked):
    prompts = ("to be", "or n\u00f6t to", "")
    done = demo(unpacked, "--here", "--seed", "3", *prompts, without=("jax", "dlms_jax", "flax"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, texts = done.stdout.split("\n", 1)
    assert re.fullmatch(r"\d+ files match SHA256SUMS", first)
    texts, where = texts.rsplit("\n\n", 1)
    assert str(unpacked / "model") in where and str(unpacked / "README.md") in where
    texts = texts.split("\n---\n")
    assert len(texts) == 3 and all(map(str.startswith, texts, prompts))
    assert len(texts[0]) > len("to be")


def test_the_demo_samples_from_the_jax_checkpoint_with_the_source_of_the_release(unpacked):
    arguments = ("--here", "--jax", "--no-check", "--length", "6", "to be", "or")
    done = demo(unpacked, *arguments, without=("torch",))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("to be") and "\n---\nor" in done.stdout


@pytest.fixture
def copy(unpacked, tmp_path):
    return shutil.copytree(unpacked, tmp_path / "small-v2")


def one_line(done) -> str:
    assert done.returncode == 1
    assert done.stdout == "" and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_a_damaged_byte_of_the_weights_is_named(copy):
    weights = copy / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    assert f"{weights} is damaged" in one_line(demo(copy, "--here"))


@pytest.mark.parametrize("name", ["model/config.json", "SHA256SUMS"])
def test_a_missing_file_is_named(name, copy):
    (copy / name).unlink()
    assert f"{copy / name} is missing" in one_line(demo(copy, "--here"))


def test_what_this_python_lacks_is_named(copy):
    (copy / "demo.py").write_text(  # as in a Python without them
        (copy / "demo.py").read_text().replace("find_spec(name)", "name == 'transformers'")
    )
    assert "has no torch; omit --here" in one_line(demo(copy, "--here", "--no-check"))


@pytest.mark.parametrize("option", [("--seed", "-1"), ("--seed", str(2**70)), ("--length", "0")])
def test_numbers_out_of_range_are_named(option, copy):
    assert f"{option[0]}={option[1]} should be" in one_line(demo(copy, "--here", *option))


def test_a_text_that_does_not_fit_is_named(copy):
    done = demo(copy, "--here", "--no-check", "--length", "1000000000")
    assert "1000000005 tokens do not fit the model's context of 32; " in one_line(done)


@pytest.mark.parametrize(("output", "said"), [("> /dev/full", "No space left"), ("| head -0", "")])
def test_a_failing_standard_output_is_one_line_or_silent(output, said, copy):
    command = f"{shlex.quote(str(copy / 'run_demo.sh'))} --here {output}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", f"bash {command}"],
        env=os.environ | {"PYTHON": sys.executable},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert said in done.stderr and done.stderr.count("\n") == bool(said)
    assert done.returncode == (1 if said else 0)


def test_a_release_without_a_checkpoint_says_so(copy):
    shutil.rmtree(copy / "checkpoint")
    assert "has no JAX checkpoint" in one_line(demo(copy, "--here", "--jax"))


def test_a_failed_installation_is_an_error_and_does_not_count_as_installed(copy):
    """pip fails as it would without a network."""
    done = demo(copy, "--no-check", PIP_NO_INDEX="1", PIP_FIND_LINKS="")
    assert done.returncode == 1 and "installing torch==" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(f"error: cannot make {copy / '.venv'}")
    assert not (copy / ".venv" / "installed.txt").exists()


def test_the_same_inputs_make_the_same_bytes(run, out, tmp_path, capsys):
    """In other folders, and with other times of the files."""
    copied = tmp_path / run.name
    shutil.copytree(run, copied, copy_function=shutil.copyfile)
    again = tmp_path / "again"
    assert make(copied, again, "--with-checkpoint", "--licence", "cc0-1.0") == 0
    for name in NAMES:
        assert (again / name).read_bytes() == (out / name).read_bytes()
    capsys.readouterr()
    assert make(copied, again, "--with-checkpoint", "--licence", "cc0-1.0") == 0
    assert capsys.readouterr().out.count("exists already, with the same bytes") == 2


def test_another_release_of_the_same_name_is_refused_and_stays(run, tmp_path, capsys):
    (tmp_path / NAMES[1]).write_bytes(b"mine")
    assert make(run, tmp_path) == 2
    error = capsys.readouterr().err
    assert "small-v2-linux.zip exists and is another release" in error and error.count("\n") == 1
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(NAMES[1], b"mine")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_release_that_fails_leaves_nothing(error, run, tmp_path, monkeypatch, capsys):
    def stop(path, *_):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(archive, "write_zip", stop)
    assert make(run, tmp_path / "dist") == (130 if error is KeyboardInterrupt else 2)
    assert not (tmp_path / "dist").exists()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("interrupted" in said or "No space left" in said)


def test_what_a_killed_release_left_is_removed(run, tmp_path, capsys):
    (tmp_path / "small-v2.unfinished" / "old").mkdir(parents=True)
    assert make(run, tmp_path) == 0
    assert "small-v2.unfinished, which an interrupted command had left" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES


@pytest.mark.parametrize(
    "option",
    [("--name", "a/b"), ("--name", "a b"), ("--name", "-a"), ("--name", "..")]
    + [("--version", "1/2"), ("--version", "1 2"), ("--version", "")],
)
def test_names_that_cannot_be_part_of_a_file_name_are_refused(option, run, tmp_path, capsys):
    assert make(run, tmp_path / "dist", f"{option[0]}={option[1]}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {option[0]}={option[1]!r}") and error.count("\n") == 1
    assert not (tmp_path / "dist").exists()


def test_the_readme_has_the_command_and_the_files_of_this_release(unpacked):
    card = (unpacked / "model" / "README.md").read_text()
    assert "\n# small-v2\n" in card and 'from_pretrained("model"' in card
    text = (unpacked / "README.md").read_text()
    command = (
        "python -m dlms_jax.release --checkpoint runs/small --out dist --name small "
        "--version 2 --no-verify --with-checkpoint --licence cc0-1.0"
    )
    assert f"\n{command}\n" in text
    release._parser("release").parse_args(shlex.split(command)[3:])
    table = set(re.findall(r"^\| ([\w./-]+) \|", text, re.MULTILINE))
    assert table | {"README.md"} == {p.name + "/" * p.is_dir() for p in unpacked.iterdir()}
    assert "has never been run" in text and "cc0-1.0 for the weights" in text


def test_the_pinned_versions_are_those_of_this_repository():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    assert {"transformers", "safetensors"} <= set(pins)
    assert {n: pins.get(n, v) for n, v in contents.TESTED.items()} == contents.TESTED


# The workflow that makes releases of tags


def test_the_workflow_runs_commands_that_exist():
    text = (ROOT / ".github/workflows/release.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as True
    (job,) = workflow["jobs"].values()
    for step in job["steps"]:
        assert ("run" in step) != bool(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "")))
    commands = [
        shlex.split(line)
        for step in job["steps"]
        for line in step.get("run", "").splitlines()
        if line.startswith("python -m dlms_jax.")
    ]
    train, bundle = commands
    assert train[2] == "dlms_jax.main" and bundle[2] == "dlms_jax.release"
    options = dict(option.removeprefix("--").split("=") for option in train[3:])
    assert (ROOT / options["config"]).is_file()
    assert release._parser("release").parse_args(bundle[3:]).checkpoint == options["workdir"]
