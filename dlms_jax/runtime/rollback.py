"""Going back to a good checkpoint and leaving out the batches that broke the run.

Step s reads batch s - 1 + offset. Each rollback adds the number of batches it leaves out to the
offset. Later checkpoints record the rollbacks. A run that is killed between a rollback and its next
checkpoint reaches the same bad steps, and rolls back in the same way.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Rollback(NamedTuple):
    """From step `last_bad` back to that of the checkpoint `to`; bad from `first_bad` on."""

    to: int
    first_bad: int
    last_bad: int

    @property
    def left_out(self) -> int:
        """How many batches are not read again."""
        return self.last_bad - self.to


class Rollbacks:
    """The rollbacks of a run so far."""

    def __init__(self, made: Sequence[dict[str, int]] = ()):
        """made: what `saved` returned."""
        self.made = [Rollback(**one) for one in made]

    @property
    def offset(self) -> int:
        """How many batches have been left out."""
        return sum(one.left_out for one in self.made)

    def saved(self) -> list[dict[str, int]]:
        """Returns what a checkpoint records of them."""
        return [one._asdict() for one in self.made]


class BadSteps(NamedTuple):
    """Consecutive steps whose loss or gradient was not finite or a spike."""

    first: int
    last: int

    def __str__(self) -> str:
        return (
            f"loss or gradient was not finite or a spike for {self.last - self.first + 1} steps in "
            f"a row, from step {self.first}"
        )


def bad_steps(done: int, in_a_row: int, at_most: int) -> BadSteps | None:
    """Returns the first `at_most` of the bad steps in a row up to step `done`; None if there are
    fewer.

    After so many, all later steps count as bad (training/step.py). So the result does not depend on
    the step at which it is asked for.
    """
    if in_a_row < at_most:
        return None
    first = done - in_a_row + 1
    return BadSteps(first, first + at_most - 1)
