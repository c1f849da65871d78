"""The status line of a run: live on a terminal, plain lines elsewhere."""

from collections.abc import Mapping
import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dlms_jax.terminal import duration, with_unit


class Progress:
    """Shows one line; other prints to the same console appear above it."""

    def __init__(self, console: Console, total_steps: int):
        self._console, self._total = console, total_steps
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self):
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_):
        if self._live:
            self._live.stop()

    def show(self, step: int, metrics: Mapping[str, float], seconds_left: float):
        """Shows the metrics of a step (columns of metrics.csv)."""
        line = Text(status_line(step, self._total, metrics, seconds_left))
        if self._live:
            self._live.update(line, refresh=True)
        else:
            self._console.print(line, soft_wrap=True)


class Clock:
    """Times the steps after the first, without the evaluations and saves between them."""

    def __init__(self, first_step: int, last_step: int):
        self._first, self._last = first_step, last_step
        self._begun = self._marked = time.perf_counter()
        self._marked_step = first_step

    def go_on(self, step: int):
        """Starts a new interval after `step`."""
        self._marked, self._marked_step = time.perf_counter(), step

    def steps_per_second(self, step: int) -> float:
        """Returns the speed since the interval began; 0 if it holds no step."""
        return (step - self._marked_step) / max(time.perf_counter() - self._marked, 1e-9)

    def seconds(self) -> float:
        return time.perf_counter() - self._begun

    def seconds_left(self, step: int) -> float:
        """Returns the time to the last step at the average speed so far, evaluations included."""
        return (self._last - step) * self.seconds() / max(step - self._first, 1)


def status_line(step, total_steps, metrics, seconds_left) -> str:
    """Returns the metrics of a step as one line of text."""
    parts = [f"step {step}/{total_steps}", f"loss {metrics['loss']:.3f}"]
    if "bound" in metrics:
        parts.append(f"held-out {metrics['bound']:.3f}")
    parts += [
        f"lr {metrics['learning_rate']:.1e}",
        f"grad {metrics['grad_norm']:.2f}",
    ]
    if metrics["tokens_per_second"]:  # not after the first step, which is not timed
        parts += [
            f"{with_unit(metrics['tokens_per_second'])}tok/s",
            f"{with_unit(metrics['flops_per_second'])}FLOP/s (MFU {metrics['mfu']:.0%})",
        ]
    parts.append(f"epoch {metrics['epoch']:.2f}")
    if "busiest_expert" in metrics:
        parts.append(f"busiest expert {metrics['busiest_expert']:.0%}")
    if metrics["skipped"]:
        parts.append(f"skipped {metrics['skipped']:.0f}")
    parts.append(f"{duration(seconds_left)} left")
    return "  ".join(parts)
