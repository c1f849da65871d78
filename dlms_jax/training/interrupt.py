"""SIGTERM and Ctrl-C: finish the step, save, and say how to go on."""

import signal
import threading


class Interrupted(Exception):
    """Training was asked to stop, and has saved its state; the text says how to go on."""


class StopSignals:
    """A context in which SIGTERM and SIGINT set `received` instead of ending the process.

    A second Ctrl-C interrupts at once. Outside the main thread (a notebook's, say) signals cannot
    be caught, and nothing changes.
    """

    received: str | None = None

    def __enter__(self):
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
