"""Real processes, joined by jax.distributed, train as one process does."""

import itertools

import jax
import numpy as np
from parallel.processes import finish, start, write_recipe
import pytest

from dlms_jax.errors import UserError
from dlms_jax.model import DiffusionLM
from dlms_jax.parallel import hosts
from dlms_jax.runtime.metric_writer import read_metrics


class TestFindCluster:
    @pytest.fixture(autouse=True)
    def no_environment(self, monkeypatch):
        for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
            monkeypatch.delenv(name, raising=False)

    def test_one_process_is_no_cluster(self):
        assert hosts.find_cluster() is None
        assert hosts.find_cluster("here:1", 1, 0) is None

    def test_flags(self):
        assert hosts.find_cluster("here:8476", 4, 3) == ("here:8476", 4, 3, None)
        assert hosts.find_cluster("[::1]:8476", 4, 3).coordinator == "[::1]:8476"

    def test_flags_take_precedence_over_the_environment(self, monkeypatch):
        monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "there:1")
        monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
        monkeypatch.setenv("JAX_PROCESS_ID", "2")
        assert hosts.find_cluster() == ("there:1", 4, 2, None)
        assert hosts.find_cluster(process_id=0) == ("there:1", 4, 0, None)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (("here:1", 2, None), "--process_id is missing"),
            ((None, 2, 0), "--coordinator is missing; several processes need --coordinator=HOST"),
            (("here:1", 2, 2), "--process_id=2 is out of range for --num_processes=2; use 0 to 1"),
            (("here", 2, 0), "--coordinator=here should be HOST:PORT"),
            (("here:99999", 2, 0), "should be HOST:PORT"),
            (("here:1", 2, -1), "--process_id=-1 should be a whole number"),
        ],
    )
    def test_contradictory_flags_are_one_line(self, given, message):
        with pytest.raises(UserError, match=message) as error:
            hosts.find_cluster(*given)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("nodes", "tasks", "devices"), [("2", "4", [1]), ("4", "4", None), ("1", "4", [1])]
    )
    def test_slurm_and_the_gpus_of_a_task(self, nodes, tasks, devices, monkeypatch):
        """Each of several tasks on a node has one GPU; the only task of a node has all of them."""
        slurm = {
            "JOB_ID": "7",
            "STEP_NODELIST": "gpu[03-04]",
            "NTASKS": tasks,
            "PROCID": "3",
            "LOCALID": "1",
            "STEP_NUM_NODES": nodes,
        }
        for name, value in slurm.items():
            monkeypatch.setenv(f"SLURM_{name}", value)
        assert hosts.find_cluster() == ("gpu03:61447", 4, 3, devices)

    def test_a_slurm_job_of_one_task_is_no_cluster(self, monkeypatch):
        for name in ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID"):
            monkeypatch.setenv(f"SLURM_{name}", "1")
        assert hosts.find_cluster() is None

    def test_a_pod_of_tpus(self, monkeypatch):
        """JAX reads it from the metadata server; a run on the CPU of one host is no cluster."""
        found = ("10.0.0.2:8482", 4, 3, None)
        detection = hosts.clusters.ClusterEnv
        monkeypatch.setattr(detection, "auto_detect_unset_distributed_params", lambda *given: found)
        assert hosts.find_cluster() is None
        monkeypatch.setattr(hosts, "_on_cpu", lambda: False)
        assert hosts.find_cluster() == found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("recipe"))


def losses(workdir):
    rows = read_metrics(workdir / "metrics.csv")
    names = ("loss", "bound", "grad_norm", "epoch", "tokens")
    return [[float(row[name] or "nan") for name in names] for row in rows]


def assert_same_run(one, other):
    """Metrics and weights agree to float tolerance.

    Adam divides by the size of the gradient: where that is near 0, a rounding error moves a weight
    by the learning rate. At most 1% of the weights may differ for that reason.
    """
    np.testing.assert_allclose(losses(one), losses(other), rtol=1e-4)
    params = [jax.tree.leaves(DiffusionLM.load_checkpoint(run).params) for run in (one, other)]
    for a, b in zip(*params, strict=True):
        assert np.isclose(a, b, rtol=1e-3, atol=2e-5).mean() > 0.99


def succeed(processes):
    done = finish(processes)
    for status, out, err in done:
        assert status == 0, out + err
    return done


def printed(text):
    """Returns the lines that a process printed, without gloo's about its connections."""
    return [line for line in text.splitlines() if line and not line.startswith("[Gloo]")]


@pytest.fixture(scope="module")
def by_one_and_by_two(recipe, tmp_path_factory):
    """The folder of two runs: one process with two devices, and two processes with one each."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = (f"--config={recipe}", "--config.mesh.data=1", "--config.mesh.fsdp=2")
    one = start([*arguments, f"--workdir={folder / 'one'}"], devices=2)
    two = start([*arguments, f"--workdir={folder / 'two'}"], processes=2)
    succeed(one)
    return folder, succeed(two)


@pytest.mark.slow
def test_two_processes_train_as_one_does(by_one_and_by_two):
    folder, _ = by_one_and_by_two
    assert len(losses(folder / "two")) == 4
    assert_same_run(folder / "one", folder / "two")


@pytest.mark.slow
def test_only_process_0_prints_and_writes(by_one_and_by_two):
    folder, (first, second) = by_one_and_by_two
    assert any(line.startswith("step 4/4") for line in printed(first[1]))
    assert any("sample at step 2" in line for line in printed(first[1]))
    assert printed(second[1]) == printed(second[2]) == []
    files = {path.name for path in (folder / "two").iterdir()}
    assert files >= {"checkpoints", "metrics.csv", "curves.png", "tensorboard"}
    assert not any("process-0" in name or "tmp" in name for name in files)
    assert len(list((folder / "two" / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_a_run_of_two_processes_resumes_in_one(by_one_and_by_two, recipe):
    """One process with two devices continues the weights, the order of the data and the log."""
    folder, _ = by_one_and_by_two
    more = ["--config.mesh.data=1", "--config.mesh.fsdp=2", "--config.training.steps=6"]
    runs = [
        start([f"--config={recipe}", *more, f"--workdir={folder / name}"], devices=2)
        for name in ("one", "two")
    ]
    for process in itertools.chain(*runs):
        succeed([process])
    assert [int(row["step"]) for row in read_metrics(folder / "two" / "metrics.csv")] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    assert_same_run(folder / "one", folder / "two")


@pytest.mark.slow
def test_an_error_that_all_have_is_printed_once(recipe, tmp_path):
    arguments = [f"--config={recipe}", f"--workdir={tmp_path}", "--config.mesh.data=3"]
    (status, _, err), (status_1, _, err_1) = finish(start(arguments, processes=2))
    assert (status, status_1, err_1) == (2, 2, "")
    assert err.startswith("error: mesh.data=3") and err.count("\n") == 1


@pytest.mark.slow
def test_two_of_three_processes_name_the_third(recipe, tmp_path):
    arguments = [f"--config={recipe}", f"--workdir={tmp_path / 'run'}", "--startup_timeout=15"]
    for status, out, err in finish(start(arguments, processes=3, only=(0, 2))):
        assert status == 2 and not out
        assert err.startswith(
            "error: 1 of 3 processes did not start within 15 s: process 1 (started: 0"
        )
        assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices", "mesh"),
    [
        (4, 1, dict(data=4, fsdp=1, tensor=1)),
        (4, 2, dict(data=2, fsdp=4, tensor=1)),
        (4, 2, dict(data=2, fsdp=1, tensor=4)),  # several processes hold the same rows
        (2, 4, dict(data=2, fsdp=2, tensor=2)),
    ],
)
def test_processes_by_devices_train_the_same_and_resume(processes, devices, mesh, recipe, tmp_path):
    """Several processes run 4 steps and one runs 2 more, and the other way round."""
    axes = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
    arguments = [f"--config={recipe}", *axes]
    many = [*arguments, f"--workdir={tmp_path / 'many'}"]
    one = [*arguments, f"--workdir={tmp_path / 'one'}"]
    succeed(start(many, processes, devices))
    succeed(start(one, devices=processes * devices))
    assert_same_run(tmp_path / "one", tmp_path / "many")
    more = ["--config.training.steps=6"]
    succeed(start([*many, *more], devices=processes * devices))
    succeed(start([*one, *more], processes, devices))
    assert_same_run(tmp_path / "one", tmp_path / "many")


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(recipe, tmp_path):
    """They do not wait for it forever, and do not end as if all were well."""
    arguments = [f"--config={recipe}", f"--workdir={tmp_path}", "--config.training.steps=100000"]
    first, second = start(arguments, processes=2)
    for line in first.stdout:
        if line.startswith("step 3/"):
            break
    second.kill()
    (status, _, err), _ = finish([first, second], timeout=150)
    assert status not in (0, 2, 75), err
