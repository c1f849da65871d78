"""Trainer: trains a run from a Config, or resumes it.

Example:

    Trainer(workdir="runs/tiny").train(load_config("configs/tiny.py"))
    Trainer().resume("runs/tiny")
"""

import pathlib

from rich.console import Console

from dlms_jax.checkpoints.checkpoint import find_checkpoint, open_checkpoint
from dlms_jax.config import Config, from_dict
from dlms_jax.errors import UserError
from dlms_jax.parallel import hosts
from dlms_jax.plot import draw_curves
from dlms_jax.runtime.run import Run


class Trainer:
    """Trains in a workdir and reports to a rich console."""

    def __init__(
        self,
        workdir: str | pathlib.Path | None = None,
        console: Console | None = None,
        profile_steps: tuple[int, int] | None = None,
    ):
        """Makes a trainer.

        Args:
          workdir: the run's folder. None: runs/NAME, with the config's name.
          console: prints progress. None: standard output.
          profile_steps: the first and last step to trace, to WORKDIR/profile.
        """
        self._workdir, self._profile_steps = workdir, profile_steps
        self._console = console or Console(soft_wrap=True, quiet=not hosts.is_first())

    def train(self, config) -> dict[str, float]:
        """Trains a Config (or ConfigDict) to its last step and returns the final metrics.

        Resumes from the newest checkpoint in the workdir, if there is one.

        Raises:
          UserError: the config cannot be trained here.
          Interrupted: SIGTERM or Ctrl-C stopped the run; its state is saved.
        """
        config = from_dict(config)
        return self._run(config, pathlib.Path(self._workdir or pathlib.Path("runs") / config.name))

    def resume(self, checkpoint_path: str | pathlib.Path) -> dict[str, float]:
        """Resumes a run with its own config and returns the final metrics.

        Args:
          checkpoint_path: the run's workdir, or its newest checkpoints/STEP.

        Raises:
          UserError: there is no such checkpoint, or the run cannot be trained here.
          Interrupted: SIGTERM or Ctrl-C stopped the run; its state is saved.
        """
        checkpoint = open_checkpoint(checkpoint_path)
        workdir = checkpoint.folder.parent.parent
        newest = find_checkpoint(workdir)
        if newest != checkpoint.folder:
            raise UserError(
                f"{checkpoint.folder} is not the newest checkpoint of its run; that is {newest}"
            )
        return self._run(checkpoint.config, workdir)

    def _run(self, config: Config, workdir: pathlib.Path) -> dict[str, float]:
        metrics = Run(config, workdir, self._console, self._profile_steps).train()
        if hosts.is_first():
            draw_curves([workdir])
        return metrics
