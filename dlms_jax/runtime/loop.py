"""The loop over training steps, and what happens between them."""

import shlex
from typing import NamedTuple

from rich.console import Console

from dlms_jax.config import Config
from dlms_jax.errors import UserError
from dlms_jax.parallel.mesh import to_global
from dlms_jax.runtime.compiled import CompiledStep
from dlms_jax.runtime.goodput import Goodput
from dlms_jax.runtime.heldout import HeldOut
from dlms_jax.runtime.interrupt import Interrupted, StopSignals
from dlms_jax.runtime.profiling import Profile
from dlms_jax.runtime.report import show_sample
from dlms_jax.runtime.rollback import bad_steps
from dlms_jax.runtime.run_log import RunLog
from dlms_jax.runtime.saves import Saves
from dlms_jax.runtime.setup import Setup
from dlms_jax.runtime.watchdog import Watchdog
from dlms_jax.terminal import say
from dlms_jax.training.state import TrainState

_MOST_FAILURES = 3  # of evaluations; then the run stops


class Due(NamedTuple):
    """What is due after a step. stop: the signal that asked the run to stop, if any."""

    log: bool
    evaluate: bool
    save: bool
    save_locally: bool
    stop: str | None

    @classmethod
    def after(cls, step: int, config: Config, stop: str | None) -> "Due":
        """Returns what a config, and a signal, ask for after a step."""

        def each(steps: int) -> bool:
            return steps > 0 and step % steps == 0

        last = step == config.training.steps
        return cls(
            log=each(config.training.log_every),
            evaluate=last or each(config.evaluation.every),
            save=last or bool(stop) or each(config.checkpoint.every),
            save_locally=each(config.checkpoint.local_every),
            stop=stop,
        )


class Loop:
    """Trains from a state to the last step."""

    def __init__(
        self,
        setup: Setup,
        saves: Saves,
        heldout: HeldOut,
        log: RunLog,
        goodput: Goodput,
        console: Console,
    ):
        self._setup, self._config, self._console = setup, setup.config, console
        self._saves, self._heldout, self._log, self._goodput = saves, heldout, log, goodput
        self._failed_evaluations = 0

    def run(
        self, state: TrainState, train_step: CompiledStep, profile: Profile, watchdog: Watchdog
    ) -> TrainState:
        """Returns the state after the last step, saved.

        Raises:
          Interrupted: a signal asked the run to stop; its state is saved.
          UserError: too many steps were bad and there is nothing to go back to, or too many
            evaluations failed; the state is saved.
        """
        done, last = int(state.step), self._config.training.steps
        batches = self._batches_after(done)
        with StopSignals() as stop, profile, watchdog:
            while done < last:
                self._goodput.now("data")
                batch = to_global(next(batches), self._setup.mesh)
                done += 1
                self._goodput.step(done, compiles=not train_step.compiled)
                profile.before(done)
                if train_step.compiled:
                    state, metrics = train_step(state, batch)
                else:
                    state, metrics = train_step.compile_and_run(state, batch)
                    self._log.start_clock(done)
                profile.after(done, metrics)
                watchdog.beat(done)
                due = Due.after(done, self._config, stop.at(done))
                if not any(due):
                    continue
                state, reached = self._between_steps(done, state, metrics, due)
                if reached != done:  # rolled back
                    done, batches = reached, self._batches_after(reached)
                watchdog.beat(done)
                self._log.continue_clock(done)
                if due.stop and done < last:
                    self._stop(due.stop)
        self._goodput.now("checkpoint")
        self._saves.checkpoints.finish()
        return state

    def _between_steps(self, done, state, metrics, due: Due) -> tuple[TrainState, int]:
        """Logs, evaluates and saves a state, or rolls it back; returns (state, its step)."""
        self._goodput.now("evaluation" if due.evaluate else "other")
        rollbacks = self._saves.rollbacks
        metrics = self._log.metrics(done, metrics, rollbacks.offset)
        metrics |= {"rollbacks": float(len(rollbacks.made)), "goodput": self._goodput.share()}
        if due.evaluate:
            metrics |= self._evaluate(done, state)
            self._goodput.now("other")
        self._log.write(done, metrics)
        self._goodput.now("checkpoint")
        in_a_row = int(metrics["skipped_in_a_row"])
        bad = bad_steps(done, in_a_row, self._config.training.max_skipped_steps)
        if bad:
            if not due.stop:  # a run that stops comes to these steps again when it resumes
                state = self._saves.roll_back(state, bad)
                done = int(state.step)
                self._log.go_back(done)
        elif self._may_save(due, done, in_a_row):
            self._saves.save(done, state, metrics.get("bound"))
        elif due.save_locally and not in_a_row:
            self._saves.save_locally(done, state)
        self._goodput.now("other")
        self._goodput.save()
        self._stop_if_evaluations_fail(done)
        return state, done

    def _may_save(self, due: Due, done: int, bad_in_a_row: int) -> bool:
        """Returns whether a state is saved. A rollback needs good states, so among bad steps only
        those that end the run are saved."""
        if self._failed_evaluations == _MOST_FAILURES:
            return True
        ends = bool(due.stop) or done == self._config.training.steps
        return due.save and (ends or not bad_in_a_row)

    def _stop_if_evaluations_fail(self, done: int):
        if self._failed_evaluations == _MOST_FAILURES:
            self._saves.checkpoints.wait()
            raise UserError(
                f"{_MOST_FAILURES} evaluations failed (the reasons are above); step {done} is "
                "saved: correct the settings of evaluation or sampling, then run the same command"
            )

    def _evaluate(self, done: int, state: TrainState) -> dict[str, float]:
        """Returns the metrics on the rows that evaluations in training use, and shows a sample.

        What fails here does not lose the training: it is reported, and there are no metrics.
        """
        try:
            bound = self._heldout.bound(state, self._config.evaluation.rows)
            sample = self._heldout.sample(state)
        except Exception as error:  # of any kind, such as no memory left
            self._failed_evaluations += 1
            reason = (str(error).strip().splitlines() or [""])[0]
            say(
                self._console,
                f"the evaluation after step {done} failed ({type(error).__name__}: {reason}); "
                "training continues",
            )
            return {}
        self._log.write_sample(done, sample)
        if done < self._config.training.steps:  # the last one is shown under the summary
            show_sample(self._console, done, sample)
        return {
            "bound": bound.nats_per_token,
            "bits_per_byte": bound.bits_per_byte,
            "stderr": bound.stderr,
        }

    def _batches_after(self, done: int):
        """Returns the batches of the steps after `done`, as an iterator."""
        data = self._config.data
        first = done + self._saves.rollbacks.offset
        return self._setup.batches.iterate(first, data.prefetch, data.workers)

    def _stop(self, signal: str):
        self._goodput.now("checkpoint")
        self._saves.checkpoints.wait()
        raise Interrupted(
            f"{signal}: saved step {self._saves.checkpoints.latest_step()}; resume with: "
            f"python -m dlms_jax.main --resume={shlex.quote(str(self._setup.workdir))}"
        )
