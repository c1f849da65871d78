"""The metrics of a run: to metrics.csv and TensorBoard, and as a line on the console."""

from collections.abc import Mapping

import jax
from rich.console import Console

from dlms_jax.runtime.metric_writer import make_writer
from dlms_jax.runtime.progress import Clock, Progress
from dlms_jax.runtime.setup import Setup
from dlms_jax.training import router
from dlms_jax.training.optimizer import learning_rate


class RunLog:
    """A context that writes the metrics of the steps after `first`."""

    def __init__(self, setup: Setup, console: Console, first: int, peak_flops: float):
        config, steps = setup.config, setup.config.training.steps
        self._setup, self._peak = setup, peak_flops
        self._rate = learning_rate(config.optimizer, steps, config.optimizer.peak_learning_rate)
        self._progress, self._clock = Progress(console, steps), Clock(first, steps)
        mixture = [f"epoch/{name}" for name in config.data.mixture]
        routers = router.METRICS if config.model.experts else ()
        columns = [*mixture, *routers, "rollbacks", "goodput"]
        self._writer = make_writer(setup.workdir, first, columns)

    def __enter__(self):
        settings = self._setup.metadata["config"].items()
        self._writer.write_hparams({section: str(values) for section, values in settings})
        self._progress.__enter__()
        return self

    def __exit__(self, *error):
        self._progress.__exit__(*error)
        self._writer.close()

    def start_clock(self, step: int):
        """Times the steps after `step`, and no other."""
        self._clock = Clock(step, self._setup.config.training.steps)

    def continue_clock(self, step: int):
        """Continues to time after `step`; what came since the last row is not training time."""
        self._clock.go_on(step)

    def metrics(
        self, step: int, values: Mapping[str, jax.Array], left_out: int = 0
    ) -> dict[str, float]:
        """Returns the metrics of a step and what follows from them: rate, epochs, speed.

        Args:
          step: the steps done.
          values: what the train step returned.
          left_out: the batches that rollbacks left out.
        """
        metrics = {name: float(value) for name, value in jax.device_get(values).items()}
        assembly, speed = self._setup.assembly, self._clock.steps_per_second(step)
        flops = assembly.flops * speed
        return metrics | {
            "learning_rate": float(self._rate(step - 1 - metrics["skipped"])),
            "tokens": float(step * assembly.tokens),
            **self._epochs(step + left_out),
            "tokens_per_second": assembly.tokens * speed,
            "flops_per_second": flops,
            "mfu": flops / self._peak,
            "seconds": self._clock.seconds(),
        }

    def write(self, step: int, metrics: Mapping[str, float]):
        """Writes and shows the metrics of a step."""
        self._writer.write_scalars(step, metrics)
        self._progress.show(step, metrics, self._clock.seconds_left(step))

    def write_sample(self, step: int, sample: str):
        self._writer.write_texts(step, {"sample": sample})

    def go_back(self, step: int):
        """Drops the rows after `step`, to which the run was rolled back."""
        self._writer.go_back(step)

    def _epochs(self, batches: int) -> dict[str, float]:
        """Returns how often the corpus was seen; of a mixture, each corpus and the largest."""
        epochs = self._setup.batches.epochs(batches)
        names = [f"epoch/{name}" for name in self._setup.config.data.mixture]
        return {"epoch": max(epochs), **dict(zip(names, epochs, strict=False))}
