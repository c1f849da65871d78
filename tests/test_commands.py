"""The commands as a user runs them: interruption of real processes, and errors of one line."""

import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys

from conftest import CACHE
import numpy as np
import pytest

from dlms_jax import evaluate, main, sample
from dlms_jax.model import DiffusionLM
from dlms_jax.runtime.metric_writer import read_metrics

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 60
RECIPE = f"""
from dlms_jax.config import default_config

def get_config():
    c = default_config()
    c.model.width, c.model.num_layers, c.model.num_heads, c.model.dtype = 32, 2, 2, "float32"
    c.model.feed_forward = 64
    c.data.corpus, c.data.sequence_length = CORPUS, 32
    c.training.steps, c.training.batch_size, c.training.log_every = {STEPS}, 8, 1
    c.evaluation.rows = c.evaluation.final_rows = c.evaluation.batch_size = 8
    c.checkpoint.every = 5
    c.sampling.length, c.sampling.steps = 8, 2
    return c
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    corpus = folder / "corpus"
    corpus.mkdir()
    rng = np.random.default_rng(0)
    for number in range(60):
        (corpus / f"{number}.txt").write_text(" ".join(rng.choice(["to", "be", "or", "not"], 80)))
    path = folder / "recipe.py"
    path.write_text(f"CORPUS = {str(corpus)!r}\n{RECIPE}")
    return path


def start(*arguments, before=None):
    """Starts `python -m dlms_jax.main` with one CPU device; its output comes line by line.

    before: called in the new process first."""
    environment = os.environ | {
        "XLA_FLAGS": "", "PYTHONUNBUFFERED": "1", "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    }  # fmt: skip
    command = [sys.executable, "-m", "dlms_jax.main", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=before,
    )  # fmt: skip


def read_until(process, text):
    """Returns the lines up to the first with `text` in it."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} never came:\n" + "".join(lines))


def logged(workdir):
    return [(row["step"], row["loss"]) for row in read_metrics(workdir / "metrics.csv")]


@pytest.fixture(scope="module")
def interrupted_runs(recipe, tmp_path_factory):
    """Trains once in one go, and once with a kill -9 and a SIGTERM on the way."""
    folder = tmp_path_factory.mktemp("runs")
    whole = start(f"--config={recipe}", f"--workdir={folder / 'whole'}")

    command = (f"--config={recipe}", f"--workdir={folder / 'cut'}")
    first = start(*command)
    read_until(first, f"step 23/{STEPS}")
    first.kill()
    first.communicate()

    second = start(*command)
    lines = read_until(second, f"step 40/{STEPS}")
    resumed = int(re.search(r"after step (\d+)", "".join(lines))[1])
    second.send_signal(signal.SIGTERM)
    stopped, _ = second.communicate(timeout=120)

    third = start(f"--resume={folder / 'cut'}")
    finished, _ = third.communicate(timeout=120)
    whole.communicate(timeout=120)
    assert whole.returncode == 0
    return folder, resumed, (second.returncode, stopped), (third.returncode, finished)


def test_kill_9_loses_at_most_the_steps_since_the_last_save(interrupted_runs):
    _, resumed, _, _ = interrupted_runs
    # The save of step 20 may still have been under way when step 23 was logged.
    assert resumed >= 15 and resumed % 5 == 0


def test_sigterm_saves_and_ends_with_a_status_of_its_own(interrupted_runs):
    folder, _, (status, output), _ = interrupted_runs
    assert status == main.STOPPED
    assert re.search(
        r"SIGTERM: saved step \d+; resume with: python -m dlms_jax.main --resume=", output
    )
    assert "Traceback" not in output


def test_a_run_that_was_cut_twice_equals_the_whole_one_bit_for_bit(interrupted_runs):
    folder, _, _, (status, output) = interrupted_runs
    assert status == 0 and "Traceback" not in output
    assert logged(folder / "cut") == logged(folder / "whole")  # no step twice, none missing
    one, other = (DiffusionLM.load_checkpoint(folder / d).params for d in ("cut", "whole"))
    import jax

    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_disk_that_breaks_off_a_save_ends_the_run_and_leaves_no_checkpoint(recipe, tmp_path):
    """A limit on the size of files stands for the disk: the small ones pass, the weights do not."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(f"--config={recipe}", f"--workdir={tmp_path / 'run'}", before=limit)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "cannot write a checkpoint to" in errors[0]
    assert not [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]


def run_main(module, arguments, capsys):
    """Returns (exit status, stdout, stderr) of a command's main()."""
    status = 0
    try:
        module.main([str(a) for a in arguments])
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def one_line_error(module, arguments, capsys) -> str:
    status, _, err = run_main(module, arguments, capsys)
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--config.model.widht=4"], "did you mean config.model.width?"),
        (["--config.model.width=wide"], "config.model.width=wide should be a whole number"),
        (["--config.model.width=33"], "not a multiple of config.model.num_heads=2"),
        (["--config.data.corpus=nowhere"], "python-docs"),
        (["--config.mesh.data=3"], "does not fit 8 device"),
        (["--config.mesh.tensor=8", "--config.model.width=36"], "does not divide over config.mesh"),
        (["--config.training.batch_size=12"], "use a multiple of 8"),
        (["--config.data.sequence_length=1"], "at least 2"),
        (["--steps=4"], "--config.section.key=value"),
        (["--config.training.steps"], "no value"),
        (["--profile_steps=7"], "should be FIRST-LAST"),
    ],
)
def test_a_run_that_cannot_be_is_refused_and_leaves_nothing(
    overrides, message, recipe, tmp_path, capsys
):
    arguments = [f"--config={recipe}", f"--workdir={tmp_path / 'run'}", *overrides]
    assert message in one_line_error(main, arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_an_empty_corpus_is_refused(recipe, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    arguments = [f"--config={recipe}", f"--config.data.corpus={tmp_path / 'empty.txt'}"]
    assert "holds no text" in one_line_error(main, arguments, capsys)


@pytest.mark.parametrize("module", [sample, evaluate])
def test_a_missing_checkpoint_is_one_line(module, tmp_path, capsys):
    assert "no checkpoint at" in one_line_error(module, ["--checkpoint", tmp_path], capsys)


class TestOnATrainedRun:
    @pytest.fixture(scope="class")
    def run(self, interrupted_runs):
        return interrupted_runs[0] / "whole"

    def test_sample_prints_text(self, run, capsys):
        arguments = ["--checkpoint", run, "--prompt", "to be", "--length", 9, "--num", 2]
        status, out, _ = run_main(sample, arguments, capsys)
        assert status == 0 and out.startswith("to be") and out.count("to be") >= 2

    def test_sample_as_json(self, run, capsys):
        arguments = ["--checkpoint", run, "--infill", "to {3} or {} be", "--num", 2, "--json"]
        status, out, _ = run_main(sample, arguments, capsys)
        samples = [json.loads(line) for line in out.splitlines()]
        assert status == 0 and len(samples) == 2
        assert all(s["text"].startswith("to ") and s["infill"] for s in samples)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--prompt", "to be " * 20], "context of 32 tokens"),
            (["--infill", "no hole"], "has no hole"),
            (["--infill", "a {} b", "--length", "4"], "--length needs --prompt"),
            (["--num", "0"], "should be at least 1"),
            (["--prompt", "to", "--hole", "3"], "--hole needs --infill"),
            (["--infill", "a {} b", "--hole", "0"], "has no hole"),
        ],
    )
    def test_what_cannot_be_sampled_is_one_line(self, run, arguments, message, capsys):
        assert message in one_line_error(sample, ["--checkpoint", run, *arguments], capsys)

    def test_evaluate_prints_the_bound_with_its_protocol(self, run, capsys):
        status, out, _ = run_main(evaluate, ["--checkpoint", run, "--samples", 3], capsys)
        assert status == 0
        assert "held-out part" in out and "3 Monte-Carlo strata" in out and "seed 0" in out
        assert re.search(r"bits/byte +\d\.\d+ \+- \d\.\d+ \(standard error", out)
        assert "BOS that is not scored, EOS scored" in out

    def test_evaluate_on_another_text_as_json(self, run, tmp_path, capsys):
        (tmp_path / "text.txt").write_text("to be or not to be, that is the question\n" * 5)
        arguments = ["--checkpoint", run, "--data", tmp_path / "text.txt", "--json"]
        status, out, _ = run_main(evaluate, arguments, capsys)
        report = json.loads(out)
        assert status == 0 and report["bytes"] == report["data"]["bytes"] == 41 * 5
        assert 0 < report["bits_per_byte"] < 10

    def test_more_samples_reduce_the_noise_not_the_mean(self, run):
        lm = DiffusionLM.load_checkpoint(run)
        few, many = lm.evaluate(samples=1), lm.evaluate(samples=16)
        assert few.nats_per_token != many.nats_per_token  # the flag is not ignored
        assert abs(few.bits_per_byte - many.bits_per_byte) < 4 * few.stderr
