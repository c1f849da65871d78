"""The bound on held-out text: nats per token, bits per byte and perplexity."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from dlms_jax.config import SETTINGS, Config
from dlms_jax.data.feed.dataset import RowStore, Split
from dlms_jax.data.feed.loader import eval_batches
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.denoiser import make_denoiser
from dlms_jax.diffusion import Objective, make_batch
from dlms_jax.models import Network
from dlms_jax.parallel.mesh import check_rows, local_rows, replicated, to_global


@dataclasses.dataclass(frozen=True)
class BoundReport:
    """An upper bound on -log p of a text; for an autoregressive model, -log p itself.

    Attributes:
      nats_per_token, bits_per_byte, perplexity: the bound.
      stderr: one standard error of bits_per_byte, over rows.
      unigram_nats: entropy of the tokens' own frequencies, in nats per token: the loss of a model
        that knows only these frequencies.
      tokens, bytes, rows: the amount of text that was scored.
      protocol: how the numbers were computed.
    """

    nats_per_token: float
    bits_per_byte: float
    stderr: float
    perplexity: float
    unigram_nats: float
    tokens: int
    bytes: int
    rows: int
    protocol: str

    @property
    def below_unigram(self) -> float:
        """Returns the share of the unigram entropy that the model saves."""
        return 1 - self.nats_per_token / self.unigram_nats

    @property
    def beside_unigram(self) -> str:
        """Returns `below_unigram` in words, such as "36.0% below" or "5.7% above"."""
        return f"{abs(self.below_unigram):.1%} {'below' if self.below_unigram >= 0 else 'above'}"


class BoundEvaluator:
    """Evaluates a network with any weights, with one compiled program."""

    def __init__(
        self,
        config: Config,
        model: Network,
        objective: Objective,
        tokenizer: Tokenizer,
        mesh: Mesh,
        samples: int | None = None,
        seed: int | None = None,
    ):
        """Makes an evaluator.

        Args:
          config: the config of the run.
          model: the network.
          objective: its objective.
          tokenizer: its tokenizer.
          mesh: devices that share the rows of a batch.
          samples: Monte-Carlo strata per document. None: config.evaluation.samples.
          seed: seed of the estimate. None: config.evaluation.seed.

        Raises:
          UserError: samples or seed is out of range, or the batch size does not divide.
        """
        check_rows(mesh, config.evaluation.batch_size, "evaluation.batch_size")
        evaluation = config.evaluation
        samples = evaluation.samples if samples is None else samples
        seed = evaluation.seed if seed is None else seed
        self._config, self._tokenizer, self._mesh = config, tokenizer, mesh
        self._objective = objective
        self._seed = SETTINGS["evaluation.seed"].check(seed, "seed")
        self._samples = SETTINGS["evaluation.samples"].check(samples, "samples")
        self._step = _bound_step(
            config, model, objective, mesh, self._samples, tokenizer.bytes_of_ids()
        )

    def __call__(self, params, rows: RowStore, number: int = 0) -> BoundReport:
        """Returns the report on some rows, of which one batch at a time is in memory.

        All tokens of a text except BOS are scored; in a dialogue, only the answers.

        Args:
          params: the network's weights.
          rows: the rows.
          number: the number of rows from the start. 0: all.

        Raises:
          UserError: the number is out of range.
        """
        number = SETTINGS["evaluation.rows"].check(number, "rows")
        number = min(number or rows.number, rows.number)
        batch_size = self._config.evaluation.batch_size
        mine = local_rows(self._mesh, batch_size)
        key = jax.random.key(self._seed)
        batches = eval_batches(rows, number, batch_size, self._tokenizer.pad_id, mine)
        measured = []
        for start, batch in enumerate(batches):
            row_B = (start * batch_size + mine).astype(np.int32)
            batch, row_B = to_global((batch, row_B), self._mesh)
            measured.append(self._step(params, batch, row_B, key))
        nats, tokens, sizes, counts = zip(*jax.device_get(measured), strict=True)
        nats_R, tokens_R, bytes_R = (
            np.concatenate(x)[:number].astype(np.float64) for x in (nats, tokens, sizes)
        )
        return self._report(nats_R, tokens_R, bytes_R, np.sum(counts, axis=0, dtype=np.int64))

    def protocol(self) -> str:
        """Returns a sentence that says how the numbers are computed."""
        if self._objective.traits.exact:
            how = self._objective.protocol
        else:
            how = (
                f"{self._objective.protocol}, {self._samples} Monte-Carlo strata a document, "
                f"seed {self._seed}"
            )
        length = self._config.data.sequence_length
        return (
            f"{how}; documents packed in rows of {length} tokens, each part of a document "
            "after a BOS that is not scored, EOS scored, no attention across documents"
        )

    def _report(self, nats_R, tokens_R, bytes_R, counts_V):
        tokens, size = int(tokens_R.sum()), int(bytes_R.sum())
        nats, bits = nats_R.sum(), nats_R / math.log(2)
        ratio = bits.sum() / max(size, 1)
        # Standard error of a ratio of sums over rows (delta method).
        n = len(nats_R)
        spread = np.square(bits - ratio * bytes_R).sum() * n / max(n - 1, 1)
        return BoundReport(
            nats_per_token=nats / tokens,
            bits_per_byte=ratio,
            stderr=math.sqrt(spread) / max(size, 1),
            perplexity=float(np.exp(min(nats / tokens, 700.0))),
            unigram_nats=unigram_entropy(counts_V),
            tokens=tokens,
            bytes=size,
            rows=n,
            protocol=self.protocol(),
        )


def best_possible(objective: Objective, split: Split) -> float | None:
    """Returns the lowest possible bits per byte on a split; None if the distribution is unknown.

    It depends on the kind of objective: a denoiser sees where documents end, so its optimum is
    lower than that of an exact model.
    """
    exact = objective.traits.exact
    key = "best_bits_per_byte" if exact else "best_bits_per_byte_given_length"
    return split.fingerprint.get(key)


def unigram_entropy(counts_V: np.ndarray) -> float:
    """Returns the entropy of token counts, in nats: the loss of a model that knows only them."""
    p = counts_V[counts_V > 0] / counts_V.sum()
    return float(-(p * np.log(p)).sum())


def _bound_step(config, model, objective, mesh, samples, bytes_of_ids_V):
    """Returns step(params, rows, row_B, key) -> (nats_B, tokens_B, bytes_B, counts_V).

    These are each row's bound averaged over samples, the number of its scored tokens, their bytes,
    and the counts of all tokens.
    """

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def step(params, rows, row_B, key):
        denoise = make_denoiser(config, model, params, objective, mesh)
        batch = make_batch(*rows.cells, row_B, rows.class_R)
        scored_BxL = batch.scored_BxL.astype(jnp.int32)
        bytes_BxL = jnp.asarray(bytes_of_ids_V)[batch.tokens_BxL] * scored_BxL
        counts_V = jnp.zeros(len(bytes_of_ids_V), jnp.int32).at[batch.tokens_BxL].add(scored_BxL)
        counted = jnp.sum(scored_BxL, axis=1), jnp.sum(bytes_BxL, axis=1), counts_V

        def add(nats_B, sample):
            nats_BxL = objective.bound(denoise, batch, key, sample, samples)
            return nats_B + jnp.sum(nats_BxL, axis=1), None

        if objective.traits.exact:
            nats_B = jnp.sum(objective.bound(denoise, batch, key, 0, 1), axis=1)
        else:
            zeros = jnp.zeros(row_B.shape, jnp.float32)
            nats_B, _ = jax.lax.scan(add, zeros, jnp.arange(samples))
            nats_B /= samples
        return nats_B, *counted

    return step
