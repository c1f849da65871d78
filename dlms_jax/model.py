"""DiffusionLM: a trained model to sample from and to evaluate.

Use:

    lm = DiffusionLM.load_checkpoint("runs/tiny")
    print(lm.sample("The ", length=100))
    print(lm.infill("The {} of {} is"))
    print(lm.evaluate().bits_per_byte)
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from dlms_jax.checkpoints.checkpoint import open_checkpoint
from dlms_jax.config import Config, SamplingConfig, from_dict
from dlms_jax.data.feed.dataset import Split, build_dataset, load_split
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.denoiser import make_denoiser, make_network, vocabulary_of
from dlms_jax.diffusion import make_objective
from dlms_jax.diffusion.protocol import example_keys
from dlms_jax.errors import UserError
from dlms_jax.evaluation.bound import BoundEvaluator, BoundReport
from dlms_jax.parallel import rules
from dlms_jax.parallel.mesh import batch_shards, to_local
from dlms_jax.sampling import Canvas, make_canvas, make_sampler, parse_infill, run, settings_of


class DiffusionLM:
    """A network, its weights and its tokenizer: any diffusion, or the autoregressive baseline."""

    def __init__(
        self, config: Config, tokenizer: Tokenizer, params: Any, mesh: Mesh,
        metadata: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.config, self.tokenizer, self.params, self.mesh = config, tokenizer, params, mesh
        self.metadata = metadata or {}
        vocabulary = vocabulary_of(tokenizer)
        self.objective = make_objective(config, vocabulary)
        self.network = make_network(config, vocabulary.rows, mesh)
        self._compiled = functools.lru_cache(self._compile)
        # Refuses a sampler that does not fit the objective, before anything is trained.
        make_sampler(config.objective.name, self.objective, config.sampling)

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

    def sample(
        self, prompt: str = "", length: int | None = None, seed: int = 0, **sampling
    ) -> str:  # fmt: skip
        """Returns the prompt and what the model writes after it, up to `length` tokens.

        sampling: settings of config.sampling (steps, temperature, guidance, sampler, top_p, ...)
        that differ from the checkpoint's; length: where None, its own, or as much as fits.
        Raises UserError for a prompt that does not fit, or a setting that the model cannot follow.
        """
        return self.samples([prompt], length, seed, **sampling)[0]

    def samples(
        self, prompts: Sequence[str], length: int | None = None, seed: int = 0, **sampling
    ) -> list[str]:  # fmt: skip
        """Returns a text for each prompt, all written in one batch; each is what `sample` gives."""
        rows = [self.after(prompt, length) for prompt in prompts]
        return self._last(rows, seed, sampling)

    def infill(self, template: str, hole: int = 8, seed: int = 0, **sampling) -> str:
        """Returns a text with its holes filled: {} is `hole` tokens long, {12} is 12."""
        return self._last([parse_infill(template, hole)], seed, sampling)[0]

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
        self, rows: Sequence[Sequence[str | int]], num: int = 1, seed: int = 0,
        every: int | None = None, class_name: str | None = None, **sampling,
    ) -> Iterator[Canvas]:  # fmt: skip
        """Yields canvases, filled further every `every` steps (None: at the end alone).

        rows: the pieces of each text: what is given, and numbers of tokens to fill. num: samples
        of each, which stand together. Sample i of a row depends on its pieces and (seed, i) alone,
        whatever else is sampled. class_name: a corpus of config.data.mixture to write like.
        """
        if num < 1 or not rows:
            raise UserError(f"{num} samples of {len(rows)} texts were asked for; ask for 1 or more")
        rule, start, go = self._compiled(self.sampling(**sampling))
        pieces = [row for row in rows for _ in range(num)]
        number = len(pieces)
        short = -number % batch_shards(self.mesh)
        pieces += [pieces[-1]] * short
        canvas = make_canvas(
            pieces, self.tokenizer, self.config.data.sequence_length, self._class_id(class_name)
        )
        total = rule.num_steps(canvas)
        within_row = np.append(np.tile(np.arange(num), len(rows)), np.full(short, num))
        keys_B = example_keys(jax.random.fold_in(jax.random.key(seed), 0), within_row)
        state = start(self.params, canvas, keys_B)
        for first in range(0, max(total, 1), every or max(total, 1)):
            state = go(self.params, state, keys_B, first, min(first + (every or total), total))
            yield jax.tree.map(lambda x: x[:number], to_local(state.canvas))
            if to_local(state.done_B).all():
                return

    def sampling(self, **settings) -> SamplingConfig:
        """Returns config.sampling with some settings changed; None leaves one as it is."""
        known = [field.name for field in dataclasses.fields(SamplingConfig)]
        for name in settings.keys() - set(known):
            raise UserError(f"{name} is no setting of sampling; those are {', '.join(known)}")
        given = {name: value for name, value in settings.items() if value is not None}
        sampling = dataclasses.asdict(self.config.sampling) | given
        sampling = from_dict({"sampling": sampling}).sampling
        objective = self.config.objective.name
        for name in given.keys() - settings_of(objective, sampling):
            raise UserError(
                f"{name} plays no part in sampler={sampling.sampler} of objective {objective}; "
                "leave it out"
            )
        return sampling

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
        """Returns the bits per byte that no model of this kind can beat on a split, where the
        text's own distribution is known; a denoiser is told where documents end, so less is left.
        """
        given = "" if self.objective.traits.exact else "_given_length"
        return split.fingerprint.get(f"best_bits_per_byte{given}")

    def _last(self, rows, seed, sampling):
        *_, canvas = self.stream(rows, seed=seed, **sampling)
        return self.texts(canvas)

    def _class_id(self, name):
        """Returns the number of a class, from 1; 0 for none."""
        if name is None:
            return 0
        names = list(self.config.data.mixture) if self.config.model.classes else []
        if name not in names:
            raise UserError(
                f"this model has no class {name!r}; "
                + (f"its classes are {', '.join(names)}" if names else "it has none")
            )
        return names.index(name) + 1

    def _compile(self, sampling):
        rule = make_sampler(self.config.objective.name, self.objective, sampling)

        def denoiser(params):
            return make_denoiser(self.config, self.network, params, self.objective, self.mesh)

        start = jax.jit(lambda params, *canvas: rule.start(denoiser(params), *canvas))
        go = jax.jit(lambda params, *at: run(rule, denoiser(params), *at))
        return rule, start, go

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
