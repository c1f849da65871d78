"""Checks that every process has started, over the coordinator's port, before JAX uses that port."""

from collections.abc import Sequence
import contextlib
import json
import select
import socket
import time
from typing import NamedTuple

from dlms_jax.errors import UserError

_GRACE = 5  # seconds that process 0 may take for its answer after the time limit
_LONGEST_LINE = 4096  # bytes


class Cluster(NamedTuple):
    """The processes that train together, and which of them this one is.

    Attributes:
      coordinator: HOST:PORT of process 0.
      processes: number of processes.
      process: number of this process, from 0.
      devices: which GPUs of this machine belong to this process; None: all.
    """

    coordinator: str
    processes: int
    process: int
    devices: Sequence[int] | None = None


class _Peer(NamedTuple):
    """A process that has connected to process 0."""

    connection: socket.socket
    host: str


def rendezvous(cluster: Cluster, timeout: float):
    """Returns when all processes have started.

    Args:
      cluster: the processes to wait for.
      timeout: seconds to wait.

    Raises:
      UserError: a process did not start in time, or two of them disagree; every process that did
        start raises it, with the same text.
    """
    host, _, port = cluster.coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    if cluster.process:
        problem = _join(cluster, host.strip("[]"), int(port), deadline, timeout)
    else:
        problem = _lead(cluster, int(port), deadline, timeout)
    if problem:
        raise UserError(problem)


def _lead(cluster, port, deadline, timeout) -> str:
    """Process 0: waits for the others, tells them what is wrong ("" for nothing) and returns it."""
    with _listen(port, deadline) as listener:
        problem, connections = _collect(cluster, listener, deadline, timeout)
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps({"dlms_jax": problem}).encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            # The other side closes first, so that the port is free at once (no TIME_WAIT here).
            _read(connection, time.monotonic() + 1)
        connection.close()
    return problem


def _collect(cluster, listener, deadline, timeout) -> tuple[str, list[socket.socket]]:
    """Returns what is wrong ("" for nothing), and the connections that wait for that answer."""
    peers: dict[int, _Peer] = {}
    while True:
        peers = {number: peer for number, peer in peers.items() if not _closed(peer.connection)}
        connections = [peer.connection for peer in peers.values()]
        if len(peers) == cluster.processes - 1:
            return "", connections
        left = deadline - time.monotonic()
        if left <= 0:
            return _missing(cluster, peers, timeout), connections
        if not select.select([listener], [], [], left)[0]:
            continue
        connection, _ = listener.accept()
        hello = _read(connection, time.monotonic() + 1)
        if hello is None or not isinstance(hello.get("process"), int):  # not one of our processes
            connection.close()
            continue
        number, peer = hello["process"], _Peer(connection, str(hello.get("host")))
        if problem := _conflict(cluster, peers, number, peer, hello.get("of")):
            return problem, [*connections, connection]
        peers[number] = peer


def _conflict(cluster, peers, number, peer, processes) -> str:
    """Returns how a process contradicts those that are here; "" if it does not."""
    if processes != cluster.processes:
        return (
            f"process {number} on {peer.host} has --num_processes={processes}, process 0 has "
            f"--num_processes={cluster.processes}; start all processes with the same number"
        )
    taken = {0: socket.gethostname()} | {n: other.host for n, other in peers.items()}
    if number in taken:
        return (
            f"two processes, on {taken[number]} and {peer.host}, have --process_id={number}; give "
            "each process its own"
        )
    return ""


def _missing(cluster, peers, timeout) -> str:
    here = {0: socket.gethostname()} | {number: peer.host for number, peer in peers.items()}
    missing = [number for number in range(cluster.processes) if number not in here]
    names = [f"{number} on {here[number]}" for number in sorted(here)]
    started = ", ".join(names[:8] + ["..."] * (len(names) > 8))
    return (
        f"{len(missing)} of {cluster.processes} processes did not start within {timeout:g} s: "
        f"process {', '.join(map(str, missing))} (started: {started}); start the missing ones with "
        f"--coordinator={cluster.coordinator}, or wait longer (--startup_timeout=SECONDS)"
    )


def _join(cluster, host, port, deadline, timeout) -> str:
    """Any other process: returns what process 0 says is wrong; "" for nothing."""
    hello = {"process": cluster.process, "of": cluster.processes, "host": socket.gethostname()}
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return (
                f"process 0 did not start within {timeout:g} s: nothing answers at {host}:{port}; "
                "start it there, check that this machine can reach it, or wait longer "
                "(--startup_timeout=SECONDS)"
            )
        with contextlib.suppress(OSError):
            with socket.create_connection((host, port), timeout=min(left, 5)) as connection:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                answer = _read(connection, time.monotonic() + timeout + _GRACE)
            if answer and "dlms_jax" in answer:
                return answer["dlms_jax"]
        time.sleep(0.2)


def _listen(port, deadline) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    while True:
        try:
            return socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=512)
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"process 0 cannot listen on port {port} of this machine ({error.strerror}); "
                    "give all processes another --coordinator"
                ) from None
            time.sleep(0.2)  # a run that is ending may still hold the port


def _read(connection, deadline) -> dict | None:
    """Returns the JSON object that is sent as one line; None if none arrives in time."""
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
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def _closed(connection) -> bool:
    """Returns whether the other side has closed the connection."""
    return bool(select.select([connection], [], [], 0)[0])
