"""A checkpoint: a folder that suffices to resume, sample, evaluate or convert a run.

WORKDIR/checkpoints/STEP/ holds Orbax items: params, ema (if the run keeps a moving average), rest
(optimizer state and counters), recent (if the run detects spikes), and metadata as JSON (format,
config, tokenizer, data fingerprints, versions, rollbacks, frozen weights, and digests of all arrays
and of itself). Metadata of older formats (config/formats.py) is migrated when it is read.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import logging
import pathlib
import platform
from typing import Any

import jax
import orbax.checkpoint as ocp

from dlms_jax.checkpoints.digests import damaged, digests_of
from dlms_jax.config import FORMAT, Config, NewerFormatError, from_dict, upgrade_run
from dlms_jax.data import tokenizers
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.errors import UserError

# Orbax logs a dozen lines per save, and the stacks of errors that it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)

FOLDER = "checkpoints"
_METADATA = "metadata"
_METADATA_0 = "about"  # its name in format 0
_DIGEST, _DIGESTS = "sha256", "digests"  # keys of the metadata: its own digest; those of arrays


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The folder of one step and its metadata."""

    folder: pathlib.Path
    metadata: dict[str, Any]

    @property
    def step(self) -> int:
        """Returns the number of its training step."""
        return step_of(self.folder)

    @functools.cached_property
    def config(self) -> Config:
        """Returns the config of the run that wrote it."""
        return from_dict(self.metadata["config"])

    @property
    def frozen(self) -> dict[str, str] | None:
        """Returns the path and SHA-256 of the frozen weights that its loss used, or None."""
        return self.metadata.get("frozen")

    @property
    def portable_config(self) -> Config:
        """Returns its config, adapted to these devices by `portable`."""
        return portable(self.config)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Returns the tokenizer of the run that wrote it."""
        return tokenizers.from_dict(self.metadata["tokenizer"])

    @property
    def weights(self) -> pathlib.Path:
        """Returns the folder of the moving average if there is one, else of the parameters."""
        return self.folder / ("ema" if (self.folder / "ema").is_dir() else "params")

    def parameter_shapes(self) -> Any:
        """Returns the parameter tree as ShapeDtypeStructs, from the checkpoint's index."""
        with readable(self.folder):
            saved = ocp.StandardCheckpointer().metadata(self.weights).item_metadata.tree
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), saved)

    def load_params(self, abstract: Any) -> Any:
        """Returns the weights.

        Args:
          abstract: the tree of `parameter_shapes`, with shardings (parallel/rules.py:abstract).

        Raises:
          UserError: they cannot be read, or an array is not the one that was saved.
        """
        with readable(self.folder):
            params = ocp.StandardCheckpointer().restore(self.weights, abstract)
            if has_digests(self.metadata) and self.config.checkpoint.verify:
                check_arrays({self.weights.name: params}, self.metadata)
            return params


def portable(config: Config) -> Config:
    """Returns the config with the attention kernel chosen by the devices, to run on any kind."""
    model = dataclasses.replace(config.model, attention="auto")
    return dataclasses.replace(config, model=model)


def open_checkpoint(path: str | pathlib.Path) -> Checkpoint:
    """Returns the checkpoint in a folder.

    Args:
      path: as in `find_checkpoint`.

    Raises:
      UserError: there is no checkpoint, or its metadata cannot be read.
    """
    folder = find_checkpoint(path)
    return Checkpoint(folder, load_metadata(folder))


def find_checkpoint(path: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder of one step.

    Args:
      path: that folder; or a run's workdir or its checkpoints folder, for the newest step.

    Raises:
      UserError: there is no checkpoint.
    """
    path = pathlib.Path(path).absolute()
    if _metadata_of(path):
        return path
    for folder in (path / FOLDER, path):
        if steps := step_folders(folder):
            return steps[-1]
    raise UserError(
        f"no checkpoint at {path}; give the --workdir of a training run, "
        "or one of its checkpoints/STEP"
    )


def newest_readable(workdir: pathlib.Path) -> Checkpoint | None:
    """Returns the newest checkpoint of a workdir with readable metadata, or None.

    Raises:
      NewerFormatError: a newer version of this program wrote it.
    """
    for folder in reversed(step_folders(workdir / FOLDER)):
        try:
            return Checkpoint(folder, load_metadata(folder))
        except NewerFormatError:
            raise
        except UserError:
            continue
    return None


def load_metadata(step_folder: pathlib.Path) -> dict[str, Any]:
    """Returns the metadata of a checkpoint in the current format.

    Raises:
      NewerFormatError: a newer version of this program wrote it.
      UserError: it cannot be read.
    """
    with readable(step_folder):
        item = _metadata_of(step_folder) or step_folder / _METADATA
        metadata = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(item)
        current = upgrade_run(metadata, step_folder)
        digest = metadata.pop(_DIGEST, None)  # None: an older version wrote it
        if digest not in (None, _digest(metadata)):
            raise UserError(f"{item} is damaged: it is not what was saved")
        return {key: value for key, value in current.items() if key != _DIGEST}


def checkpoint_items(arrays: dict[str, Any], metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns the Orbax arguments of the items of a checkpoint, by name.

    A collective: every process must call it, since all of them have a part of the digests.

    Args:
      arrays: trees of arrays, by the name of their folder: params, ema, rest, ...
      metadata: what to save beside them.
    """
    metadata = metadata | {
        "format": FORMAT,
        _DIGESTS: {name: digests_of(tree) for name, tree in arrays.items()},
    }
    items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
    return items | {_METADATA: ocp.args.JsonSave(metadata | {_DIGEST: _digest(metadata)})}


def check_arrays(arrays: dict[str, Any], metadata: dict[str, Any]):
    """Checks loaded arrays by the digests in the metadata, if they have any.

    A collective, as `checkpoint_items`.

    Raises:
      UserError: an array is not the one that was saved.
    """
    for name, tree in arrays.items():
        saved = metadata.get(_DIGESTS, {}).get(name)
        if saved is not None and (found := damaged(tree, saved)):
            more = f" and {len(found) - 1} more arrays are" if len(found) > 1 else " is"
            raise UserError(f"{name}/{found[0]}{more} damaged: not what was saved")


def has_digests(metadata: dict[str, Any]) -> bool:
    """Returns whether the arrays of a checkpoint can be checked."""
    return _DIGESTS in metadata


def _digest(metadata: dict[str, Any]) -> str:
    text = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def save_weights(workdir: pathlib.Path, step: int, params: Any, metadata: dict[str, Any]):
    """Writes a checkpoint of weights only, from which a run can start, but not resume.

    Args:
      workdir: the folder to write to.
      step: the number of the step.
      params: the weights.
      metadata: config, tokenizer, data fingerprints, versions.

    Raises:
      UserError: the checkpoint cannot be written.
    """
    items = checkpoint_items({"params": params}, metadata)
    folder = (workdir / FOLDER).absolute()
    try:
        with ocp.CheckpointManager(folder) as manager:
            manager.save(step, args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax and TensorStore raise various errors on a full disk
        raise UserError(f"cannot write a checkpoint to {folder} ({first_line(error)})") from None


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that compute a checkpoint."""
    names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def step_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of complete checkpoints in a run's checkpoints/, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if p.name.isdigit() and _metadata_of(p)]
    return sorted(found, key=step_of)


def step_of(folder: pathlib.Path) -> int:
    """Returns the step of a checkpoint's folder."""
    return int(folder.name)


def _metadata_of(step_folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder of a checkpoint's metadata; None if it is not a checkpoint."""
    items = (step_folder / name for name in (_METADATA, _METADATA_0))
    return next((item for item in items if item.is_dir()), None)


@contextlib.contextmanager
def readable(step_folder: pathlib.Path) -> Iterator[None]:
    """Converts errors of reading a checkpoint to a UserError, which lists the other steps."""
    try:
        yield
    except NewerFormatError:
        raise
    except Exception as error:  # Orbax and TensorStore raise various errors on damaged files
        steps = {step_of(p) for p in step_folders(step_folder.parent)} - {step_of(step_folder)}
        others = ", ".join(map(str, sorted(steps)))
        raise UserError(
            f"the checkpoint {step_folder} cannot be read ({first_line(error)})"
            + (f"; other steps: {others}" if others else "")
        ) from None


def first_line(error: Exception) -> str:
    """Returns an error of Orbax or TensorStore in one line."""
    if isinstance(error, UserError):
        return str(error)
    if "No space left on device" in str(error):
        return "no space left on the device"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
