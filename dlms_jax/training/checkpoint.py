"""Checkpoints: a directory that is enough to resume, sample, evaluate or convert.

WORKDIR/checkpoints/STEP/ holds, through orbax: params, ema (where there is one), rest (optimizer
state and counters), recent (where spikes are looked for), and about (config, tokenizer, data
fingerprints, versions, rollbacks, as JSON).
"""

from collections.abc import Callable
import contextlib
import dataclasses
import gc
import importlib.metadata
import logging
import pathlib
import platform
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from dlms_jax.config import CheckpointConfig, Config, from_dict
from dlms_jax.errors import UserError
from dlms_jax.parallel import hosts
from dlms_jax.training.local_saves import LocalSaves
from dlms_jax.training.rollback import Rollbacks
from dlms_jax.training.spikes import nothing_seen
from dlms_jax.training.state import TrainState

# Orbax logs a dozen lines for each save, and whole stacks for what it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)

FOLDER = "checkpoints"
_BROKEN = "checkpoints_broken"
_HALF_WRITTEN = ".orbax-checkpoint-tmp"


class Checkpoints:
    """The checkpoints of a run that is being trained. Saves are asynchronous and atomic: a
    directory has its final name only when all of it is on disk."""

    def __init__(
        self, workdir: pathlib.Path, config: CheckpointConfig, say: Callable[[str], None],
        local: LocalSaves | None = None,
    ):  # fmt: skip
        """say: where to report checkpoints that could not be used. local: where the saves between
        them go."""
        self._folder = (workdir / FOLDER).absolute()
        self._say, self._local = say, local
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

    def save(self, step: int, state: TrainState, about: dict[str, Any], bound: float | None):
        """Starts to save; returns as soon as the state is copied. bound: what 'best' goes by."""
        items = {name: ocp.args.StandardSave(tree) for name, tree in _items(state).items()}
        items["about"] = ocp.args.JsonSave(about)
        metrics = None if bound is None else {"bound": bound}
        needed = sum(x.nbytes for x in jax.tree.leaves(state)) // jax.process_count()
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise self._cannot_write(
                f"it takes up to {needed / 2**20:.0f} MiB, of which {free / 2**20:.0f} are free"
            )
        with self._writable():
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)

    def save_locally(self, step: int, state: TrainState, left_out: int):
        """Starts to save to the machines' own disks; returns as soon as the state is copied."""
        with self._writable(self._local.folder):
            self._local.save(step, state, left_out)

    def restore_latest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Returns (state, about) of the newest checkpoint that can be read; None where none is.

        Where the machines' own saves are newer, and whole, the state is theirs.
        One that cannot be read is named, moved aside to WORKDIR/checkpoints_broken, and the one
        before it is tried. Where none can be read, UserError: a run is never silently begun anew.
        """
        if self._local:
            if found := self._restore_locally(abstract):
                return found
            self._forget_local_saves()  # they would be in the way of the next ones
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            path = self.path(step)
            restored, why = None, "by another process"
            try:
                restored = self._restore(step, abstract)
            except Exception as error:  # orbax and tensorstore raise all kinds on damaged files
                why = _first_line(error)
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
        """Deletes the checkpoints from step `before` on, and those after the newest one before it
        that `every` calls for (an interruption leaves others); returns the newest that is left.

        Where there is none before it, None, and nothing is deleted.
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
        """Returns whether a save is not yet on disk."""
        return self._manager.is_saving_in_progress()

    def wait(self):
        """Returns when all saves are on disk."""
        if self._local:
            with self._writable(self._local.folder):
                self._local.wait()
        with self._writable():
            self._manager.wait_until_finished()

    def finish(self):
        """Returns when all saves are on disk and the machines' own, of no more use, deleted."""
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
        """Turns what goes wrong in a save, here or in its background thread, into one line."""
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise all kinds on a full disk
            said = _first_line(error)
        else:
            return
        gc.collect()  # of the unfinished writes, which would complain when the process ends
        raise self._cannot_write(said, folder)

    def _cannot_write(self, why: str, folder: pathlib.Path | None = None) -> UserError:
        whole = [_step_of(folder) for folder in _step_folders(self._folder)]
        after = f"goes on after step {max(whole)}" if whole else "begins anew"
        return UserError(
            f"cannot write a checkpoint to {folder or self._folder} ({why}); free some space there "
            f"or mend it, then run the same command, which {after}"
        )

    def _forget_local_saves(self):
        with self._writable(self._local.folder):
            self._local.forget()

    def _restore_locally(self, abstract):
        """Returns (state, about) where the machines' own saves are newer than the checkpoints."""
        shared, step = self._manager.latest_step(), self._local.latest_step()
        if shared is None or step is None or step <= shared:
            return None
        about, state = None, None
        with contextlib.suppress(UserError):
            about = load_about(self.path(shared))
        if hosts.on_all(about is not None):
            left_out = Rollbacks(about.get("rollbacks", [])).offset
            state = self._local.restore(step, abstract, left_out)
        if state is None:
            self._say(f"the machines' own saves of step {step} cannot be used")
            return None
        self._say(f"step {step} is the machines' own save; {self._folder} ends with step {shared}")
        return state, about

    def _restore(self, step, abstract):
        wanted = _items(abstract)
        fresh = "recent" in wanted and not (self.path(step) / "recent").is_dir()
        if fresh:  # the run did not look for spikes before
            recent = wanted.pop("recent")["recent"]
        items = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        items["about"] = ocp.args.JsonRestore()
        saved = self._manager.restore(step, args=ocp.args.Composite(**items))
        state = TrainState(
            jax.device_put(jax.numpy.int32(step), abstract.step.sharding),
            saved["params"],
            saved["ema"] if abstract.ema is not None else None,
            **saved["rest"],
            **(saved["recent"] if "recent" in wanted else {}),
        )
        if fresh:
            state = state._replace(recent=jax.device_put(nothing_seen(), recent.sharding))
        return state, saved["about"]


def _items(state: TrainState) -> dict[str, Any]:
    """Returns what is saved of a state, by the name of its directory."""
    rest = ("optimizer", "skipped", "skipped_in_a_row")
    items = {"params": state.params, "rest": {name: getattr(state, name) for name in rest}}
    if state.ema is not None:
        items["ema"] = state.ema
    if state.recent is not None:
        items["recent"] = {"recent": state.recent}
    return items


def find_checkpoint(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the directory of one step, from it, from a run's workdir (its newest step) or from
    the folder between them."""
    path = pathlib.Path(path).absolute()
    if (path / "about").is_dir():
        return path
    for folder in (path / FOLDER, path):
        if steps := _step_folders(folder):
            return max(steps, key=_step_of)
    raise UserError(
        f"no checkpoint at {path}; give the --workdir of a training run, "
        "or one of its checkpoints/STEP"
    )


def check_resumable(workdir: pathlib.Path):
    """Raises UserError where the newest checkpoint of a workdir holds weights alone."""
    steps = sorted(_step_folders(workdir / FOLDER), key=_step_of)
    if steps and not (steps[-1] / "rest").is_dir():
        raise UserError(
            f"{steps[-1]} holds weights alone, with no optimizer to go on with; start from it: "
            f"--config.training.start_from={workdir}, with another --workdir"
        )


def newest_about(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns what the newest checkpoint of a workdir that can be read says of its run; None where
    there is none."""
    for folder in sorted(_step_folders(workdir / FOLDER), key=_step_of, reverse=True):
        with contextlib.suppress(UserError):
            return load_about(folder)
    return None


def save_weights(workdir: pathlib.Path, step: int, params: Any, about: dict[str, Any]):
    """Writes a checkpoint of weights alone: enough to sample, evaluate, convert and start from, but
    not to go on with a run."""
    items = {"params": ocp.args.StandardSave(params), "about": ocp.args.JsonSave(about)}
    folder = (workdir / FOLDER).absolute()
    try:
        with ocp.CheckpointManager(folder) as manager:
            manager.save(step, args=ocp.args.Composite(**items))
    except Exception as error:  # orbax and tensorstore raise all kinds on a full disk
        raise UserError(f"cannot write a checkpoint to {folder} ({_first_line(error)})") from None


def load_about(step_folder: pathlib.Path) -> dict[str, Any]:
    """Returns what a checkpoint says of itself: config, tokenizer, data, versions."""
    with _readable(step_folder):
        return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(step_folder / "about")


def config_of(about: dict[str, Any]) -> Config:
    """Returns the config that a checkpoint was trained with, for devices of any kind: whatever
    kernel attention had there, here it is what the devices have."""
    config = from_dict(about["config"])
    return dataclasses.replace(config, model=dataclasses.replace(config.model, attention="auto"))


def load_params(step_folder: pathlib.Path, abstract) -> Any:
    """Returns the weights: the moving average where the run kept one, else the parameters."""
    with _readable(step_folder):
        return ocp.StandardCheckpointer().restore(_weights(step_folder), abstract)


def shapes_of_params(step_folder: pathlib.Path) -> Any:
    """Returns the tree of what `load_params` reads, whose leaves have a shape."""
    with _readable(step_folder):
        return ocp.StandardCheckpointer().metadata(_weights(step_folder)).item_metadata.tree


def versions() -> dict[str, str]:
    """Returns the versions of what computed a checkpoint."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def _weights(step_folder: pathlib.Path) -> pathlib.Path:
    return step_folder / ("ema" if (step_folder / "ema").is_dir() else "params")


def _step_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if p.name.isdigit() and (p / "about").is_dir()]


def _step_of(folder: pathlib.Path) -> int:
    return int(folder.name)


@contextlib.contextmanager
def _readable(step_folder):
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise all kinds on damaged files
        others = {_step_of(p) for p in _step_folders(step_folder.parent)} - {_step_of(step_folder)}
        others = ", ".join(map(str, sorted(others)))
        raise UserError(
            f"the checkpoint {step_folder} cannot be read ({_first_line(error)})"
            + (f"; beside it are steps {others}" if others else "")
        ) from None


def _unused(path: pathlib.Path) -> pathlib.Path:
    number = 0
    while path.exists():
        number += 1
        path = path.with_name(f"{path.name.split('-')[0]}-{number}")
    return path


def _first_line(error: Exception) -> str:
    if "No space left on device" in str(error):
        return "no space left on the device"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
