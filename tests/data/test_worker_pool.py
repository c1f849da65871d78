"""Calls in worker processes: their results, their errors, and the progress that they report."""

import pytest
from rich.console import Console

from dlms_jax.data import worker_pool
from dlms_jax.data.worker_pool import advance, run_in_workers
from dlms_jax.errors import UserError

QUIET = Console(quiet=True)


def halved(number: int) -> int:
    if number % 2:
        raise UserError(f"{number} is odd")
    advance(number)
    return number // 2


@pytest.mark.parametrize("workers", [1, 2])
def test_every_call_is_made_once_and_its_progress_counted(workers):
    advance(100)  # work done outside of a run is not part of the run's progress
    calls = [(number,) for number in (2, 4, 6, 40)]
    assert sorted(run_in_workers(halved, calls, workers, QUIET, "halving", 52)) == [1, 2, 3, 20]
    assert worker_pool._done.value == 52


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_call_is_raised_here(workers):
    with pytest.raises(UserError, match="3 is odd"):
        list(run_in_workers(halved, [(2,), (3,)], workers, QUIET, "halving", None))


def test_progress_outside_of_a_run_is_ignored(monkeypatch):
    """A function that reports progress can be called directly, as Beam's workers do."""
    monkeypatch.setattr(worker_pool, "_done", None)
    assert halved(4) == 2
