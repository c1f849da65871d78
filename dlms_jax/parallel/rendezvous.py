"""Which of several processes have come: asked over sockets at the coordinator's port, before JAX
takes that for itself."""

import contextlib
import json
import select
import socket
import time
from typing import NamedTuple

from dlms_jax.errors import UserError

_GRACE = 5  # seconds for a verdict, beyond process 0's own time
_LONGEST_LINE = 4096


class Cluster(NamedTuple):
    """coordinator: HOST:PORT of process 0. devices: which of this machine's GPUs are this process's
    own; None: all."""

    coordinator: str
    processes: int
    process: int
    devices: list[int] | None = None


def rendezvous(cluster: Cluster, timeout: float):
    """Returns when all processes are there. Raises UserError, in each that came, which names those
    that did not."""
    host, _, port = cluster.coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    if cluster.process:
        verdict = _answer(cluster, host.strip("[]"), int(port), deadline, timeout)
    else:
        verdict = _gather(cluster, int(port), deadline, timeout)
    if verdict:
        raise UserError(verdict)


def _gather(cluster, port, deadline, timeout) -> str:
    """Process 0: returns what is wrong ("" for nothing), having told all that came."""
    here = {0: (None, socket.gethostname())}
    wrong = ""
    with _listen(port, deadline) as listener:
        while not wrong:
            here = {n: one for n, one in here.items() if one[0] is None or not _gone(one[0])}
            if len(here) == cluster.processes:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                wrong = _missing(cluster, here, timeout)
                break
            if not select.select([listener], [], [], left)[0]:
                continue
            connection, _ = listener.accept()
            said = _read(connection, time.monotonic() + 1)
            if said is None or not isinstance(said.get("process"), int):
                connection.close()
                continue
            process, of, name = (said.get(key) for key in ("process", "of", "host"))
            if of != cluster.processes:
                wrong = f"process {process} on {name} was told --num_processes={of}, and process 0 "
                wrong += f"{cluster.processes}; start all with the same"
            elif process in here:
                wrong = f"two processes, on {here[process][1]} and {name}, were told "
                wrong += f"--process_id={process}; give each its own"
            here[process if not wrong else ("wrong", process)] = connection, name
    for connection, _ in here.values():
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps({"dlms_jax": wrong}).encode() + b"\n")
                connection.shutdown(socket.SHUT_WR)
                _read(connection, time.monotonic() + 1)  # it closes first: the port stays free
            connection.close()
    return wrong


def _answer(cluster, host, port, deadline, timeout) -> str:
    """All others: returns what process 0 says is wrong."""
    hello = {"process": cluster.process, "of": cluster.processes, "host": socket.gethostname()}
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return (
                f"process 0 did not come in {timeout:g} s: nothing answers at {host}:{port}; start "
                "it there, look whether this machine reaches it, or wait longer "
                "(--startup_timeout=SECONDS)"
            )
        with contextlib.suppress(OSError):
            with socket.create_connection((host, port), timeout=min(left, 5)) as connection:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                said = _read(connection, time.monotonic() + timeout + _GRACE)
            if said and "dlms_jax" in said:
                return said["dlms_jax"]
        time.sleep(0.2)


def _missing(cluster, here, timeout) -> str:
    absent = [n for n in range(cluster.processes) if n not in here]
    there = ", ".join(f"{n} on {here[n][1]}" for n in sorted(here)[:8])
    there += ", ..." if len(here) > 8 else ""
    return (
        f"{len(absent)} of {cluster.processes} processes did not come in {timeout:g} s: "
        f"process {', '.join(map(str, absent))} (here are {there}); start what is missing with "
        f"--coordinator={cluster.coordinator}, or wait longer (--startup_timeout=SECONDS)"
    )


def _listen(port, deadline) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    while True:
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=512)
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process 0 cannot listen at port {port} of this machine ({error.strerror}); "
                    "give all another --coordinator"
                ) from None
            time.sleep(0.2)  # a run that is ending may still have it


def _read(connection, deadline) -> dict | None:
    """Returns the line of JSON that comes; None where none does."""
    line = b""
    while not line.endswith(b"\n"):
        connection.settimeout(max(deadline - time.monotonic(), 0.01))
        try:
            more = connection.recv(_LONGEST_LINE)
        except OSError:
            return None
        line += more
        if not more or len(line) > _LONGEST_LINE:
            return None
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _gone(connection) -> bool:
    """Returns whether the other side has closed."""
    return bool(select.select([connection], [], [], 0)[0])
