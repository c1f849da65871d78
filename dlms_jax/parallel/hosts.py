"""Several processes that train together: how they find one another, agree, and end.

`start()` has to run before anything uses a device. It takes the processes from, in this order: the
command's flags; the environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID; what JAX detects on the machine (a Cloud TPU pod, SLURM, Open MPI). If none of these
names other processes, this one runs by itself.

rendezvous.py checks first that all processes have started, because JAX's own start-up does not name
a process that is missing: it aborts with a C++ stack trace.
"""

import contextlib
import itertools
import json
import os
import pathlib
import sys
import time
import traceback
import uuid

import jax
from jax._src import clusters, distributed
from jax.experimental import multihost_utils
import numpy as np

from dlms_jax.errors import UserError
from dlms_jax.parallel.rendezvous import Cluster, rendezvous

TIMEOUT = 300  # seconds for all processes to start
_GRACE = 5  # seconds for the others to report their error
_LAST = 1  # seconds that process 0 gives the others to end
_LONG_WAITS = itertools.count()  # each barrier needs a name of its own
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = TIMEOUT,
):
    """Joins the processes that train together; does nothing if there is only this one.

    Args:
      coordinator: HOST:PORT of process 0.
      num_processes: number of processes.
      process_id: number of this process, from 0.
      timeout: seconds for all processes to start.

    Raises:
      UserError: the arguments contradict one another, or processes are missing, which it names.
    """
    if jax.distributed.is_initialized():
        return
    found = find_cluster(coordinator, num_processes, process_id, timeout)
    if found is None:
        return
    rendezvous(found, timeout)
    jax.distributed.initialize(
        found.coordinator,
        found.processes,
        found.process,
        found.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(60, int(timeout)),
    )


def find_cluster(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = TIMEOUT,
) -> Cluster | None:
    """Returns the processes that train together; None if there is only this one.

    The arguments are those of `start`.

    Raises:
      UserError: the arguments contradict one another, or JAX cannot detect the other processes.
    """
    given = {
        "coordinator": _or_environment(coordinator, "JAX_COORDINATOR_ADDRESS"),
        "num_processes": _or_environment(num_processes, "JAX_NUM_PROCESSES"),
        "process_id": _or_environment(process_id, "JAX_PROCESS_ID"),
    }
    if all(value is None for value in given.values()):
        return _detected(timeout)
    for name, value in given.items():
        if value is None:
            raise UserError(
                f"--{name} is missing; several processes need --coordinator=HOST:PORT (of process "
                "0) and --num_processes, the same for all, and a different --process_id for each"
            )
        if name != "coordinator" and not str(value).isdigit():
            raise UserError(f"--{name}={value} should be a whole number")
    processes, process = int(given["num_processes"]), int(given["process_id"])
    if not process < processes:
        raise UserError(
            f"--process_id={process} is out of range for --num_processes={processes}; use 0 to "
            f"{max(processes - 1, 0)}"
        )
    host, _, port = given["coordinator"].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={given['coordinator']} should be HOST:PORT")
    return Cluster(given["coordinator"], processes, process) if processes > 1 else None


def _or_environment(value, variable):
    return value if value is not None else os.environ.get(variable) or None


def _detected(timeout) -> Cluster | None:
    """Returns the processes that JAX detects on this machine."""
    slurm = all(name in os.environ for name in _SLURM)
    if _on_cpu() and not slurm:  # a run on the CPU of one host of a TPU pod has no other processes
        return None
    try:
        detected = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, "slurm" if slurm else None, int(timeout)
        )
    except RuntimeError as error:
        raise UserError(
            f"cannot detect the other processes ({error}); give --coordinator, --num_processes and "
            "--process_id"
        ) from None
    coordinator, processes, process, devices = detected
    if coordinator is None or processes is None or process is None or processes == 1:
        return None
    tasks_per_node = processes / int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    if slurm and tasks_per_node <= 1:  # JAX would give the only task of a node just the first GPU
        devices = None
    return Cluster(coordinator, processes, process, devices)


def _on_cpu() -> bool:
    return jax.config.jax_platforms == "cpu"  # type: ignore[attr-defined]  # set by name


def is_first() -> bool:
    """Returns whether this is process 0, the only one that prints and writes shared files."""
    return jax.process_index() == 0


def on_all(holds: bool) -> bool:
    """Returns whether `holds` is true on every process.

    A collective: every process must call it.
    """
    if jax.process_count() == 1:
        return holds
    return bool(multihost_utils.process_allgather(np.asarray(holds)).all())


def sum_over_processes(numbers: np.ndarray) -> np.ndarray:
    """Returns the sum, over all processes, of arrays of one shape; uint32 wraps around.

    A collective: every process must call it.
    """
    if jax.process_count() == 1:
        return numbers
    return multihost_utils.process_allgather(numbers).sum(axis=0, dtype=numbers.dtype)


def wait_for_all(name: str):
    """Returns when every process has called it with this name."""
    multihost_utils.sync_global_devices(name)


def wait_long_for_all():
    """Returns when every process has called it; waits up to an hour.

    (`wait_for_all` is a collective, which on CPUs fails after 30 s.)
    """
    if distributed.global_state.client is not None:
        barrier = f"dlms_jax/long/{next(_LONG_WAITS)}"
        distributed.global_state.client.wait_at_barrier(barrier, 3_600_000)


def random_number() -> int:
    """Returns a random 31-bit number, the same on every process.

    A collective: every process must call it.
    """
    return int(multihost_utils.broadcast_one_to_all(np.int32(uuid.uuid4().int % 2**31)))


def check_shared(folder: pathlib.Path):
    """Checks that all processes see the same folder, since each writes a part of every checkpoint.

    A collective: every process must call it.

    Raises:
      UserError: a process does not see what process 0 writes to the folder.
    """
    if jax.process_count() == 1:
        return
    mark = folder / f".process-0-{random_number()}"
    if is_first():
        mark.touch()
    wait_for_all("marked")
    seen = multihost_utils.process_allgather(np.asarray(mark.exists()))
    if is_first():
        mark.unlink()
    if not seen.all():
        blind = ", ".join(map(str, np.flatnonzero(~seen)))
        raise UserError(
            f"{folder} is not a shared folder: process {blind} does not see what process 0 writes "
            "there; give a --workdir on a file system that all machines share"
        )


def leave(status: int, grace: float):
    """Ends this process at once, together with the others that call it.

    Process 0 ends last: when it ends, JAX loses the coordinator and aborts the other processes.

    Args:
      status: the exit status.
      grace: seconds to wait for the other processes.
    """
    client = distributed.global_state.client
    if client is not None:
        with contextlib.suppress(Exception):  # some processes hang or have ended
            client.wait_at_barrier("dlms_jax/leave", int(1000 * grace))
        if is_first():
            time.sleep(_LAST)
    os._exit(status)


@contextlib.contextmanager
def parting():
    """Ends this process at once if the block raises, so that the others do not wait for it.

    Each process prints its error; only process 0 prints an error that all have.
    """
    try:
        yield
    except BaseException as error:
        client = distributed.global_state.client
        if client is None or isinstance(error, SystemExit):
            raise
        status = _report(error, client)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # without exit handlers, which would wait for the other processes


def _report(error, client) -> int:
    """Prints why this process ends; returns its exit status."""
    process, ours = distributed.global_state.process_id, isinstance(error, UserError)
    text = str(error) if ours else "".join(traceback.format_exception(error)).rstrip()
    causes = {n: said for n, said in _user_errors(ours, text, client).items() if n != process}
    prefix = f"process {process}: " if process else ""
    if isinstance(error, KeyboardInterrupt):
        print(f"{prefix}interrupted", file=sys.stderr)
        return 130
    if ours:
        if process == 0 or causes.get(0) != text:
            print(f"{prefix}error: {text}", file=sys.stderr)
        return 2
    if causes:  # this error only follows from another process's end
        first = min(causes)
        print(f"{prefix}ended because process {first} did: {causes[first]}", file=sys.stderr)
        return 2
    print(f"{prefix}{text}", file=sys.stderr)
    return 1


def _user_errors(ours: bool, text: str, client) -> dict[int, str]:
    """Tells the others why this process ends; returns the user errors of all, by process.

    Args:
      ours: whether this process ends with a UserError.
      text: what it would print.
      client: JAX's client of the coordinator.
    """
    process, number = distributed.global_state.process_id, distributed.global_state.num_processes
    ended = {}
    try:
        client.key_value_set(f"dlms_jax/ended/{process}", json.dumps([ours, text]))
        with contextlib.suppress(Exception):  # the others may wait for this process elsewhere
            client.wait_at_barrier("dlms_jax/ended", _GRACE * 1000)
        for key, value in client.key_value_dir_get("dlms_jax/ended"):
            ended[int(key.rpartition("/")[2])] = json.loads(value)
        if len(ended) == number:
            client.wait_at_barrier("dlms_jax/read", _GRACE * 1000)
    except Exception:  # the coordinator has ended: use what was read so far
        pass
    return {n: said for n, (is_user_error, said) in ended.items() if is_user_error}
