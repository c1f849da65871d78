"""Goodput in Google's tools (ml-goodput-measurement), beside goodput.csv.

In those tools a step lasts until the next one starts, minus the custom events in between, and a
step that comes again means that the run was restarted. So each start of a run ends with the record
of one more step: otherwise a clean stop, and the time until the next start, would count as the last
step.
"""

import datetime
import logging
import pathlib
import threading
import time

from dlms_jax.errors import UserError, optional_import
from dlms_jax.parallel import hosts
from dlms_jax.runtime.goodput import Goodput

# The recorder's names for these kinds of time. Steps only start; other kinds are custom events.
_NAMES = {"start": "training_preparation", "data": "data_loading"}
_STEPS = ("compile", "step", "repeated")
# A thread sends the entries, and logs a traceback here for each failure.
_SENDER = logging.getLogger("google.cloud.logging_v2.handlers.transports.background_thread")
_PATIENCE = 10.0  # seconds for the last entries; a preemption leaves few


def make_goodput(workdir: pathlib.Path, job: str, say) -> Goodput:
    """Returns the counter of this start's time; which reports to Google too unless `job` is "".

    Raises:
      UserError: the library is missing, or Cloud Logging accepts no entry.
    """
    return GoogleGoodput(workdir, job, say) if job else Goodput(workdir)


class GoogleGoodput(Goodput):
    """Goodput that process 0 also sends to Google Cloud Logging, to the log goodput_JOB.

    A failure after the start is reported once, by `say`, and stops nothing.
    """

    def __init__(self, workdir: pathlib.Path, job: str, say, clock=time.time):
        super().__init__(workdir, clock)
        self._job, self._say, self._said = job, say, False
        google = optional_import("ml_goodput_measurement", "goodput").goodput
        cloud = optional_import("google.cloud.logging", "goodput")
        first, log = hosts.is_first(), f"goodput_{job}"
        try:
            if first:  # sent at once: the recorder's own entries fail in the background
                cloud.Client().logger(log).log_text("dlms_jax starts")
            self._recorder = google.GoodputRecorder(job, log, logging_enabled=first)
        except Exception as error:  # of credentials, the project, the API, the network
            raise UserError(
                f"config.training.goodput_job={job}: Google Cloud Logging takes no entry "
                f"({_line(error)}); give credentials (gcloud auth application-default login), "
                "GOOGLE_CLOUD_PROJECT, the Cloud Logging API and the role Logs Writer, or leave "
                'the job "" for goodput.csv alone'
            ) from None

    def __enter__(self):
        _SENDER.addFilter(self._heard)
        return super().__enter__()

    def __exit__(self, error, *more):
        super().__exit__(error, *more)
        if self._kind != "start":  # a start without a step records nothing
            self._turn(self._kind, "end")
            self._record("step", "start", step=int(self._row["last_step"]) + 1)
            if error is None:  # a run that was stopped continues later
                self._record("job", "end")
            flush = threading.Thread(target=self._recorder.flush, daemon=True)
            flush.start()
            flush.join(_PATIENCE)
            if flush.is_alive():
                self._failed(f"the last were not sent in {_PATIENCE:.0f} s")
        _SENDER.removeFilter(self._heard)

    def now(self, kind: str):
        before = self._kind
        super().now(kind)
        if kind != before:
            if before == "start":
                self._record("job", "start", self._row["begun"])
                self._record(_NAMES["start"], "start", self._row["begun"])
            self._turn(before, "end")
            self._turn(kind, "start")

    def step(self, step: int, compiles: bool = False):
        super().step(step, compiles)
        self._record("step", "start", step=step)

    def _turn(self, kind: str, edge: str):
        """Records that a period of this kind starts or ends."""
        if kind in _NAMES:
            self._record(_NAMES[kind], edge)
        elif kind not in _STEPS:
            self._record("custom_badput_event", edge, custom_badput_event_type=kind)

    def _record(self, what: str, edge: str, seconds: float | None = None, **more):
        """Records that something starts or ends now, or at `seconds` of the clock."""
        seconds = self._marked if seconds is None else seconds
        more[f"{edge}_time"] = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        try:
            getattr(self._recorder, f"record_{what}_{edge}_time")(**more)
        except Exception as error:
            self._failed(_line(error))

    def _heard(self, record: logging.LogRecord) -> bool:
        """Drops what the sending thread logs; reports its first error."""
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else None
            self._failed(_line(error) if error else record.getMessage())
        return False

    def _failed(self, why: str):
        if not self._said:
            self._said = True
            self._say(
                f"Google's goodput of {self._job} lacks entries ({why}; not said again); "
                "goodput.csv has all"
            )


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
