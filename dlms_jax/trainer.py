"""Trainer: trains a run from a Config, or goes on with it.

Use:

    Trainer(workdir="runs/tiny").train(load_config("configs/tiny.py"))
    Trainer().resume("runs/tiny")
"""

import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
from rich.console import Console

from dlms_jax.checkpoints.checkpoint import (
    find_checkpoint,
    newest_readable,
    open_checkpoint,
    versions,
)
from dlms_jax.config import Config, from_dict
from dlms_jax.data import tokenizers
from dlms_jax.data.feed.dataset import Dataset, build_dataset
from dlms_jax.data.feed.loader import train_batches
from dlms_jax.errors import UserError, optional_import
from dlms_jax.evaluation.bound import BoundEvaluator, BoundReport
from dlms_jax.model import DiffusionLM
from dlms_jax.parallel import hardware, hosts
from dlms_jax.parallel.mesh import check_rows, local_rows, make_mesh, to_global
from dlms_jax.plot import draw_curves
from dlms_jax.runtime import report
from dlms_jax.runtime.checkpoint_manager import Checkpoints, check_resumable
from dlms_jax.runtime.compiled import CacheHits, keep_compiled
from dlms_jax.runtime.determinism import check_deterministic
from dlms_jax.runtime.google_goodput import make_goodput
from dlms_jax.runtime.interrupt import Interrupted, StopSignals
from dlms_jax.runtime.local_saves import LocalSaves, check_local_saves
from dlms_jax.runtime.metric_writer import MetricWriter, make_writer
from dlms_jax.runtime.profiling import Profile
from dlms_jax.runtime.progress import Clock, Progress
from dlms_jax.runtime.rollback import Rollback, Rollbacks, bad_steps
from dlms_jax.runtime.same_run import check_same_run
from dlms_jax.runtime.watchdog import Watchdog
from dlms_jax.terminal import say
from dlms_jax.training import router
from dlms_jax.training.assembly import assemble
from dlms_jax.training.optimizer import learning_rate
from dlms_jax.training.state import TrainState
from dlms_jax.training.warm_start import check_fits, find_start


class Trainer:
    """Trains in a workdir (runs/<config.name> where None) and reports to a rich console."""

    def __init__(
        self, workdir: str | pathlib.Path | None = None, console: Console | None = None,
        profile_steps: tuple[int, int] | None = None,
    ):  # fmt: skip
        """profile_steps: the first and last step to trace, to WORKDIR/profile."""
        self._workdir, self._profile_steps = workdir, profile_steps
        self._console = console or Console(soft_wrap=True, quiet=not hosts.is_first())

    def train(self, config) -> dict[str, float]:
        """Trains a Config (or ConfigDict) to its last step and returns the final metrics.

        Goes on from the newest checkpoint in the workdir, where there is one. Raises UserError for
        what cannot be trained, and Interrupted after a SIGTERM or Ctrl-C, with all saved.
        """
        config = from_dict(config)
        workdir = pathlib.Path(self._workdir or pathlib.Path("runs") / config.name)
        return _Run(config, workdir, self._console, self._profile_steps).train()

    def resume(self, checkpoint_path: str | pathlib.Path) -> dict[str, float]:
        """Goes on with the run of a workdir, or of its newest checkpoints/STEP, to its end."""
        checkpoint = open_checkpoint(checkpoint_path)
        folder, workdir = checkpoint.folder, checkpoint.folder.parent.parent
        newest = find_checkpoint(workdir)
        if newest != folder:
            raise UserError(f"{folder} is not the newest checkpoint of its run; that is {newest}")
        return _Run(checkpoint.config, workdir, self._console, self._profile_steps).train()


class _Run:
    """One run in this process: what is built once, then the loop over steps."""

    def __init__(self, config: Config, workdir: pathlib.Path, console: Console, profile_steps=None):
        self.workdir, self.console, self.profile_steps = workdir, console, profile_steps
        self.goodput = make_goodput(workdir, config.training.goodput_job, self._say)
        self.compiled = keep_compiled(workdir)
        self.mesh = make_mesh(config.mesh)
        training = config.training
        if training.deterministic:
            check_deterministic()
        if config.model.matmuls != "dtype":
            optional_import("qwix", "quant")  # where it is missing, before any data is read
        check_rows(
            self.mesh, training.batch_size // training.accumulation_steps, "training.batch_size"
        )

        check_resumable(workdir)
        newest = newest_readable(workdir)
        saved = newest.metadata if newest else None
        self.start = None if saved else find_start(config, workdir)
        known = self.start.checkpoint.metadata if self.start else saved
        if config.training.start_from:
            config = dataclasses.replace(config, tokenizer=from_dict(known["config"]).tokenizer)
        self.config = config
        if saved:
            check_same_run(config, saved, workdir)
        tokenizer = tokenizers.from_dict(known["tokenizer"]) if known else None
        self.dataset = build_dataset(config, tokenizer)
        self.metadata = {
            "config": config.to_dict(),
            "tokenizer": self.dataset.tokenizer.to_dict(),
            "data": {
                "train": [split.fingerprint for split in self.dataset.train],
                "heldout": self.dataset.heldout.fingerprint,
            },
            "chat_template": self.dataset.chat_template,
            "versions": versions(),
        }
        if config.checkpoint.local_directory:
            check_local_saves(config.checkpoint, self.mesh)
            self.metadata["run"] = (saved or {}).get("run") or f"{hosts.random_number():08x}"
        if origin := self.start.origin() if self.start else (saved or {}).get("start_from"):
            self.metadata["start_from"] = origin
        if saved and saved["data"] != self.metadata["data"]:
            raise UserError(
                f"{_text_of(config)} is not what the run in {workdir} was trained on "
                "(its fingerprint differs; another Python or changed files?); use another --workdir"
            )

        self.rollbacks = Rollbacks()
        self.lm = DiffusionLM(config, self.dataset.tokenizer, None, self.mesh, self.metadata)
        self.rows = self.lm.objective.vocabulary.rows
        self.batches = train_batches(
            self.dataset, config, local_rows(self.mesh, training.batch_size)
        )
        _check_repeats(self.batches.epochs(training.steps), self.dataset, config)
        self.evaluator = BoundEvaluator(
            config, self.lm.network, self.lm.objective, self.dataset.tokenizer, self.mesh
        )
        self.rate = learning_rate(
            config.optimizer, training.steps, config.optimizer.peak_learning_rate
        )
        # Refuses sizes that do not divide over the mesh, before anything is written or compiled.
        self.assembly = assemble(config, self.lm.objective.vocabulary, self.mesh)
        if self.start:
            check_fits(self.start, self.assembly.state.params, config)
        self.peak = hardware.peak_flops()
        workdir.mkdir(parents=True, exist_ok=True)
        hosts.check_shared(workdir)
        own = config.checkpoint.local_directory
        self.checkpoints = Checkpoints(
            workdir, config.checkpoint, lambda text: say(console, text),
            LocalSaves(config.checkpoint, self.metadata["run"], self.mesh) if own else None,
        )  # fmt: skip

    def train(self) -> dict[str, float]:
        """Runs to the last step; returns the final metrics."""
        report.show_start(self.console, self.config, self.dataset, self.mesh, self.rows, self.peak)
        with self.goodput, contextlib.closing(self.checkpoints):
            state = self._restore_or_begin()
            first = int(state.step)
            self.goodput.begin(first)
            writer = make_writer(self.workdir, first, self._more_columns(first))
            with contextlib.closing(writer):
                writer.write_hparams({k: str(v) for k, v in self.metadata["config"].items()})
                if first < self.config.training.steps:
                    state = self._loop(state, first, writer)
                else:
                    self.checkpoints.finish()
            return self._finish(state)

    def _restore_or_begin(self) -> TrainState:
        restored = self.checkpoints.restore_latest(self.assembly.state)
        if restored is None:
            return self._begin()
        state, saved = restored
        self.rollbacks = Rollbacks(saved.get("rollbacks", []))
        say(self.console, f"resuming {self.workdir} after step {int(state.step)}")
        return state

    def _begin(self) -> TrainState:
        params = None
        if self.start:
            say(self.console, self.start.text(self.config))
            params = self.start.checkpoint.load_params(self.assembly.state.params)
        return self.assembly.initial_state(params)

    def _loop(self, state: TrainState, first: int, writer: MetricWriter) -> TrainState:
        config, steps = self.config, self.config.training.steps
        step_fn = self.assembly.step()
        batches, clock, done = self._batches_after(first), None, first
        goodput, training = self.goodput, config.training
        say(self.console, "compiling the train step ...")
        with (
            StopSignals() as stop,
            Progress(self.console, steps) as progress,
            Watchdog(self.workdir, training.hang_minutes, training.hang_exit) as watchdog,
            Profile(self.workdir, self.profile_steps, first, steps, self._say) as profile,
        ):
            while done < steps:
                goodput.now("data")
                batch = to_global(next(batches), self.mesh)
                done += 1
                goodput.step(done, compiles=clock is None)
                profile.before(done)
                if clock is None:
                    with CacheHits() as found:
                        step_fn = step_fn.lower(state, (), batch).compile()
                    hosts.wait_long_for_all()
                    if found.number:
                        self._say(f"the train step was found compiled, in {self.compiled}")
                state, metrics = step_fn(state, (), batch)
                if clock is None:
                    jax.block_until_ready(metrics)  # what comes now is the speed
                    clock = Clock(first_step=done, last_step=steps)
                profile.after(done, metrics)
                watchdog.beat(done)
                stopping = stop.at(done)
                evaluate = done == steps or done % config.evaluation.every == 0
                due = done % config.checkpoint.every == 0
                own = config.checkpoint.local_every and done % config.checkpoint.local_every == 0
                if evaluate or due or own or stopping or done % training.log_every == 0:
                    metrics = jax.device_get(metrics)
                    goodput.now("evaluation" if evaluate else "other")
                    metrics = self._metrics(done, metrics, clock)
                    if evaluate:
                        metrics |= self._evaluate(done, state, writer)
                        goodput.now("other")
                    writer.write_scalars(done, metrics)
                    progress.show(done, metrics, clock.seconds_left(done))
                    in_a_row = int(metrics["skipped_in_a_row"])
                    bad = bad_steps(done, in_a_row, training.max_skipped_steps)
                    goodput.now("checkpoint")
                    # Saved are good steps alone, for a rollback, but for those that end the run.
                    if not bad and (done == steps or stopping or (due and not in_a_row)):
                        self.checkpoints.save(done, state, self._metadata(), metrics.get("bound"))
                    elif own and not in_a_row:
                        self.checkpoints.save_locally(done, state, self.rollbacks.offset)
                    elif bad and not stopping:  # where it is to stop, its resume comes here again
                        state, done = self._roll_back(state, *bad)
                        writer.go_back(done)
                        batches = self._batches_after(done)
                    goodput.now("other")
                    goodput.save()
                    watchdog.beat(done)
                    clock.go_on(done)
                if stopping and done < steps:
                    goodput.now("checkpoint")
                    self.checkpoints.wait()
                    raise Interrupted(
                        f"{stopping}: saved step {self.checkpoints.latest_step()}; go on with: "
                        f"python -m dlms_jax.main --resume={self.workdir}"
                    )
        goodput.now("checkpoint")
        self.checkpoints.finish()
        goodput.now("evaluation")
        return state

    def _say(self, text: str):
        say(self.console, text)

    def _batches_after(self, done: int):
        """Returns the batches of the steps after `done`, as an iterator."""
        data = self.config.data
        return self.batches.iterate(done + self.rollbacks.offset, data.prefetch, data.workers)

    def _metadata(self) -> dict[str, Any]:
        """Returns what a checkpoint says of itself."""
        made = self.rollbacks.saved()
        return self.metadata | {"rollbacks": made} if made else self.metadata

    def _roll_back(self, state: TrainState, first_bad: int, last_bad: int):
        """Returns (state, step) of the last good checkpoint, after which the batches up to that of
        `last_bad` are left out. Raises UserError where there is none, or it was done too often."""
        batch = first_bad - 1 + self.rollbacks.offset
        often = len(self.rollbacks.made) >= self.config.training.max_rollbacks
        step = None
        if not often:
            step = self.checkpoints.go_back(first_bad, self.config.checkpoint.every)
        what = (
            f"loss or gradient was not finite or a spike for {last_bad - first_bad + 1} steps in a "
            f"row, from step {first_bad}"
        )
        if step is None:
            self.checkpoints.wait()
            latest = self.checkpoints.latest_step()
            good = self.checkpoints.path(latest) if latest else "none yet"
            raise UserError(
                f"{what}; the weights were last updated at step {first_bad - 1}; "
                f"rolled back before: {len(self.rollbacks.made)} times; last checkpoint: {good}; "
                f"(corpus, row) of step {first_bad}: {self.batches.rows_of(batch)}; "
                "lower config.optimizer.peak_learning_rate"
            )
        jax.tree.map(lambda x: x.delete(), state)  # there may be no room for two
        state, _ = self.checkpoints.restore_latest(self.assembly.state)
        self.rollbacks.made.append(Rollback(step, first_bad, last_bad))
        say(
            self.console,
            f"{what}: rolling back to step {step} ({len(self.rollbacks.made)} of at most "
            f"{self.config.training.max_rollbacks}), leaving out the batches of the "
            f"{last_bad - step} steps since",
        )
        return state, step

    def _metrics(self, done: int, metrics: dict[str, Any], clock: Clock) -> dict[str, float]:
        metrics = {name: float(value) for name, value in metrics.items()}
        tokens = self.config.training.batch_size * self.config.data.sequence_length
        flops = self.assembly.flops * clock.steps_per_second(done)
        return metrics | {
            "learning_rate": float(self.rate(done - 1 - metrics["skipped"])),
            "tokens": float(done * tokens),
            "rollbacks": float(len(self.rollbacks.made)),
            "goodput": self.goodput.share(),
            **self._epochs(done),
            "tokens_per_second": tokens * clock.steps_per_second(done),
            "flops_per_second": flops,
            "mfu": flops / self.peak[0],
            "seconds": clock.seconds(),
        }

    def _evaluate(self, done: int, state: TrainState, writer: MetricWriter) -> dict[str, float]:
        """Returns the metrics on the rows that evaluations in training use, and shows a sample."""
        bound = self._bound(state, self.config.evaluation.rows)
        sample = self.lm.sample(self.config.sampling.prompt, seed=done)
        writer.write_texts(done, {"sample": sample})
        if done < self.config.training.steps:  # the last one is shown under the summary
            report.show_sample(self.console, done, sample)
        return {
            "bound": bound.nats_per_token,
            "bits_per_byte": bound.bits_per_byte,
            "stderr": bound.stderr,
        }

    def _bound(self, state: TrainState, rows: int) -> BoundReport:
        self.lm.params = state.params if state.ema is None else state.ema
        return self.evaluator(self.lm.params, self.dataset.heldout.rows, rows)

    def _epochs(self, done: int) -> dict[str, float]:
        """Returns how often the corpus has been seen; of a mixture, each one and the most seen."""
        epochs = self.batches.epochs(done + self.rollbacks.offset)
        names = [f"epoch/{name}" for name in self.config.data.mixture]
        return {"epoch": max(epochs), **dict(zip(names, epochs, strict=False))}

    def _more_columns(self, first: int) -> list[str]:
        """Returns the metrics that not every run has."""
        routers = router.METRICS if self.config.model.experts else ()
        return [*list(self._epochs(first))[1:], *routers, "rollbacks", "goodput"]

    def _finish(self, state: TrainState) -> dict[str, float]:
        """Evaluates on all held-out rows, prints the summary, draws the curves."""
        bound = self._bound(state, self.config.evaluation.final_rows)
        self.goodput.save()
        if hosts.is_first():
            best = self.lm.best_possible(self.dataset.heldout)
            report.show_summary(self.console, self.config, self.workdir, bound, best)
            draw_curves([self.workdir])
        sample = self.lm.sample(self.config.sampling.prompt, seed=int(state.step))
        report.show_sample(self.console, int(state.step), sample)
        report.show_next(self.console, self.config, self.workdir)
        return {
            "step": int(state.step),
            "bound": bound.nats_per_token,
            "bits_per_byte": bound.bits_per_byte,
            "stderr": bound.stderr,
            "perplexity": bound.perplexity,
            "unigram_nats": bound.unigram_nats,
        }


def _text_of(config: Config) -> str:
    mixture = config.data.mixture
    return f"the mixture of {', '.join(mixture)}" if mixture else f"the corpus {config.data.corpus}"


def _check_repeats(epochs: list[float], dataset: Dataset, config: Config):
    """Raises UserError where the steps see a corpus more often than config.data.repeat allows."""
    for seen, split in zip(epochs, dataset.train, strict=True):
        if config.data.repeat and seen > config.data.repeat:
            raise UserError(
                f"{config.training.steps} steps see the {split.name} {seen:.2f} times; "
                f"config.data.repeat={config.data.repeat}: take fewer config.training.steps"
            )
