"""Where a run's time goes, over all its starts: WORKDIR/goodput.csv, one row a start.

It is the time of the loop, on the first process's clock. Steps are computed behind it, so what the
loop waits for while they are counts as theirs; only what holds it up counts as data or checkpoint.
"""

import csv
import pathlib
import time

import jax

from dlms_jax.files import written_whole

# start: until the first step: data, restoring. compile: the first step. step: later ones, that were
# new; repeated: those that an earlier start, or the time before a rollback, had done already.
KINDS = ("start", "compile", "step", "repeated", "data", "checkpoint", "evaluation", "other")
# before: seconds between the last that is known of the start before and this one (saved or lost).
COLUMNS = ("begun", "first_step", "last_step", "furthest_step", "before", *KINDS)


class Goodput:
    """Counts the seconds of this start, from now on as "start"; a context, which saves at its end.

    Where it ends without an error, so does the run.
    """

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
        """Says after which step this start goes on."""
        self._row["first_step"] = self._row["last_step"] = step

    def now(self, kind: str):
        """From now on the time counts as of this kind."""
        now = self._clock()
        self._row[self._kind] += max(now - self._marked, 0.0)
        self._kind, self._marked = kind, now

    def step(self, step: int, compiles: bool = False):
        """From now on the time counts as that of a step."""
        row = self._row
        again = step <= row["furthest_step"]
        self.now("compile" if compiles else "repeated" if again else "step")
        row["last_step"], row["furthest_step"] = step, max(step, row["furthest_step"])

    def share(self) -> float:
        """Returns the share of new steps in the time of all starts."""
        shares, _, _ = totals(self.rows())
        return shares["step"]

    def rows(self) -> list[dict[str, float]]:
        """Returns the rows of all starts, this one last, until now."""
        self.now(self._kind)
        return [*self._earlier, self._row]

    def save(self):
        """Writes the file, whole or not at all, if this start has taken a step."""
        rows = self.rows()
        if jax.process_index() or self._row["last_step"] == self._row["first_step"]:
            return
        with written_whole(self._path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows([{k: round(v, 3) for k, v in row.items()} for row in rows])


def read_goodput(path: pathlib.Path) -> list[dict[str, float]]:
    """Returns the rows of a goodput.csv; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{column: float(row.get(column) or 0.0) for column in COLUMNS} for row in rows]


def totals(rows: list[dict[str, float]]) -> tuple[dict[str, float], float, float]:
    """Returns (share of each kind, seconds of all starts, seconds between them)."""
    seconds = {kind: sum(row[kind] for row in rows) for kind in KINDS}
    total = sum(seconds.values())
    shares = {kind: value / max(total, 1e-9) for kind, value in seconds.items()}
    return shares, total, sum(row["before"] for row in rows)
