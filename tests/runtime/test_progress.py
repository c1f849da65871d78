"""The status line: numbers as a reader expects them, at the edges too; and a clock that counts."""

import io

from hypothesis import example, given, strategies as st
import pytest
from rich.console import Console

from dlms_jax.runtime import progress
from dlms_jax.runtime.progress import Clock, Progress, duration, status_line, with_unit

METRICS = {
    "loss": 2.34567, "learning_rate": 3e-4, "grad_norm": 0.987, "tokens_per_second": 12_345.0,
    "flops_per_second": 1.5e12, "mfu": 0.4321, "epoch": 1.239, "skipped": 0.0,
}  # fmt: skip
FACTORS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time, which a test sets instead of sleeping."""
    time = [1000.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: time[0])
    return time


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 "),
        (1, "1 "),
        (0.25, "0.25 "),
        (999.4, "999 "),
        (999.6, "1 k"),
        (1000, "1 k"),
        (12_345, "12.3 k"),
        (999_499, "999 k"),
        (999_600, "1 M"),
        (-12_345, "-12.3 k"),
        (-999.6, "-1 k"),
        (1.5e12, "1.5 T"),
        (1e16, "10 P"),
        (1.5e18, "1.5 E"),  # FLOP/s of a whole pod
    ],
)
def test_with_unit(number, text):
    assert with_unit(number) == text


@example(999.6)
@given(st.floats(1e-3, 9e20))
def test_with_unit_is_the_number_to_three_digits(number):
    """And is never written with an exponent, which the unit is there to save."""
    mantissa, unit = with_unit(number).split(" ")
    assert float(mantissa) * FACTORS[unit] == pytest.approx(number, rel=0.006)
    assert "e" not in mantissa
    assert float(mantissa) < 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (0.6, "0:01"),
        (59.4, "0:59"),
        (59.6, "1:00"),  # not 0:60
        (61, "1:01"),
        (3599.6, "1:00:00"),
        (3723, "1:02:03"),
        (86_400, "24:00:00"),
        (360_000, "100:00:00"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@given(st.integers(0, 10**7))
def test_duration_is_the_seconds(seconds):
    total = 0
    for part in duration(seconds).split(":"):
        total = 60 * total + int(part)
    assert total == seconds


def test_status_line():
    line = status_line(10, 200, METRICS, 3723.0)
    assert line.split("  ") == [
        "step 10/200", "loss 2.346", "lr 3.0e-04", "grad 0.99", "12.3 ktok/s",
        "1.5 TFLOP/s (MFU 43%)", "epoch 1.24", "1:02:03 left",
    ]  # fmt: skip


def test_status_line_tells_what_is_not_always_there():
    line = status_line(10, 200, METRICS | {"bound": 2.5, "skipped": 3.0}, 0.0)
    assert "held-out 2.500" in line and "skipped 3" in line
    assert "held-out" not in status_line(10, 200, METRICS, 0.0)
    assert "skipped" not in status_line(10, 200, METRICS, 0.0)
    untimed = METRICS | {"tokens_per_second": 0.0, "flops_per_second": 0.0, "mfu": 0.0}
    assert "/s" not in status_line(1, 200, untimed, 0.0)


def test_status_line_of_a_broken_run():
    """The line that reports the trouble must not be its own."""
    broken = METRICS | {"loss": float("nan"), "grad_norm": float("inf"), "skipped": 5.0}
    line = status_line(10, 200, broken, 0.0)
    assert "loss nan" in line and "grad inf" in line and "skipped 5" in line


def test_progress_prints_plain_lines_elsewhere_than_on_a_terminal():
    """Each step one line, none wrapped, so that a log can be read and searched."""
    out = io.StringIO()
    with Progress(Console(file=out, width=20), 200) as shown:
        shown.show(10, METRICS, 60.0)
        shown.show(20, METRICS, 30.0)
    lines = out.getvalue().splitlines()
    assert lines == [status_line(10, 200, METRICS, 60.0), status_line(20, 200, METRICS, 30.0)]


def test_progress_shows_the_last_line_on_a_terminal():
    out = io.StringIO()
    with Progress(
        Console(file=out, width=300, force_terminal=True, color_system=None), 200
    ) as shown:
        shown.show(10, METRICS, 60.0)
        shown.show(20, METRICS, 30.0)
    assert status_line(20, 200, METRICS, 30.0) in out.getvalue()


def test_clock_counts_steps_since_the_interval_began(now):
    clock = Clock(first_step=100, last_step=200)
    now[0] += 2
    assert clock.steps_per_second(110) == 5
    now[0] += 60  # an evaluation
    clock.go_on(110)
    now[0] += 1
    assert clock.steps_per_second(114) == 4
    assert clock.seconds() == 63


def test_clock_estimates_by_the_average_with_evaluations(now):
    clock = Clock(first_step=0, last_step=100)
    now[0] += 10
    clock.go_on(5)
    now[0] += 10
    assert clock.seconds_left(10) == pytest.approx(90 * 20 / 10)
    assert clock.seconds_left(100) == 0


def test_clock_at_its_first_step(now):
    """No time and no step have passed: nothing may be divided by."""
    clock = Clock(first_step=7, last_step=8)
    assert clock.steps_per_second(7) == 0
    assert clock.seconds_left(7) == 0
    assert clock.seconds() == 0


def test_clock_is_monotone(now):
    """At an even pace the time that is left falls, and the time that has passed rises."""
    clock, left, passed = Clock(first_step=0, last_step=50), [], []
    for step in range(1, 51):
        now[0] += 0.5
        left.append(clock.seconds_left(step))
        passed.append(clock.seconds())
    assert left == sorted(left, reverse=True) and left[-1] == 0
    assert left[0] == pytest.approx(49 * 0.5)
    assert passed == sorted(passed) and passed[-1] == 25


def test_clock_reads_a_clock_that_is_never_set_back():
    """time.time() jumps when a machine's time is corrected."""
    clock = Clock(first_step=0, last_step=1)
    seconds = [clock.seconds() for _ in range(100)]
    assert seconds == sorted(seconds) and seconds[0] >= 0
