"""SIGTERM and Ctrl-C: finish the step, save, say how to go on; all processes at the same step."""

import os
import signal
import threading

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """Training was asked to stop, and has saved its state; the text says how to go on."""


class StopSignals:
    """A context in which SIGTERM and SIGINT end training after a step, not the process at once.

    A second Ctrl-C interrupts at once. Outside the main thread (a notebook's, say) signals cannot
    be caught, and nothing changes.

    Of several processes any may get the signal, and all must stop at the same step, or the others
    would wait for ever. There SIGTERM is left to JAX's preemption service, which has caught it
    since jax.distributed began, tells all, and names a step that none has reached; Ctrl-C becomes
    a SIGTERM.
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
        """Returns the signal after which to stop at this step, or None; to be asked at every step,
        by all processes."""
        if not self._several:
            return self._received
        try:
            return "SIGTERM" if multihost_utils.reached_preemption_sync_point(step) else None
        except RuntimeError:  # jax_enable_preemption_service is off: SIGTERM ends the process
            return None

    def _receive(self, number, frame):
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = signal.Signals(number).name
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
