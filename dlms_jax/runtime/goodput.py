"""Where a run's time goes, over all its starts: WORKDIR/goodput.csv, one row a start.

The times are the loop's, on the clock of process 0. Steps are computed asynchronously, so whatever
the loop does while they run counts as step; only what holds the steps up counts as data or
checkpoint.
"""

import csv
import pathlib
import time

import jax

from dlms_jax.errors import UserError
from dlms_jax.files import written_whole

# start: until the first step (data, restoring). compile: the first step. step: later steps that are
# new. repeated: steps that an earlier start, or the time before a rollback, had already done.
KINDS = ("start", "compile", "step", "repeated", "data", "checkpoint", "evaluation", "other")
# before: seconds between the last record of the previous start and this one.
COLUMNS = ("begun", "first_step", "last_step", "furthest_step", "before", *KINDS)


class Goodput:
    """Counts the seconds of this start, at first as "start". A context that saves at its end; if it
    ends without an error, so does the run."""

    def __init__(self, workdir: pathlib.Path, clock=time.time):
        self._path, self._clock = workdir / "goodput.csv", clock
        self._earlier = read_goodput(self._path)
        self._kind, self._marked = "start", clock()
        seconds = dict.fromkeys(KINDS, 0.0)
        self._row = {"begun": self._marked, "first_step": 0, "last_step": 0, "before": 0.0}
        self._row |= {"furthest_step": 0} | seconds
        if self._earlier:
            last = self._earlier[-1]
            ended = last["begun"] + sum(last[kind] for kind in KINDS)
            self._row["before"] = max(self._marked - ended, 0.0)
            self._row["furthest_step"] = max(row["furthest_step"] for row in self._earlier)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.save()

    def begin(self, step: int):
        """Records the step that this start resumes from."""
        self._row["first_step"] = self._row["last_step"] = step

    def now(self, kind: str):
        """Counts the time from now on as this kind."""
        now = self._clock()
        self._row[self._kind] += max(now - self._marked, 0.0)
        self._kind, self._marked = kind, now

    def step(self, step: int, compiles: bool = False):
        """Counts the time from now on as that of a step."""
        row = self._row
        again = step <= row["furthest_step"]
        self.now("compile" if compiles else "repeated" if again else "step")
        row["last_step"], row["furthest_step"] = step, max(step, row["furthest_step"])

    def share(self) -> float:
        """Returns the share of new steps in the time of all starts."""
        shares, _, _ = totals(self.rows())
        return shares["step"]

    def rows(self) -> list[dict[str, float]]:
        """Returns the rows of all starts up to now; this one is the last."""
        self.now(self._kind)
        return [*self._earlier, self._row]

    def save(self):
        """Writes the file if this start has taken a step."""
        rows = self.rows()
        if jax.process_index() or self._row["last_step"] == self._row["first_step"]:
            return
        with written_whole(self._path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows([{k: round(v, 3) for k, v in row.items()} for row in rows])


def read_goodput(path: pathlib.Path) -> list[dict[str, float]]:
    """Returns the rows of a goodput.csv; none if there is no file.

    Raises:
      UserError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [{column: float(row.get(column) or 0.0) for column in COLUMNS} for row in rows]
    except (ValueError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} is damaged ({reason}); move it away: it only counts where time went"
        ) from None


def totals(rows: list[dict[str, float]]) -> tuple[dict[str, float], float, float]:
    """Returns (share of each kind, seconds of all starts, seconds between the starts)."""
    seconds = {kind: sum(row[kind] for row in rows) for kind in KINDS}
    total = sum(seconds.values())
    shares = {kind: value / max(total, 1e-9) for kind, value in seconds.items()}
    return shares, total, sum(row["before"] for row in rows)
