"""Times the training steps of several configs.

A study converts its time budget to a number of steps before training, so that learning-rate
schedules end when the time does.
"""

import time

import jax

from dlms_jax.config import Config
from dlms_jax.data.feed.dataset import Dataset
from dlms_jax.data.feed.loader import train_batches
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.parallel.mesh import local_rows, make_mesh, to_global
from dlms_jax.training.assembly import assemble

_ROUNDS, _STEPS = 5, 6  # rounds, and steps of each config per round


def seconds_per_step(configs: dict[str, Config], dataset: Dataset) -> dict[str, float]:
    """Returns the mean seconds of a training step of each config, on the dataset's batches.

    The configs take turns, so that a drift in the machine's speed affects all of them. It is the
    mean, not the median, because self-conditioning makes random steps of Gaussian diffusion longer.
    The trained weights are discarded.
    """
    steppers = {name: _Stepper(config, dataset) for name, config in configs.items()}
    for stepper in steppers.values():
        stepper.run(2)  # compiles; the second step is the first one on a state that a step returned
    spent = dict.fromkeys(configs, 0.0)
    for _ in range(_ROUNDS):
        for name, stepper in steppers.items():
            spent[name] += stepper.run(_STEPS)
    return {name: seconds / (_ROUNDS * _STEPS) for name, seconds in spent.items()}


class _Stepper:
    """The train step of a config, with its state and its position in the data."""

    def __init__(self, config: Config, dataset: Dataset):
        self._mesh = make_mesh(config.mesh)
        assembly = assemble(config, vocabulary_of(dataset.tokenizer), self._mesh)
        self._state, self._step = assembly.initial_state(), assembly.step()
        rows = local_rows(self._mesh, config.training.batch_size)
        self._batches = train_batches(dataset, config, rows)
        self._done = 0

    def run(self, steps: int) -> float:
        """Takes steps and returns their total time in seconds."""
        begun = time.perf_counter()
        for _ in range(steps):
            rows = to_global(self._batches[self._done], self._mesh)
            self._state, metrics = self._step(self._state, (), rows)
            self._done += 1
        jax.block_until_ready(metrics)
        return time.perf_counter() - begun
