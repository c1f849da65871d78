"""Starts a run from the weights of another run's checkpoint."""

import pathlib
from typing import Any, NamedTuple

import jax

from dlms_jax.checkpoints.checkpoint import Checkpoint, open_checkpoint
from dlms_jax.config import SETTINGS, Config, ModelConfig, changed_settings, traits_of
from dlms_jax.errors import UserError
from dlms_jax.parallel import rules


class Start(NamedTuple):
    """The checkpoint that a run starts from.

    Attributes:
      checkpoint: the open checkpoint.
    """

    checkpoint: Checkpoint

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the checkpoint."""
        return self.checkpoint.folder

    @property
    def config(self) -> Config:
        """The config of the run that wrote the checkpoint."""
        return self.checkpoint.config

    def origin(self) -> dict[str, Any]:
        """Returns the description of the checkpoint for the metadata of the new run."""
        return {
            "path": str(self.folder),
            "step": self.folder.name,
            "name": self.config.name,
            "objective": self.config.objective.name,
        }

    def text(self, config: Config) -> str:
        """Returns the message that a run with `config` prints when it starts from the checkpoint.

        It names the settings that changed and affect the outputs.
        """
        was, now = self.config.objective.name, config.objective.name
        changed = [
            f"config.{key} was {before}, is {after}"
            for key, before, after in changed_settings(self.config, config)
            if {was, now} <= set(SETTINGS[key].computes)
        ]
        another = was != now and traits_of(config).may_shift
        if another and _says_next(self.config) != _says_next(config):
            says = "next" if _says_next(self.config) else "same"
            changed.append(
                f"config.objective.shift={config.objective.shift}, but these weights predict the "
                f"token at the {says} position"
            )
        text = f"starting from the weights of {self.folder} ({self.config.objective.name})"
        return f"{text}; {', '.join(changed)}" if changed else text


def find_start(config: Config, workdir: pathlib.Path) -> Start | None:
    """Returns the checkpoint that config.training.start_from names; None if it is not set.

    Args:
      config: the config of the new run.
      workdir: the folder of the new run.

    Raises:
      UserError: the checkpoint cannot be read, or belongs to this workdir.
    """
    path = config.training.start_from
    if not path:
        return None
    where = f"config.training.start_from={path}"
    try:
        start = Start(open_checkpoint(path))
        start.config  # noqa: B018 (raises if it cannot be read)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if start.folder.resolve().parent.parent == workdir.resolve():
        raise UserError(f"{where} is this run's own workdir; give another --workdir")
    return start


def check_fits(start: Start, shapes: Any, config: Config):
    """Checks that a checkpoint has exactly the parameters of this run's network.

    Names and shapes must be equal, and so must the numbers of heads, which the shapes do not always
    determine.

    Args:
      start: the checkpoint.
      shapes: the parameters of the network, or their shapes.
      config: the config of the new run.

    Raises:
      UserError: they differ; the message names the settings to change.
    """
    there, here = _by_path(start.checkpoint.parameter_shapes()), _by_path(shapes)
    differing = [path for path in here | there if here.get(path) != there.get(path)]
    was, now = start.config, config
    if differing:
        path = differing[0]
        more = f" (and {len(differing) - 1} more differ)" if len(differing) > 1 else ""
        what = (
            f"{path} is {_shape(there.get(path))} in the checkpoint, {_shape(here.get(path))} in "
            f"this run{more}"
        )
    elif _heads(was.model) != _heads(now.model):
        what = "it has {} heads, {} key/value heads, head size {}".format(*_heads(was.model))
    else:
        return
    objectives = {was.objective.name, now.objective.name}
    settings = ", ".join(
        f"config.{key}={before}"
        for key, before, _ in changed_settings(was, now)
        if objectives & set(SETTINGS[key].shapes)
    )
    raise UserError(
        f"config.training.start_from={now.training.start_from} does not fit: {what}; "
        + (
            f"set {settings} as in the checkpoint"
            if settings
            else "another version of this program wrote it"
        )
    )


def _says_next(config: Config) -> bool:
    """Returns whether a network's output at a position predicts the next token."""
    return config.objective.shift or traits_of(config).order == "left_to_right"


def _by_path(tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {rules.path_string(path): tuple(leaf.shape) for path, leaf in leaves}


def _heads(model: ModelConfig) -> tuple[int, int, int]:
    return model.num_heads, model.kv_heads, model.per_head


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape))
