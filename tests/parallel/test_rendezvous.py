"""Every process that starts learns whether all others do, and which are missing."""

import socket
import threading
import time

from parallel.processes import free_port
import pytest

from dlms_jax.errors import UserError
from dlms_jax.parallel.rendezvous import Cluster, rendezvous


def outcomes(clusters, timeout=20.0, delay=0.0) -> list[str]:
    """Returns the error of each of several processes (threads here); "" if all have started."""
    errors = [None] * len(clusters)

    def join(number):
        time.sleep(delay * number)
        try:
            rendezvous(clusters[number], timeout)
            errors[number] = ""
        except UserError as error:
            errors[number] = str(error)

    threads = [threading.Thread(target=join, args=[number]) for number in range(len(clusters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


def cluster(number, *processes):
    """Returns the Cluster of each of some processes out of `number`."""
    address = f"127.0.0.1:{free_port()}"
    return [Cluster(address, number, process) for process in processes]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_processes_may_start_in_any_order(order):
    assert outcomes(cluster(3, *order), delay=0.1) == ["", "", ""]


def test_missing_processes_are_named_to_all_that_started():
    errors = outcomes(cluster(4, 0, 2), timeout=1)
    assert errors[0] == errors[1]
    assert "2 of 4 processes did not start within 1 s: process 1, 3" in errors[0]
    assert f"(started: 0 on {socket.gethostname()}, 2 on" in errors[0]
    assert "--coordinator=127.0.0.1:" in errors[0] and "\n" not in errors[0]


def test_a_missing_process_0_is_named():
    for error in outcomes(cluster(3, 1, 2), timeout=0.5):
        assert "process 0 did not start within 0.5 s: nothing answers at 127.0.0.1:" in error


def test_two_processes_with_one_number_are_refused():
    for error in outcomes(cluster(3, 0, 1, 1)):
        assert "two processes" in error and "--process_id=1" in error


def test_numbers_of_processes_that_differ_are_refused():
    first, second = cluster(2, 0, 1)
    for error in outcomes([first, second._replace(processes=3)]):
        assert "process 1" in error
        assert "has --num_processes=3, process 0 has --num_processes=2" in error


def test_a_process_that_was_killed_and_started_again_counts_once():
    first, second, third = cluster(3, 0, 1, 2)
    port = int(first.coordinator.rpartition(":")[2])

    def killed():
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port)) as connection:
                    connection.sendall(b'{"process": 1, "of": 3, "host": "a"}\n')
                    return
            except ConnectionRefusedError:
                time.sleep(0.02)

    thread = threading.Thread(target=killed)
    thread.start()
    errors = []
    joins = threading.Thread(
        target=lambda: errors.extend(outcomes([first, third, second], 20, 0.3))
    )
    joins.start()
    thread.join(20)
    joins.join(60)
    assert errors == ["", "", ""]


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"x" * 9000])
def test_other_programs_that_connect_are_ignored(noise):
    first, second = cluster(2, 0, 1)
    host, _, port = first.coordinator.rpartition(":")

    def disturb():
        time.sleep(0.1)
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(noise)

    threading.Thread(target=disturb).start()
    assert outcomes([first, second], delay=0.3) == ["", ""]
