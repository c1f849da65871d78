"""SIGTERM and Ctrl-C: finish the step, save, and say how to resume; all at the same step."""

import os
import signal
import threading

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """Training was asked to stop and saved its state; the text says how to resume."""


class StopSignals:
    """A context in which SIGTERM and SIGINT end training after the current step.

    A second Ctrl-C interrupts at once. Outside the main thread (in a notebook, for example) signals
    cannot be caught, and nothing changes.

    With several processes, any of them may get the signal, and all must stop at the same step: the
    others would wait for ever. SIGTERM is then left to JAX's preemption service, which catches it
    from the start of jax.distributed on, tells all processes, and names a step that none has
    reached. Ctrl-C is turned into a SIGTERM.
    """

    _received: str | None = None

    def __enter__(self):
        self._several = jax.process_count() > 1
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._several else (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def at(self, step: int) -> str | None:
        """Returns the signal that stops the run after this step, or None. All processes must ask at
        every step."""
        if not self._several:
            return self._received
        try:
            return "SIGTERM" if multihost_utils.reached_preemption_sync_point(step) else None
        except RuntimeError:  # without jax_enable_preemption_service SIGTERM ends the process
            return None

    def _receive(self, number, frame):
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number).name
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
