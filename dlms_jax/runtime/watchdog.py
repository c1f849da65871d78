"""A watchdog: if no step ends for long, every process prints its stacks and the last steps of all.

Each process writes to WORKDIR/logs/: step-PROCESS.txt (its last step, for the others to read) and,
when it hangs, stacks-PROCESS.txt.
"""

import contextlib
import faulthandler
import pathlib
import sys
import threading
import time

import jax

from dlms_jax.parallel import hosts

HUNG = 76  # exit status of a run that config.training.hang_exit ended (EX_PROTOCOL: run it again)
FOLDER = "logs"
_GRACE = 5  # seconds for the other processes to notice that they hang too


class Watchdog:
    """A context whose thread checks that `beat` is called at least every so many minutes."""

    def __init__(self, workdir: pathlib.Path, minutes: float, ends: bool = False, stderr=None):
        """minutes: 0: off. ends: whether to end the process after a report, with status HUNG."""
        self._folder, self._seconds, self._ends = workdir / FOLDER, 60 * minutes, ends
        self._stderr = stderr or sys.__stderr__
        self._process = jax.process_index()
        self._step, self._beaten = 0, time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self):
        if self._seconds:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._beaten = time.monotonic()
            self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def beat(self, step: int):
        """Records that a step has ended."""
        self._step, self._beaten = step, time.monotonic()

    def _watch(self):
        # Twenty times in that time, check, and leave the step for the others.
        while not self._stopped.wait(self._seconds / 20):
            with contextlib.suppress(OSError):  # a full disk is no reason to stop watching
                (self._folder / f"step-{self._process}.txt").write_text(f"{self._step}\n")
            if time.monotonic() - self._beaten > self._seconds:
                self._report()
                if self._ends:
                    hosts.leave(HUNG, _GRACE + self._seconds / 10)  # others check at other times
                self._beaten = time.monotonic()

    def _report(self):
        text = (
            f"process {self._process}: no step has ended for {self._seconds / 60:g} minutes; last "
            f"steps: {self._last_steps()}; all stacks: {self._folder}/stacks-{self._process}.txt"
        )
        print(text, file=self._stderr, flush=True)
        faulthandler.dump_traceback(self._stderr, all_threads=True)
        with (
            contextlib.suppress(OSError),
            open(self._folder / f"stacks-{self._process}.txt", "a") as file,
        ):
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)

    def _last_steps(self) -> str:
        steps = {}
        for process in range(jax.process_count()):
            with contextlib.suppress(OSError, ValueError):
                steps[process] = int((self._folder / f"step-{process}.txt").read_text())
        steps[self._process] = self._step
        return ", ".join(f"process {p}: {steps[p]}" for p in sorted(steps))
