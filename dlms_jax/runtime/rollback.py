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


def bad_steps(done: int, in_a_row: int, at_most: int) -> tuple[int, int] | None:
    """Returns the first and last of `at_most` bad steps in a row, where there are so many.

    Once there are, all later steps count as bad (training/step.py), so that what is found does not
    depend on when one looks.
    """
    if in_a_row < at_most:
        return None
    first = done - in_a_row + 1
    return first, first + at_most - 1
