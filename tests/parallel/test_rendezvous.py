"""Who came and who did not, told to all that came."""

import socket
import threading
import time

from parallel.processes import free_port
import pytest

from dlms_jax.errors import UserError
from dlms_jax.parallel.rendezvous import Cluster, rendezvous


def verdicts(clusters, timeout=20.0, delay=0.0) -> list[str]:
    """Returns what each of several processes (threads here) is told; "" where all are there."""
    said = [None] * len(clusters)

    def call(place):
        time.sleep(delay * place)
        try:
            rendezvous(clusters[place], timeout)
            said[place] = ""
        except UserError as error:
            said[place] = str(error)

    threads = [threading.Thread(target=call, args=[place]) for place in range(len(clusters))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return said


def of(number, *processes):
    address = f"127.0.0.1:{free_port()}"
    return [Cluster(address, number, process) for process in processes]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_are_there_whoever_comes_first(order):
    assert verdicts(of(3, *order), delay=0.1) == ["", "", ""]


def test_those_who_did_not_come_are_named_to_all_who_came():
    said = verdicts(of(4, 0, 2), timeout=1)
    assert said[0] == said[1]
    assert "2 of 4 processes did not come in 1 s: process 1, 3" in said[0]
    assert f"(here are 0 on {socket.gethostname()}, 2 on" in said[0]
    assert "--coordinator=127.0.0.1:" in said[0] and "\n" not in said[0]


def test_process_0_is_named_where_it_does_not_come():
    for said in verdicts(of(3, 1, 2), timeout=0.5):
        assert "process 0 did not come in 0.5 s: nothing answers at 127.0.0.1:" in said


def test_two_with_one_number_are_refused():
    for said in verdicts(of(3, 0, 1, 1)):
        assert "two processes" in said and "--process_id=1" in said


def test_numbers_of_processes_that_differ_are_refused():
    first, second = of(2, 0, 1)
    for said in verdicts([first, second._replace(processes=3)]):
        assert "process 1" in said and "was told --num_processes=3, and process 0 2" in said


def test_one_that_was_killed_and_started_again_counts_once():
    first, second, third = of(3, 0, 1, 2)
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
    said = []
    calls = threading.Thread(target=lambda: said.extend(verdicts([first, third, second], 20, 0.3)))
    calls.start()
    thread.join(20)
    calls.join(60)
    assert said == ["", "", ""]


@pytest.mark.parametrize("noise", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"x" * 9000])
def test_what_is_not_one_of_us_is_ignored(noise):
    first, second = of(2, 0, 1)
    host, _, port = first.coordinator.rpartition(":")

    def disturb():
        time.sleep(0.1)
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(noise)

    threading.Thread(target=disturb).start()
    assert verdicts([first, second], delay=0.3) == ["", ""]
