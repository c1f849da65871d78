"""Several processes that train together: how they find one another, agree, and part.

`start()` comes before anything touches a device. Which processes there are, in this order: flags,
the environment variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, what JAX
knows of the machine (a Cloud TPU pod, SLURM, Open MPI); else this process is alone.

Before JAX's own start-up the roll is called (roll_call.py), for that aborts with a stack of C++
and no names where a process does not come.
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

TIMEOUT = 300  # seconds for all to come
_GRACE = 5  # seconds for others to fail alike
_LAST = 1  # second that process 0 gives the others to end
_LONG_WAITS = itertools.count()  # each barrier has a name of its own
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = TIMEOUT,
):
    """Joins the processes that train together; does nothing where there is but this one.

    Raises UserError, which names those that did not come, after `timeout` seconds.
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
    """Returns the processes that train together; None where this one is alone."""
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
                "0), --num_processes and --process_id, each the same but the last"
            )
        if name != "coordinator" and not str(value).isdigit():
            raise UserError(f"--{name}={value} should be a whole number")
    processes, process = int(given["num_processes"]), int(given["process_id"])
    if not process < processes:
        raise UserError(
            f"--process_id={process} of --num_processes={processes}: they count from 0 to "
            f"{max(processes - 1, 0)}"
        )
    host, _, port = given["coordinator"].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={given['coordinator']} should be HOST:PORT")
    return Cluster(given["coordinator"], processes, process) if processes > 1 else None


def _or_environment(value, variable):
    return value if value is not None else os.environ.get(variable) or None


def _detected(timeout) -> Cluster | None:
    """Returns what JAX's detection finds."""
    slurm = all(name in os.environ for name in _SLURM)
    if _on_cpu() and not slurm:  # a run on the CPU of a pod's host is alone
        return None
    try:
        found = Cluster(
            *clusters.ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, "slurm" if slurm else None, int(timeout)
            )
        )
    except RuntimeError as error:
        raise UserError(f"the other processes were not found: {error}") from None
    if found.coordinator is None or found.processes == 1:
        return None
    tasks_of_a_machine = found.processes / int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    if slurm and tasks_of_a_machine <= 1:  # JAX would give a machine's only task its first GPU
        found = found._replace(devices=None)
    return found


def _on_cpu() -> bool:
    return jax.config.jax_platforms == "cpu"


def is_first() -> bool:
    """Returns whether this is process 0, which alone prints, and writes what one writes for all."""
    return jax.process_index() == 0


def on_all(holds: bool) -> bool:
    """Returns whether something holds on every process; all must ask."""
    if jax.process_count() == 1:
        return holds
    return bool(multihost_utils.process_allgather(np.asarray(holds)).all())


def wait_for_all(name: str):
    """Returns when every process has come to this place."""
    multihost_utils.sync_global_devices(name)


def wait_long_for_all():
    """Returns when every process has come to this place, which may take an hour. (On CPUs, a
    process that waits in a collective gives up after 30 s.)"""
    if distributed.global_state.client is not None:
        place = f"dlms_jax/long/{next(_LONG_WAITS)}"
        distributed.global_state.client.wait_at_barrier(place, 3_600_000)


def random_number() -> int:
    """Returns a number by chance, the same on every process; all must ask."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(uuid.uuid4().int % 2**31)))


def check_shared(folder: pathlib.Path):
    """Raises UserError where the processes do not see the same folder: checkpoints, of which each
    writes its part, would come to nothing."""
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
            f"{folder} is not the same folder everywhere: process {blind} does not see what "
            "process 0 writes there; give a --workdir on a file system that all machines share"
        )


def leave(status: int, grace: float):
    """Ends this process at once, with others that come here within so many seconds.

    Process 0 goes last: its end takes JAX's connection from the others, which aborts them."""
    client = distributed.global_state.client
    if client is not None:
        with contextlib.suppress(Exception):  # some do not come, or are gone
            client.wait_at_barrier("dlms_jax/leave", int(1000 * grace))
        if is_first():
            time.sleep(_LAST)
    os._exit(status)


@contextlib.contextmanager
def parting():
    """Ends the process at once after an error, where others would wait for it in vain.

    What all fail with alike, process 0 says alone.
    """
    try:
        yield
    except BaseException as error:
        client = distributed.global_state.client
        if client is None or isinstance(error, SystemExit):
            raise
        status = _say_why(error, client)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # not through exit handlers: they would wait for the others


def _say_why(error, client) -> int:
    me, processes = distributed.global_state.process_id, distributed.global_state.num_processes
    known = isinstance(error, UserError)
    text = str(error) if known else "".join(traceback.format_exception(error)).rstrip()
    others = {}
    try:
        client.key_value_set(f"dlms_jax/ended/{me}", json.dumps([known, text]))
        with contextlib.suppress(Exception):  # the others may be waiting for this one elsewhere
            client.wait_at_barrier("dlms_jax/ended", _GRACE * 1000)
        for key, value in client.key_value_dir_get("dlms_jax/ended"):
            others[int(key.rpartition("/")[2])] = json.loads(value)
        if len(others) == processes:
            client.wait_at_barrier("dlms_jax/read", _GRACE * 1000)
    except Exception:  # the coordinator is gone: what was read will do
        pass
    causes = {n: said for n, (is_known, said) in others.items() if is_known and n != me}
    prefix = f"process {me}: " if me else ""
    if isinstance(error, KeyboardInterrupt):
        print(f"{prefix}interrupted", file=sys.stderr)
        return 130
    if known and not (me and causes.get(0) == text):
        print(f"{prefix}error: {text}", file=sys.stderr)
    elif not known and causes:  # mine only follows from another's end
        first = min(causes)
        print(f"{prefix}ended after process {first}: {causes[first]}", file=sys.stderr)
        return 2
    elif not known:
        print(f"{prefix}{text}", file=sys.stderr)
    return 2 if known else 1
