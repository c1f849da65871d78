"""Going back to a good checkpoint, past which the batches that broke the run are left out.

The batch of step s is number s - 1 + offset: each rollback adds to the offset as many as it leaves
out. Rollbacks stand in the checkpoints made after them. A run that is killed between a rollback and
its next checkpoint comes to the same bad steps, and rolls back in the same way.
"""

from typing import NamedTuple


class Rollback(NamedTuple):
    """From step `last_bad` back to the checkpoint of step `to`; bad from step `first_bad` on."""

    to: int
    first_bad: int
    last_bad: int

    @property
    def left_out(self) -> int:
        """Returns how many batches are not read again."""
        return self.last_bad - self.to


class Rollbacks:
    """Those of a run so far."""

    def __init__(self, made: list[dict[str, int]] = ()):
        """made: as `saved` gives them."""
        self.made = [Rollback(**one) for one in made]

    @property
    def offset(self) -> int:
        """Returns how many batches have been left out."""
        return sum(one.left_out for one in self.made)

    def saved(self) -> list[dict[str, int]]:
        """Returns what a checkpoint keeps of them."""
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
