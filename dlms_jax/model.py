"""DiffusionLM: a trained model that samples and evaluates.

Example:

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
from dlms_jax.parallel.hardware import check_backend
from dlms_jax.sampling import Canvas, TextGenerator, parse_infill
from dlms_jax.terminal import with_unit


class DiffusionLM:
    """A network with its weights and tokenizer, of any diffusion or autoregressive.

    Attributes:
      config: the config of the run.
      tokenizer: its tokenizer.
      params: the weights.
      mesh: the devices.
      metadata: the checkpoint's metadata, with its folder as "path".
      objective: the objective.
      network: the Flax module.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer,
        params: Any,
        mesh: Mesh,
        metadata: dict[str, Any] | None = None,
    ):
        """Makes a model; `load_checkpoint` makes one from disk.

        Args:
          config: the config of the run.
          tokenizer: its tokenizer.
          params: the weights.
          mesh: devices that share the weights and the rows of a batch.
          metadata: the checkpoint's metadata.

        Raises:
          UserError: config.sampling does not fit the objective.
        """
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

    def __repr__(self) -> str:
        number = sum(x.size for x in jax.tree.leaves(self.params))
        where = self.metadata.get("path", "not saved")
        kind = f"{self.config.objective.name} {self.config.model.name}"
        return f"DiffusionLM({kind}, {with_unit(number)}parameters, {where})"

    @classmethod
    def load_checkpoint(cls, path: str, mesh: Mesh | None = None) -> "DiffusionLM":
        """Returns the model of a checkpoint.

        Args:
          path: a run's workdir (for its newest checkpoint) or one of its checkpoints/STEP.
          mesh: devices over which the weights are sharded. None: as many as the sizes divide by.

        Raises:
          UserError: there is no checkpoint, or it cannot be read.
        """
        check_backend()
        checkpoint = open_checkpoint(path)
        config, shapes = checkpoint.portable_config, checkpoint.parameter_shapes()
        if mesh is None:
            most = math.gcd(jax.device_count(), config.evaluation.batch_size)
            mesh = rules.largest_mesh(shapes, most)
        params = checkpoint.load_params(rules.abstract(shapes, mesh))
        metadata = checkpoint.metadata | {"path": str(checkpoint.folder)}
        return cls(config, checkpoint.tokenizer, params, mesh, metadata)

    def sample(self, prompt: str = "", length: int | None = None, seed: int = 0, **sampling) -> str:
        """Returns the prompt and its continuation.

        Args:
          prompt: the beginning of the text.
          length: tokens to generate. None: config.sampling.length, or what fits the context.
          seed: seed of all draws.
          **sampling: settings of config.sampling to change (steps, temperature, guidance, sampler,
            top_p, ...).

        Raises:
          UserError: the prompt is too long, or the model does not support a setting.
        """
        return self.samples([prompt], length, seed, **sampling)[0]

    def samples(
        self, prompts: Sequence[str], length: int | None = None, seed: int = 0, **sampling
    ) -> list[str]:
        """Returns a text for each prompt, as `sample` does, in one batch."""
        return self._generator.samples(self.params, prompts, length, seed, **sampling)

    def infill(self, template: str, hole: int = 8, seed: int = 0, **sampling) -> str:
        """Returns a text with its holes filled.

        Args:
          template: a text such as "The {} of {12} is". {} is a hole of `hole` tokens, {12} of 12.
          hole: the number of tokens in {}.
          seed: seed of all draws.
          **sampling: settings of config.sampling to change.

        Raises:
          UserError: the template has no hole or is too long, or the model cannot fill it.
        """
        rows = [parse_infill(template, hole)]
        return self._generator.fill(self.params, rows, seed, **sampling)[0]

    def after(self, prompt: str, length: int | None = None) -> list[str | int]:
        """Returns a row of `stream`: a prompt followed by a hole.

        Args:
          prompt: the text.
          length: tokens in the hole. None: config.sampling.length, or what fits the context.

        Raises:
          UserError: the length is below 1.
        """
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
        """Yields the canvas during sampling, and when it is full.

        Args:
          rows: the pieces of each text: given texts, and numbers of tokens to fill.
          num: samples per text; those of one text are adjacent rows. Sample i of a text depends
            only on its pieces and (seed, i).
          seed: seed of all draws.
          every: steps between canvases. None: only the last one.
          class_name: a corpus of config.data.mixture, whose style the samples take.
          **sampling: settings of config.sampling to change.

        Raises:
          UserError: an argument is invalid.
        """
        return self._generator.stream(self.params, rows, num, seed, every, class_name, **sampling)

    def texts(self, canvas: Canvas, unfilled: str = "") -> list[str]:
        """Returns the text of each row, up to the first EOS in a hole.

        Args:
          canvas: the canvas.
          unfilled: shown in place of each hole that is still open.
        """
        return self._generator.texts(canvas, unfilled)

    def evaluate(
        self,
        dataset: str | Split | None = None,
        samples: int | None = None,
        seed: int | None = None,
        rows: int = 0,
    ) -> BoundReport:
        """Returns the bound on a text.

        Args:
          dataset: a corpus name, a file, a folder or a Split. None, or the training corpus: its
            held-out documents.
          samples: Monte-Carlo strata per document. None: config.evaluation.samples.
          seed: seed of the estimate. None: config.evaluation.seed.
          rows: the number of packed rows to use, from the start. 0: all.

        Raises:
          UserError: the text cannot be read, or an argument is invalid.
        """
        if self.objective.traits.exact and (samples, seed) != (None, None):
            raise UserError(
                "an autoregressive model's likelihood is exact; leave out samples and seed"
            )
        if not isinstance(dataset, Split):
            dataset = self.load_split(dataset)
        evaluator = BoundEvaluator(
            self.config, self.network, self.objective, self.tokenizer, self.mesh, samples, seed
        )
        return evaluator(self.params, dataset.rows, rows)

    def load_split(self, corpus: str | None = None) -> Split:
        """Returns the packed documents of a corpus.

        Args:
          corpus: a corpus name, a file or a folder. None, or the training corpus: its held-out
            documents.

        Raises:
          UserError: the text cannot be read, or the training corpus has changed.
        """
        data = self.config.data
        if corpus is None or (corpus == data.corpus and not data.mixture):
            split = build_dataset(self.config, self.tokenizer).heldout
            saved = self.metadata.get("data", {}).get("heldout", split.fingerprint)
            if saved != split.fingerprint:
                raise UserError(
                    f"the text of {', '.join(data.mixture) or data.corpus} is not the one this "
                    "model was trained on "
                    f"(held-out sha256 {split.fingerprint['sha256'][:12]}, in training "
                    f"{saved['sha256'][:12]}), perhaps because files or the Python version "
                    "changed; give a text with --data"
                )
            return split
        return load_split(corpus, self.tokenizer, data)

    def best_possible(self, split: Split) -> float | None:
        """Returns the lowest possible bits per byte on a split; None if it is unknown."""
        return best_possible(self.objective, split)
