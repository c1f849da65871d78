"""TextGenerator: samples text from prompts, with any weights of one network."""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from dlms_jax.config import SETTINGS, Config, SamplingConfig, from_dict
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.diffusion import Denoiser, Objective
from dlms_jax.diffusion.protocol import example_keys
from dlms_jax.errors import UserError
from dlms_jax.parallel.hardware import check_memory
from dlms_jax.parallel.mesh import batch_shards, to_local
from dlms_jax.sampling.canvas import Canvas, make_canvas
from dlms_jax.sampling.sampler import run_sampler
from dlms_jax.sampling.settings import make_sampler, settings_of


class TextGenerator:
    """Generates text. Each sampler is compiled once and takes the weights as an argument."""

    def __init__(
        self,
        config: Config,
        objective: Objective,
        tokenizer: Tokenizer,
        mesh: Mesh,
        make_denoise: Callable[[Any], Denoiser],
    ):
        """Makes a generator.

        Args:
          config: the config of the run.
          objective: its objective.
          tokenizer: its tokenizer.
          mesh: devices that share the rows of a batch.
          make_denoise: params -> Denoiser.

        Raises:
          UserError: config.sampling does not fit the objective.
        """
        self.config, self.objective, self.tokenizer, self.mesh = config, objective, tokenizer, mesh
        self._make_denoise = make_denoise
        self._compiled = functools.lru_cache(self._compile)
        make_sampler(config.objective.name, objective, config.sampling)

    def samples(
        self,
        params: Any,
        prompts: Sequence[str],
        length: int | None = None,
        seed: int = 0,
        **sampling,
    ) -> list[str]:
        """Returns a text for each prompt: the prompt and its continuation.

        Args:
          params: the network's weights.
          prompts: the prompts.
          length: tokens to generate; None: see `after`.
          seed: seed of all draws.
          **sampling: settings of config.sampling to change.
        """
        rows = [self.after(prompt, length) for prompt in prompts]
        return self.fill(params, rows, seed, **sampling)

    def after(self, prompt: str, length: int | None = None) -> list[str | int]:
        """Returns the pieces of a prompt followed by a hole.

        Args:
          prompt: the text.
          length: tokens in the hole. None: config.sampling.length, or what fits the context.

        Raises:
          UserError: the length is below 1.
        """
        if length is None:
            room = self.config.data.sequence_length - 1 - len(self.tokenizer.encode(prompt))
            length = max(1, min(self.config.sampling.length, room))
        if length < 1:
            raise UserError(f"length={length} should be at least 1")
        return [prompt, length]

    def sampling(self, **settings) -> SamplingConfig:
        """Returns config.sampling with some settings changed; None keeps a setting.

        Raises:
          UserError: a setting is invalid, or the sampler does not read it.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        changed = dataclasses.asdict(self.config.sampling) | given
        sampling = from_dict({"sampling": changed}).sampling
        objective = self.config.objective.name
        for name in given.keys() - settings_of(objective, sampling):
            raise UserError(
                f"{name} has no effect on sampler={sampling.sampler} of objective {objective}; "
                "leave it out"
            )
        return sampling

    def stream(
        self,
        params: Any,
        rows: Sequence[Sequence[str | int]],
        num: int = 1,
        seed: int = 0,
        every: int | None = None,
        class_name: str | None = None,
        **sampling,
    ) -> Iterator[Canvas]:
        """Yields the canvas during sampling, and when it is full.

        Args:
          params: the network's weights.
          rows: the pieces of each text: given texts, and numbers of tokens to fill.
          num: samples per text; those of one text are adjacent rows. Sample i of a text depends
            only on its pieces and (seed, i), not on the other rows.
          seed: seed of all draws.
          every: steps between canvases. None: only the last one.
          class_name: a corpus of config.data.mixture, whose style the samples take.
          **sampling: settings of config.sampling to change.

        Raises:
          UserError: an argument is invalid.
        """
        if num < 1 or not rows:
            raise UserError(
                f"{num} samples of {len(rows)} texts: both numbers should be at least 1"
            )
        seed = SETTINGS["evaluation.seed"].check(seed, "seed")
        sampler, start, advance = self._compiled(self.sampling(**sampling))
        canvas = make_canvas(
            rows, self.tokenizer, self.config.data.sequence_length, self._class_id(class_name)
        )
        number, length = num * len(rows), canvas.tokens_BxL.shape[1]
        least = number * (16 * length + 4 * self.objective.vocabulary.padded_size)
        check_memory(least, f"{number} samples", "draw fewer at a time")
        short = -number % batch_shards(self.mesh)
        row_B = np.repeat(np.arange(len(rows)), num)
        row_B = np.append(row_B, np.full(short, len(rows) - 1))
        canvas = jax.tree.map(lambda x: x[row_B], canvas)
        total = max(sampler.num_steps(canvas), 1)
        within_text = np.append(np.tile(np.arange(num), len(rows)), np.full(short, num))
        keys_B = example_keys(jax.random.fold_in(jax.random.key(seed), 0), within_text)
        state = start(params, canvas, keys_B)
        for _ in range(0, total, every or total):
            state = advance(params, state, every or total)
            yield jax.tree.map(lambda x: x[:number], to_local(state.canvas))
            if to_local(state.done_B).all():
                return

    def fill(self, params: Any, rows, seed: int = 0, **sampling) -> list[str]:
        """Returns the text of each row; the arguments are those of `stream`."""
        *_, canvas = self.stream(params, rows, seed=seed, **sampling)
        return self.texts(canvas)

    def texts(self, canvas: Canvas, unfilled: str = "") -> list[str]:
        """Returns the text of each row, up to the first EOS in a hole.

        Args:
          canvas: the canvas.
          unfilled: shown in place of each hole that is still open.
        """
        rows = zip(canvas.tokens_BxL, canvas.holes_BxL, strict=True)
        return [self._text(tokens_L, holes_L, unfilled) for tokens_L, holes_L in rows]

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

    def _class_id(self, name):
        """Returns the id of a class, from 1; 0 without a class."""
        if name is None:
            return 0
        names = list(self.config.data.mixture) if self.config.model.classes else []
        if name not in names:
            raise UserError(
                f"unknown class {name!r}; "
                + (f"use one of {', '.join(names)}" if names else "this model has no classes")
            )
        return names.index(name) + 1

    def _compile(self, sampling):
        """Returns (sampler, start, advance); both functions are compiled and take the weights."""
        sampler = make_sampler(self.config.objective.name, self.objective, sampling)

        @jax.jit
        def start(params, canvas, keys_B):
            return sampler.start(self._make_denoise(params), canvas, keys_B)

        @jax.jit
        def advance(params, state, steps):
            return run_sampler(sampler, self._make_denoise(params), state, steps)

        return sampler, start, advance
