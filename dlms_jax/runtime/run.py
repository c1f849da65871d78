"""One run in this process: set up, trained to its last step, summed up."""

import contextlib
import pathlib

from rich.console import Console

from dlms_jax.config import Config
from dlms_jax.evaluation.bound import best_possible
from dlms_jax.parallel import hardware, hosts
from dlms_jax.runtime import report
from dlms_jax.runtime.compiled import CompiledStep, keep_compiled
from dlms_jax.runtime.google_goodput import make_goodput
from dlms_jax.runtime.heldout import HeldOut
from dlms_jax.runtime.lock import locked
from dlms_jax.runtime.loop import Loop
from dlms_jax.runtime.profiling import Profile, check_profile
from dlms_jax.runtime.run_log import RunLog
from dlms_jax.runtime.saves import Saves
from dlms_jax.runtime.setup import set_up
from dlms_jax.runtime.watchdog import Watchdog
from dlms_jax.terminal import say
from dlms_jax.training.state import TrainState


class Run:
    """What is built once; `train` may then be called once."""

    def __init__(
        self,
        config: Config,
        workdir: pathlib.Path,
        console: Console,
        profile_steps: tuple[int, int] | None = None,
    ):
        """
        Args:
          config: the config.
          workdir: the run's folder.
          console: where progress is shown.
          profile_steps: the first and last step to trace, to WORKDIR/profile.

        Raises:
          UserError: the config cannot be trained. Nothing has been written or compiled then.
        """
        self._console, self._profile_steps = console, profile_steps
        self._goodput = make_goodput(workdir, config.training.goodput_job, self._say)
        self._cache = keep_compiled(workdir)
        self._setup = set_up(config, workdir)
        check_profile(profile_steps, self._setup.done, config.training.steps)
        self._heldout = HeldOut(self._setup)
        self._peak = hardware.peak_flops()

    def train(self) -> dict[str, float]:
        """Trains to the last step and prints the summary; returns the final metrics.

        Raises:
          UserError: the workdir is in use, or cannot be written.
          Interrupted: a signal stopped the run; its state is saved.
        """
        setup = self._setup
        with contextlib.ExitStack() as stack:
            if hosts.is_first():
                stack.enter_context(locked(setup.workdir))
            stack.enter_context(self._goodput)
            self._saves = Saves(setup, self._say)
            stack.enter_context(contextlib.closing(self._saves.checkpoints))
            report.show_start(self._console, setup, self._peak)
            if hosts.is_first():
                report.write_parameters(setup)
            state = self._first_state()
            if int(state.step) < setup.config.training.steps:
                state = self._train(state)
            else:
                self._say(
                    f"{setup.workdir} has finished its {setup.config.training.steps} steps; raise "
                    "config.training.steps to train further"
                )
                self._goodput.begin(int(state.step))
                self._saves.checkpoints.finish()
            return self._sum_up(state)

    def _train(self, state: TrainState) -> TrainState:
        setup, first, training = self._setup, int(state.step), self._setup.config.training
        self._goodput.begin(first)
        train_step = CompiledStep(setup.assembly.step(), (), self._cache, self._say)
        profile = Profile(setup.workdir, self._profile_steps, first, training.steps, self._say)
        watchdog = Watchdog(setup.workdir, training.watchdog_minutes, training.watchdog_exit)
        with RunLog(setup, self._console, first, self._peak[0]) as log:
            loop = Loop(setup, self._saves, self._heldout, log, self._goodput, self._console)
            state = loop.run(state, train_step, profile, watchdog)
        self._goodput.now("evaluation")
        return state

    def _first_state(self) -> TrainState:
        """Returns the newest saved state, or that at step 0."""
        setup = self._setup
        if (state := self._saves.newest()) is not None:
            self._say(f"resuming {setup.workdir} after step {int(state.step)}")
            return state
        params = None
        if setup.start:
            self._say(setup.start.text(setup.config))
            params = setup.start.checkpoint.load_params(setup.assembly.state.params)
        return setup.assembly.initial_state(params)

    def _sum_up(self, state: TrainState) -> dict[str, float]:
        """Evaluates on all held-out rows and prints the summary; returns the final metrics."""
        config, workdir, console = self._setup.config, self._setup.workdir, self._console
        bound = self._heldout.bound(state, config.evaluation.final_rows)
        self._goodput.save()
        sample = self._heldout.sample(state)
        if hosts.is_first():
            best = best_possible(self._setup.assembly.objective, self._setup.dataset.heldout)
            report.show_summary(console, config, workdir, bound, best)
        report.show_sample(console, int(state.step), sample)
        report.show_next(console, config, workdir)
        return {
            "step": int(state.step),
            "bound": bound.nats_per_token,
            "bits_per_byte": bound.bits_per_byte,
            "stderr": bound.stderr,
            "perplexity": bound.perplexity,
            "unigram_nats": bound.unigram_nats,
        }

    def _say(self, text: str):
        say(self._console, text)
