"""One checkpoint: a folder that is enough to resume, sample, evaluate or convert.

WORKDIR/checkpoints/STEP/ holds, through orbax: params, ema (if the run keeps a moving average),
rest (optimizer state and counters), recent (if the run looks for spikes), and metadata (config,
tokenizer, data fingerprints, versions, rollbacks, frozen weights, as JSON).
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import importlib.metadata
import logging
import pathlib
import platform
from typing import Any

import jax
import orbax.checkpoint as ocp

from dlms_jax.config import Config, from_dict
from dlms_jax.data import tokenizers
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError

# Orbax logs a dozen lines for each save, and whole stacks for errors that it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)

FOLDER = "checkpoints"
METADATA = "about"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The folder of one step, and its metadata."""

    folder: pathlib.Path
    metadata: dict[str, Any]

    @property
    def step(self) -> int:
        return step_of(self.folder)

    @functools.cached_property
    def config(self) -> Config:
        """The config of the run that wrote it."""
        return from_dict(self.metadata["config"])

    @property
    def frozen(self) -> dict[str, str] | None:
        """The path and SHA-256 of the weights that its loss read and did not train; None where
        there were none."""
        return self.metadata.get("frozen")

    @property
    def portable_config(self) -> Config:
        """`portable` of its config."""
        return portable(self.config)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        return tokenizers.from_dict(self.metadata["tokenizer"])

    @property
    def weights(self) -> pathlib.Path:
        """The folder of the weights: the moving average if there is one, else the parameters."""
        return self.folder / ("ema" if (self.folder / "ema").is_dir() else "params")

    def parameter_shapes(self) -> Any:
        """Returns the parameter tree as ShapeDtypeStructs, from the checkpoint's own index."""
        with readable(self.folder):
            saved = ocp.StandardCheckpointer().metadata(self.weights).item_metadata.tree
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved)

    def load_params(self, abstract: Any) -> Any:
        """Returns the weights.

        Args:
          abstract: the tree of `parameter_shapes`, with shardings (parallel/rules.py:abstract).
        """
        with readable(self.folder):
            return ocp.StandardCheckpointer().restore(self.weights, abstract)


def portable(config: Config) -> Config:
    """Returns a config for devices of any kind: attention uses the kernel that these devices have,
    whatever kernel the run was set to."""
    model = dataclasses.replace(config.model, attention="auto")
    return dataclasses.replace(config, model=model)


def open_checkpoint(path: str | pathlib.Path) -> Checkpoint:
    """Returns the checkpoint of a run's workdir (its newest step) or of one of its steps.

    Raises:
      UserError: there is no checkpoint, or its metadata cannot be read.
    """
    folder = find_checkpoint(path)
    return Checkpoint(folder, load_metadata(folder))


def find_checkpoint(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of one step, given that folder, a run's workdir (its newest step) or the
    folder between them."""
    path = pathlib.Path(path).absolute()
    if (path / METADATA).is_dir():
        return path
    for folder in (path / FOLDER, path):
        if steps := step_folders(folder):
            return steps[-1]
    raise UserError(
        f"no checkpoint at {path}; give the --workdir of a training run, "
        "or one of its checkpoints/STEP"
    )


def newest_readable(workdir: pathlib.Path) -> Checkpoint | None:
    """Returns the newest checkpoint of a workdir whose metadata can be read; None if there is
    none."""
    for folder in reversed(step_folders(workdir / FOLDER)):
        with contextlib.suppress(UserError):
            return Checkpoint(folder, load_metadata(folder))
    return None


def load_metadata(step_folder: pathlib.Path) -> dict[str, Any]:
    """Returns the metadata of a checkpoint: config, tokenizer, data, versions."""
    with readable(step_folder):
        return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(step_folder / METADATA)


def save_weights(workdir: pathlib.Path, step: int, params: Any, metadata: dict[str, Any]):
    """Writes a checkpoint of weights only: it can be sampled, evaluated, converted and started
    from, but a run cannot resume from it."""
    items = {"params": ocp.args.StandardSave(params), METADATA: ocp.args.JsonSave(metadata)}
    folder = (workdir / FOLDER).absolute()
    try:
        with ocp.CheckpointManager(folder) as manager:
            manager.save(step, args=ocp.args.Composite(**items))
    except Exception as error:  # orbax and tensorstore raise all kinds on a full disk
        raise UserError(f"cannot write a checkpoint to {folder} ({first_line(error)})") from None


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that compute a checkpoint."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def step_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of whole checkpoints in a run's checkpoints/, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdigit() and (p / METADATA).is_dir()]
    return sorted(found, key=step_of)


def step_of(folder: pathlib.Path) -> int:
    return int(folder.name)


@contextlib.contextmanager
def readable(step_folder: pathlib.Path) -> Iterator[None]:
    """Turns whatever reading a checkpoint raises into one line, which names the steps beside it."""
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise all kinds on damaged files
        others = {step_of(p) for p in step_folders(step_folder.parent)} - {step_of(step_folder)}
        others = ", ".join(map(str, sorted(others)))
        raise UserError(
            f"the checkpoint {step_folder} cannot be read ({first_line(error)})"
            + (f"; beside it are steps {others}" if others else "")
        ) from None


def first_line(error: Exception) -> str:
    """Returns what an error of orbax or tensorstore says, in one line."""
    if "No space left on device" in str(error):
        return "no space left on the device"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
