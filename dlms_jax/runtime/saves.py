"""The saves of a run, and the rollbacks that go back to them."""

from collections.abc import Callable

import jax

from dlms_jax.errors import UserError
from dlms_jax.parallel import hosts
from dlms_jax.runtime.checkpoint_manager import Checkpoints
from dlms_jax.runtime.local_saves import LocalSaves
from dlms_jax.runtime.rollback import BadSteps, Rollback, Rollbacks
from dlms_jax.runtime.setup import Setup
from dlms_jax.training.state import TrainState


class Saves:
    """Saves states with their metadata, and restores them."""

    def __init__(self, setup: Setup, say: Callable[[str], None]):
        """Raises UserError if the processes do not share the workdir."""
        config, workdir = setup.config.checkpoint, setup.workdir
        workdir.mkdir(parents=True, exist_ok=True)
        hosts.check_shared(workdir)
        local = None
        if config.local_directory:
            local = LocalSaves(config, setup.metadata["run"], setup.mesh)
        self.checkpoints = Checkpoints(workdir, config, say, local)
        self.rollbacks = Rollbacks()
        self._setup, self._say = setup, say

    def newest(self) -> TrainState | None:
        """Returns the newest state that can be read; None if nothing was saved."""
        restored = self.checkpoints.restore_latest(self._setup.assembly.state)
        if restored is None:
            return None
        state, metadata = restored
        self.rollbacks = Rollbacks(metadata.get("rollbacks", []))
        return state

    def save(self, step: int, state: TrainState, bound: float | None):
        """Starts to save a checkpoint. bound: by which the best are kept; None: not evaluated."""
        metadata = self._setup.metadata
        if made := self.rollbacks.saved():
            metadata = metadata | {"rollbacks": made}
        self.checkpoints.save(step, state, metadata, bound)

    def save_locally(self, step: int, state: TrainState):
        """Starts to save to the machines' own disks."""
        self.checkpoints.save_locally(step, state, self.rollbacks.offset)

    def roll_back(self, state: TrainState, bad: BadSteps) -> TrainState:
        """Returns the last good state; the batches since it, up to the last bad one, are left out.

        Raises:
          UserError: there is none, or the run was rolled back as often as it may be.
        """
        config, what = self._setup.config, str(bad)
        allowed = len(self.rollbacks.made) < config.training.max_rollbacks
        to = self.checkpoints.go_back(bad.first, config.checkpoint.every) if allowed else None
        if to is None:
            raise UserError(self._no_way_back(bad))
        jax.tree.map(lambda x: x.delete(), state)  # there may be no room for two
        restored = self.checkpoints.restore_latest(self._setup.assembly.state)
        assert restored is not None  # `go_back` has found the checkpoint `to`
        self.rollbacks.made.append(Rollback(to, bad.first, bad.last))
        self._say(
            f"{what}: rolling back to step {to} ({len(self.rollbacks.made)} of at most "
            f"{config.training.max_rollbacks}), leaving out the batches of the {bad.last - to} "
            "steps since"
        )
        return restored[0]

    def _no_way_back(self, bad: BadSteps) -> str:
        self.checkpoints.wait()
        latest = self.checkpoints.latest_step()
        good = self.checkpoints.path(latest) if latest else "none yet"
        rows = self._setup.batches.rows_of(bad.first - 1 + self.rollbacks.offset)
        return (
            f"{bad}; the weights were last updated at step {bad.first - 1}; rolled back before: "
            f"{len(self.rollbacks.made)} times; last checkpoint: {good}; (corpus, row) of step "
            f"{bad.first}: {rows}; lower config.optimizer.peak_learning_rate"
        )
