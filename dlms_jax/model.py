"""DiffusionLM: a trained model to sample from and to evaluate.

Use:

    lm = DiffusionLM.load_checkpoint("runs/tiny")
    print(lm.sample("The ", length=100))
    print(lm.infill("The {} of {} is"))
    print(lm.evaluate().bits_per_byte)
"""

from collections.abc import Iterator, Sequence
import functools
import math
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from dlms_jax.config import Config, MeshConfig, from_dict
from dlms_jax.data import tokenizers
from dlms_jax.data.dataset import Split, build_dataset, load_split
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.diffusion import make_objective
from dlms_jax.diffusion.protocol import example_keys
from dlms_jax.errors import UserError
from dlms_jax.evaluation.bound import BoundEvaluator, BoundReport
from dlms_jax.parallel import rules
from dlms_jax.parallel.mesh import batch_shards, make_mesh
from dlms_jax.sampling import Canvas, make_canvas, make_sampler, parse_infill
from dlms_jax.training import checkpoint
from dlms_jax.training.denoiser import make_denoiser, make_model, vocabulary_of
from dlms_jax.training.state import initial_params


class DiffusionLM:
    """A network, its weights and its tokenizer; masked diffusion or the autoregressive baseline."""

    def __init__(
        self, config: Config, tokenizer: Tokenizer, params: Any, mesh: Mesh,
        about: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.config, self.tokenizer, self.params, self.mesh = config, tokenizer, params, mesh
        self.about = about or {}
        vocabulary = vocabulary_of(tokenizer)
        self.objective = make_objective(config.objective, vocabulary)
        self.network = make_model(config, vocabulary.rows, mesh)
        self._compiled = functools.lru_cache(self._compile)

    @classmethod
    def load_checkpoint(cls, path: str, mesh: Mesh | None = None) -> "DiffusionLM":
        """Returns the model of a run's workdir (its newest checkpoint) or of checkpoints/STEP.

        The weights are split over `mesh`; where None, over as many devices as sizes divide by.
        Raises UserError where there is no checkpoint or it cannot be read.
        """
        folder = checkpoint.find_checkpoint(path)
        about = checkpoint.load_about(folder)
        config = from_dict(about["config"])
        tokenizer = tokenizers.from_dict(about["tokenizer"])
        if mesh is None:
            number = math.gcd(jax.device_count(), config.model.width, config.evaluation.batch_size)
            mesh = make_mesh(MeshConfig(data=1, fsdp=number, tensor=1), jax.devices()[:number])
        lm = cls(config, tokenizer, None, mesh, about | {"path": str(folder)})
        shapes = jax.eval_shape(lambda: initial_params(lm.network, jax.random.key(0)))
        lm.params = checkpoint.load_params(folder, rules.abstract(shapes, mesh))
        return lm

    def sample(
        self, prompt: str = "", length: int | None = None, steps: int | None = None,
        guidance: float | None = None, temperature: float | None = None, seed: int = 0,
    ) -> str:  # fmt: skip
        """Returns the prompt and what the model writes after it, up to `length` tokens.

        What is None is taken from the checkpoint's config (length: as much of it as fits).
        steps: of the reverse process (masked diffusion only). guidance: w in
        (1+w) log p(. | prompt) - w log p(.), 0 for none.
        Raises UserError for a prompt that does not fit, or a setting that the model cannot follow.
        """
        return self._last(self.after(prompt, length), steps, guidance, temperature, seed)

    def infill(
        self, template: str, hole: int = 8, steps: int | None = None,
        guidance: float | None = None, temperature: float | None = None, seed: int = 0,
    ) -> str:  # fmt: skip
        """Returns a text with its holes filled: {} is `hole` tokens long, {12} is 12."""
        pieces = parse_infill(template, hole)
        return self._last(pieces, steps, guidance, temperature, seed)

    def after(self, prompt: str, length: int | None = None) -> list[str | int]:
        """Returns the pieces of a prompt and `length` tokens to fill after it; where None, as many
        as the config says and the context has room for."""
        if length is None:
            room = self.config.data.sequence_length - 1 - len(self.tokenizer.encode(prompt))
            length = max(1, min(self.config.sampling.length, room))
        if length < 1:
            raise UserError(f"a length of {length} leaves nothing to write; use 1 or more")
        return [prompt, length]

    def stream(
        self, pieces: Sequence[str | int], num: int = 1, steps: int | None = None,
        guidance: float | None = None, temperature: float | None = None, seed: int = 0,
        every: int | None = None,
    ) -> Iterator[Canvas]:  # fmt: skip
        """Yields `num` canvases, filled further every `every` steps (None: at the end alone).

        pieces: texts that are given, and numbers of tokens to fill. Sample i depends on (seed, i)
        alone, not on `num`.
        """
        defaults = self.config.sampling
        temperature = defaults.temperature if temperature is None else temperature
        if temperature < 0:
            raise UserError(f"a temperature of {temperature} is below 0")
        if num < 1:
            raise UserError(f"{num} samples were asked for; ask for 1 or more")
        steps, guidance = self._reverse_process(steps, guidance)
        rows = -(-num // batch_shards(self.mesh)) * batch_shards(self.mesh)
        canvas = make_canvas(pieces, self.tokenizer, self.config.data.sequence_length, rows)
        sampler, run = self._compiled(steps, temperature, guidance)
        total = sampler.num_steps(canvas)
        keys_B = example_keys(jax.random.split(jax.random.key(seed), 1)[0], np.arange(rows))
        for first in range(0, total, every or max(total, 1)):
            last = min(first + (every or total), total)
            canvas = run(self.params, canvas, keys_B, first, last)
            yield jax.tree.map(lambda x: np.asarray(x)[:num], canvas)

    def texts(self, canvas: Canvas, unfilled: str = "") -> list[str]:
        """Returns the text of each canvas, up to the first EOS in a hole; `unfilled` stands for
        each hole still open."""
        return [
            self._text(tokens_L, holes_L, unfilled)
            for tokens_L, holes_L in zip(
                canvas.tokens_BxL, canvas.holes_BxL, strict=True
            )
        ]  # fmt: skip

    def evaluate(
        self, dataset: str | Split | None = None, samples: int | None = None,
        seed: int | None = None, rows: int = 0,
    ) -> BoundReport:  # fmt: skip
        """Returns the bound on a text.

        dataset: a corpus name, file or folder, all of it; or a Split; None, or the corpus that the
        model was trained on: its held-out documents. samples: Monte-Carlo strata a document.
        rows: use the first so many packed rows only (0: all).
        """
        if self.objective.exact and (samples, seed) != (None, None):
            raise UserError(
                "an autoregressive model's likelihood is exact: leave samples and seed out"
            )
        if not isinstance(dataset, Split):
            dataset = self.load_split(dataset)
        evaluator = BoundEvaluator(
            self.config, self.network, self.objective, self.tokenizer, self.mesh, samples, seed
        )
        return evaluator(self.params, dataset.rows, rows)

    def load_split(self, corpus: str | None = None) -> Split:
        """Returns the packed documents of a corpus; of the training corpus, the held-out ones."""
        data = self.config.data
        if corpus is None or (corpus == data.corpus and not data.mixture):
            split = build_dataset(self.config, self.tokenizer).heldout
            saved = self.about.get("data", {}).get("heldout", split.fingerprint)
            if saved != split.fingerprint:
                raise UserError(
                    f"the text of {', '.join(data.mixture) or data.corpus} is not what this model "
                    "was trained on "
                    f"(held-out sha256 {split.fingerprint['sha256'][:12]}, then "
                    f"{saved['sha256'][:12]}); another Python or changed files? "
                    "Give a text with --data"
                )
            return split
        return load_split(corpus, self.tokenizer, data)

    def best_possible(self, split: Split) -> float | None:
        """Returns the bits per byte that no model of this kind can beat on a split, where the
        text's own distribution is known; a denoiser is told where documents end, so less is left.
        """
        key = "best_bits_per_byte" if self.objective.exact else "best_bits_per_byte_given_length"
        return split.fingerprint.get(key)

    def _last(self, pieces, steps, guidance, temperature, seed):
        *_, canvas = self.stream(pieces, 1, steps, guidance, temperature, seed)
        return self.texts(canvas)[0]

    def _reverse_process(self, steps, guidance):
        """Returns (steps, guidance); refuses those that an autoregressive model would ignore."""
        if self.objective.exact:
            if steps is not None:
                raise UserError("an autoregressive model takes one step a token; leave steps out")
            if guidance:
                raise UserError(
                    "guidance needs a model that reads masked prompts; this one is autoregressive"
                )
            return 0, 0.0
        steps = self.config.sampling.steps if steps is None else steps
        if steps < 1:
            raise UserError(f"{steps} steps cannot fill anything; use 1 or more")
        return steps, float(self.config.sampling.guidance if guidance is None else guidance)

    def _compile(self, steps, temperature, guidance):
        sampler = make_sampler(self.objective, steps, temperature, guidance)

        @jax.jit
        def run(params, canvas, keys_B, first, last):
            denoise = make_denoiser(
                self.config, self.network, params, self.objective.attention, self.mesh
            )
            return sampler.run(denoise, canvas, keys_B, first, last)

        return sampler, run

    def _text(self, tokens_L, holes_L, unfilled):
        t = self.tokenizer
        ended = np.flatnonzero((tokens_L == t.eos_id) & holes_L)
        tokens_L = tokens_L[: ended[0]] if len(ended) else tokens_L
        text, run = "", []
        for token in tokens_L.tolist():
            if token == t.mask_id and unfilled:
                text, run = text + t.decode(run) + unfilled, []
            else:
                run.append(token)
        return text + t.decode(run)
