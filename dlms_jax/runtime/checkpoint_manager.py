"""The checkpoints of a run: when to save, which to keep, how to resume from them."""

from collections.abc import Callable
import contextlib
import gc
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from dlms_jax.checkpoints.checkpoint import (
    FOLDER,
    check_arrays,
    checkpoint_items,
    first_line,
    has_digests,
    load_metadata,
    step_folders,
    step_of,
)
from dlms_jax.config import CheckpointConfig, NewerFormatError
from dlms_jax.errors import UserError
from dlms_jax.parallel import hosts
from dlms_jax.runtime.local_saves import LocalSaves
from dlms_jax.runtime.rollback import Rollbacks
from dlms_jax.training.spikes import nothing_seen
from dlms_jax.training.state import TrainState

_BROKEN = "checkpoints_broken"
_HALF_WRITTEN = ".orbax-checkpoint-tmp"


class Checkpoints:
    """The checkpoints of a run that is being trained. Saves are asynchronous and atomic: a folder
    gets its final name only when all of it is on disk."""

    def __init__(
        self, workdir: pathlib.Path, config: CheckpointConfig, say: Callable[[str], None],
        local: LocalSaves | None = None,
    ):  # fmt: skip
        """
        Args:
          workdir: the run's folder.
          config: config.checkpoint.
          say: prints a line, for checkpoints that cannot be used.
          local: the saves between the checkpoints, if the run has any.
        """
        self._folder = (workdir / FOLDER).absolute()
        self._say, self._local, self._verify = say, local, config.verify
        for path in sorted(self._folder.glob(f"*{_HALF_WRITTEN}*")):
            say(f"{path} was half-written when its run ended; removed")
        best = policies.BestN(
            get_metric_fn=lambda metrics: -metrics["bound"],
            n=config.keep_best,
            keep_checkpoints_without_metrics=False,
        )
        keep = [policies.LatestN(config.keep_latest), best]
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
            ),
        )

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def path(self, step: int) -> pathlib.Path:
        return self._folder / str(step)

    def save(self, step: int, state: TrainState, metadata: dict[str, Any], bound: float | None):
        """Starts to save; returns as soon as the state is copied. bound: decides which checkpoints
        are the best; None: this one was not evaluated."""
        items = checkpoint_items(_items(state), metadata)
        metrics = None if bound is None else {"bound": bound}
        needed = sum(x.nbytes for x in jax.tree.leaves(state)) // jax.process_count()
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise self._cannot_write(
                f"it needs up to {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free"
            )
        with self._writable():
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

    def save_locally(self, step: int, state: TrainState, left_out: int):
        """Starts to save to the machines' own disks; returns as soon as the state is copied."""
        assert self._local is not None  # only a run with local saves calls it
        with self._writable(self._local.folder):
            self._local.save(step, state, left_out)

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns (state, metadata) of the newest checkpoint that can be read; None if there is no
        checkpoint.

        If the machines' own saves are newer, and whole, the state is theirs. A checkpoint that
        cannot be read is named and moved to WORKDIR/checkpoints_broken; then the one before it is
        tried.

        Raises:
          UserError: there are checkpoints, but none can be read.
        """
        if self._local:
            if found := self._restore_locally(abstract):
                return found
            self._forget_local_saves()  # the next ones would collide with them
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            path = self.path(step)
            restored, why = None, "by another process"
            try:
                restored = self._restore(step, abstract)
            except NewerFormatError:
                raise
            except Exception as error:  # Orbax and TensorStore raise many kinds
                why = first_line(error)
            if hosts.on_all(restored is not None):
                return restored
            self._say(f"{path} cannot be read ({why}); trying the one before it")
            broken = self._folder.parent / _BROKEN
            if hosts.is_first():
                broken.mkdir(exist_ok=True)
                path.rename(_unused(broken / str(step)))
            hosts.wait_for_all("moved aside")
            self._manager.reload()
        if steps:
            raise UserError(
                f"no checkpoint in {self._folder} can be read (moved to {broken}); "
                "start again with another --workdir"
            )
        return None

    def go_back(self, before: int, every: int) -> int | None:
        """Returns the newest regular checkpoint before a step, and deletes the later ones.

        Args:
          before: the first bad step.
          every: regular checkpoints are at multiples of this; an interruption leaves others, which
            count only if there is no regular one.

        Returns:
          The step; None, with nothing deleted, if there is no checkpoint before `before`.
        """
        self.wait()
        steps = sorted(self._manager.all_steps())
        good = [step for step in steps if step < before]
        regular = [step for step in good if step % every == 0]
        if not good:
            return None
        to = max(regular or good)
        if self._local:
            self._forget_local_saves()
        for step in steps:
            if step > to:
                self._manager.delete(step)
        return to

    def is_saving(self) -> bool:
        """Returns whether a save is still being written."""
        return self._manager.is_saving_in_progress()

    def wait(self):
        """Returns when all saves are on disk."""
        if self._local:
            with self._writable(self._local.folder):
                self._local.wait()
        with self._writable():
            self._manager.wait_until_finished()

    def finish(self):
        """Returns when all saves are on disk, and deletes the machines' own saves."""
        self.wait()
        if self._local:
            self._local.close(delete=True)
            self._local = None

    def close(self):
        try:
            if self._local:
                with self._writable(self._local.folder):
                    self._local.close()
        finally:
            with self._writable():
                self._manager.close()

    @contextlib.contextmanager
    def _writable(self, folder: pathlib.Path | None = None):
        """Turns an error of a save, here or in its background thread, into one line."""
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds
            said = first_line(error)
        else:
            return
        gc.collect()  # the unfinished writes would complain when the process ends
        raise self._cannot_write(said, folder)

    def _cannot_write(self, why: str, folder: pathlib.Path | None = None) -> UserError:
        whole = [step_of(folder) for folder in step_folders(self._folder)]
        after = f"resumes after step {max(whole)}" if whole else "starts again from step 0"
        return UserError(
            f"cannot write a checkpoint to {folder or self._folder} ({why}); make space there or "
            f"fix it, then run the same command, which {after}"
        )

    def _forget_local_saves(self):
        with self._writable(self._local.folder):
            self._local.forget()

    def _restore_locally(self, abstract):
        """Returns (state, metadata) of the machines' own saves if they are the newest."""
        shared, step = self._manager.latest_step(), self._local.latest_step()
        if shared is None or step is None or step <= shared:
            return None
        metadata, state = None, None
        with contextlib.suppress(UserError):
            metadata = load_metadata(self.path(shared))
        if hosts.on_all(metadata is not None):
            left_out = Rollbacks(metadata.get("rollbacks", [])).offset
            state = self._local.restore(step, abstract, left_out)
        if state is None:
            self._say(f"the machines' own saves of step {step} cannot be used")
            return None
        self._say(f"step {step} is the machines' own save; {self._folder} ends with step {shared}")
        return state, metadata

    def _restore(self, step, abstract):
        wanted = _items(abstract)
        fresh = "recent" in wanted and not (self.path(step) / "recent").is_dir()
        if fresh:  # the run did not look for spikes so far
            recent = wanted.pop("recent")["recent"]
        items = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        saved = self._manager.restore(step, args=ocp.args.Composite(**items))
        metadata = load_metadata(self.path(step))
        if not has_digests(metadata):
            self._say(f"{self.path(step)} has no digests (an older version wrote it): not checked")
        elif self._verify:
            check_arrays({name: saved[name] for name in items}, metadata)
        state = TrainState(
            jax.device_put(jax.numpy.int32(step), abstract.step.sharding),
            saved["params"],
            saved["ema"] if abstract.ema is not None else None,
            **saved["rest"],
            **(saved["recent"] if "recent" in wanted else {}),
        )
        if fresh:
            state = state._replace(recent=jax.device_put(nothing_seen(), recent.sharding))
        return state, metadata


def _items(state: TrainState) -> dict[str, Any]:
    """Returns what is saved of a state, by the name of its folder."""
    rest = ("optimizer", "skipped", "skipped_in_a_row")
    items = {"params": state.params, "rest": {name: getattr(state, name) for name in rest}}
    if state.ema is not None:
        items["ema"] = state.ema
    if state.recent is not None:
        items["recent"] = {"recent": state.recent}
    return items


def check_resumable(workdir: pathlib.Path):
    """Raises UserError if the newest checkpoint of a workdir holds weights only."""
    steps = step_folders(workdir / FOLDER)
    if steps and not (steps[-1] / "rest").is_dir():
        raise UserError(
            f"{steps[-1]} holds weights only, without the optimizer that a resume needs; start "
            f"from it: --config.training.start_from={workdir}, with another --workdir"
        )


def _unused(path: pathlib.Path) -> pathlib.Path:
    number = 0
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.split('-')[0]}-{number}")
    return path
