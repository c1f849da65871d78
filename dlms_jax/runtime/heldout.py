"""What a run's weights do at a step: their bound on held-out text, and a sample of theirs."""

import functools

from dlms_jax.denoiser import make_denoiser
from dlms_jax.errors import UserError
from dlms_jax.evaluation.bound import BoundEvaluator, BoundReport
from dlms_jax.runtime.setup import Setup
from dlms_jax.sampling import TextGenerator, make_canvas
from dlms_jax.training.state import TrainState


class HeldOut:
    """Evaluates the states of one run, with programs that are compiled once."""

    def __init__(self, setup: Setup):
        """Raises UserError if config.sampling does not fit the objective or the context."""
        config, assembly, tokenizer = setup.config, setup.assembly, setup.dataset.tokenizer
        objective, mesh = assembly.objective, setup.mesh
        denoise = functools.partial(
            make_denoiser, config, assembly.network, objective=objective, mesh=mesh
        )
        self._config, self._rows = config, setup.dataset.heldout.rows
        self._evaluate = BoundEvaluator(config, assembly.network, objective, tokenizer, mesh)
        self._generator = TextGenerator(config, objective, tokenizer, mesh, denoise)
        prompt = self._generator.after(config.sampling.prompt)
        try:
            make_canvas([prompt], tokenizer, config.data.sequence_length)
        except UserError as error:
            raise UserError(f"config.sampling.prompt does not fit: {error}") from None

    def bound(self, state: TrainState, rows: int) -> BoundReport:
        """Returns the bound on the first `rows` held-out rows (0: all)."""
        return self._evaluate(state.weights, self._rows, rows)

    def sample(self, state: TrainState) -> str:
        """Returns a text after config.sampling.prompt; its seed is the step."""
        prompt, seed = self._config.sampling.prompt, int(state.step)
        return self._generator.samples(state.weights, [prompt], seed=seed)[0]
