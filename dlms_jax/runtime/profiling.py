"""A trace of some steps, for xprof."""

import pathlib

import jax

from dlms_jax.errors import UserError


def steps_to_profile(text: str | None) -> tuple[int, int] | None:
    """Returns (first, last) of "A-B"; None of None."""
    if text is None:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UserError(
            f"--profile_steps={text} should be FIRST-LAST, two steps; for example 20-25"
        )
    return int(first), int(last)


def check_profile(steps: tuple[int, int] | None, done: int, last: int):
    """Raises UserError if the steps to trace are not among those after `done`, up to `last`."""
    if steps and not done < steps[0] <= steps[1] <= last:
        raise UserError(
            f"--profile_steps={steps[0]}-{steps[1]} are not among the steps that are left, "
            f"{done + 1}-{last}"
        )


class Profile:
    """A context that traces the steps of a range, each process its own devices."""

    def __init__(
        self, workdir: pathlib.Path, steps: tuple[int, int] | None, begun: int, last: int, say
    ):
        """
        Args:
          workdir: the trace goes to its folder profile.
          steps: the first and last step to trace; None: no trace.
          begun: the last step that is already done.
          last: the last step of the run.
          say: prints a line.

        Raises:
          UserError: `steps` are not among the steps that are left.
        """
        check_profile(steps, begun, last)
        self._folder, self._steps, self._say = workdir / "profile", steps, say
        self._runs = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._runs:
            self._stop("the run ended")

    def before(self, step: int):
        """Starts the trace if `step` is the first to be traced."""
        if self._steps and step == self._steps[0] and not self._runs:
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._folder))
            self._runs = True

    def after(self, step: int, results):
        """Ends the trace if `step` was the last to be traced, once its results are there."""
        if self._steps and self._runs and step >= self._steps[1]:
            jax.block_until_ready(results)
            self._stop(f"steps {self._steps[0]}-{self._steps[1]}")

    def _stop(self, what):
        jax.profiler.stop_trace()
        self._runs = False
        self._say(
            f"profile ({what}): {self._folder}; to open it: pip install xprof && "
            f"xprof --logdir={self._folder} --port=6006"
        )
