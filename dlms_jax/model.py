"""DiffusionLM: a trained model to sample from and to evaluate.

Use:

    lm = DiffusionLM.load_checkpoint("runs/tiny")
    print(lm.sample("The ", length=100))
    print(lm.infill("The {} of {} is"))
    print(lm.evaluate().bits_per_byte)
"""

from collections.abc import Iterator, Sequence
import math
from typing import Any

import jax
from jax.sharding import Mesh

from dlms_jax.checkpoints.checkpoint import open_checkpoint
from dlms_jax.config import Config
from dlms_jax.data.feed.dataset import Split, build_dataset, load_split
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.denoiser import make_denoiser, make_network, vocabulary_of
from dlms_jax.diffusion import make_objective
from dlms_jax.errors import UserError
from dlms_jax.evaluation.bound import BoundEvaluator, BoundReport, best_possible
from dlms_jax.parallel import rules
from dlms_jax.sampling import Canvas, TextGenerator, parse_infill


class DiffusionLM:
    """A network, its weights and its tokenizer: any diffusion, or the autoregressive baseline."""

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        params: Any,
        mesh: Mesh,
        metadata: dict[str, Any] | None = None,
    ):
        self.config, self.tokenizer, self.params, self.mesh = config, tokenizer, params, mesh
        self.metadata = metadata or {}
        vocabulary = vocabulary_of(tokenizer)
        self.objective = make_objective(config, vocabulary)
        self.network = make_network(config, vocabulary.padded_size, mesh)
        self._generator = TextGenerator(
            config,
            self.objective,
            tokenizer,
            mesh,
            lambda params: make_denoiser(config, self.network, params, self.objective, mesh),
        )

    @classmethod
    def load_checkpoint(cls, path: str, mesh: Mesh | None = None) -> "DiffusionLM":
        """Returns the model of a run's workdir (its newest checkpoint) or of checkpoints/STEP.

        The weights are split over `mesh`; where None, over as many devices as sizes divide by.
        Raises UserError where there is no checkpoint or it cannot be read.
        """
        checkpoint = open_checkpoint(path)
        config, shapes = checkpoint.portable_config, checkpoint.parameter_shapes()
        if mesh is None:
            most = math.gcd(jax.device_count(), config.evaluation.batch_size)
            mesh = rules.largest_mesh(shapes, most)
        params = checkpoint.load_params(rules.abstract(shapes, mesh))
        metadata = checkpoint.metadata | {"path": str(checkpoint.folder)}
        return cls(config, checkpoint.tokenizer, params, mesh, metadata)

    def sample(self, prompt: str = "", length: int | None = None, seed: int = 0, **sampling) -> str:
        """Returns the prompt and what the model writes after it, up to `length` tokens.

        sampling: settings of config.sampling (steps, temperature, guidance, sampler, top_p, ...)
        that differ from the checkpoint's; length: where None, its own, or as much as fits.
        Raises UserError for a prompt that does not fit, or a setting that the model cannot follow.
        """
        return self.samples([prompt], length, seed, **sampling)[0]

    def samples(
        self, prompts: Sequence[str], length: int | None = None, seed: int = 0, **sampling
    ) -> list[str]:
        """Returns a text for each prompt, all written in one batch; each is what `sample` gives."""
        return self._generator.samples(self.params, prompts, length, seed, **sampling)

    def infill(self, template: str, hole: int = 8, seed: int = 0, **sampling) -> str:
        """Returns a text with its holes filled: {} is `hole` tokens long, {12} is 12."""
        rows = [parse_infill(template, hole)]
        return self._generator.fill(self.params, rows, seed, **sampling)[0]

    def after(self, prompt: str, length: int | None = None) -> list[str | int]:
        """Returns a row of `stream`: a prompt and `length` tokens to fill after it; where None, as
        many as the config says and the context has room for."""
        return self._generator.after(prompt, length)

    def stream(
        self,
        rows: Sequence[Sequence[str | int]],
        num: int = 1,
        seed: int = 0,
        every: int | None = None,
        class_name: str | None = None,
        **sampling,
    ) -> Iterator[Canvas]:
        """Yields canvases as they fill in, every `every` steps; None: at the end only.

        rows: the pieces of each text: given text, and numbers of tokens to fill. num: samples of
        each, which stand together. Sample i of a row depends on its pieces and (seed, i) only.
        class_name: a corpus of config.data.mixture to write like.
        """
        return self._generator.stream(self.params, rows, num, seed, every, class_name, **sampling)

    def texts(self, canvas: Canvas, unfilled: str = "") -> list[str]:
        """Returns the text of each canvas, up to the first EOS in a hole; `unfilled` stands for
        each hole still open."""
        return self._generator.texts(canvas, unfilled)

    def evaluate(
        self,
        dataset: str | Split | None = None,
        samples: int | None = None,
        seed: int | None = None,
        rows: int = 0,
    ) -> BoundReport:
        """Returns the bound on a text.

        dataset: a corpus name, file or folder, all of it; or a Split; None, or the corpus that the
        model was trained on: its held-out documents. samples: Monte-Carlo strata a document.
        rows: use the first so many packed rows only (0: all).
        """
        if self.objective.traits.exact and (samples, seed) != (None, None):
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
            saved = self.metadata.get("data", {}).get("heldout", split.fingerprint)
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
        """Returns the bits per byte that no model of this kind can beat on a split."""
        return best_possible(self.objective, split)
