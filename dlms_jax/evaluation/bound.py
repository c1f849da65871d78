"""The bound on held-out text: nats per token, bits per byte, perplexity, with a standard error."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from dlms_jax.config import Config
from dlms_jax.data.dataset import unigram_entropy
from dlms_jax.data.loader import eval_batches
from dlms_jax.data.packing import Rows
from dlms_jax.data.tokenizers import Tokenizer
from dlms_jax.diffusion import Batch, Layout, Objective
from dlms_jax.models import Transformer
from dlms_jax.parallel.mesh import check_rows, local_rows, replicated, to_global
from dlms_jax.training.denoiser import make_denoiser


@dataclasses.dataclass(frozen=True)
class BoundReport:
    """An upper bound on -log p of a text (for an autoregressive model, -log p itself).

    unigram_nats: entropy of the same tokens' own frequencies, in nats a token: what knowing
    nothing but the frequencies would give. stderr: one standard error of bits_per_byte, over rows.
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
        """The share of the unigram entropy that the model saves."""
        return 1 - self.nats_per_token / self.unigram_nats


class BoundEvaluator:
    """Evaluates one network, whatever its weights, with one compiled program."""

    def __init__(
        self, config: Config, model: Transformer, objective: Objective, tokenizer: Tokenizer,
        mesh: Mesh, samples: int | None = None, seed: int | None = None,
    ):  # fmt: skip
        """samples, seed: of the Monte-Carlo estimate; the config's where None."""
        check_rows(mesh, config.evaluation.batch_size, "evaluation.batch_size")
        self._config, self._tokenizer, self._mesh = config, tokenizer, mesh
        self._objective = objective
        self._seed = config.evaluation.seed if seed is None else seed
        self._samples = config.evaluation.samples if samples is None else samples
        self._step = _bound_step(config, model, objective, mesh, self._samples)

    def __call__(self, params, rows: Rows) -> BoundReport:
        """Returns the report on all the rows. Every token of a document but BOS is scored."""
        batch_size = self._config.evaluation.batch_size
        mine = local_rows(self._mesh, batch_size)
        key = jax.random.key(self._seed)
        nats_R = []
        for start, batch in enumerate(eval_batches(rows, batch_size, self._tokenizer.pad_id, mine)):
            row_B = (start * batch_size + mine).astype(np.int32)
            batch, row_B = to_global((batch, row_B), self._mesh)
            nats_R.append(self._step(params, batch, row_B, key))
        nats_R = np.concatenate(jax.device_get(nats_R))[: rows.number].astype(np.float64)
        return self._report(nats_R, rows)

    def protocol(self) -> str:
        """Returns, in a sentence, how the numbers were made."""
        if self._objective.exact:
            how = "exact likelihood, one pass"
        else:
            how = (
                f"masked bound in its count form, {self._samples} Monte-Carlo strata a document, "
                f"seed {self._seed}"
            )
        length = self._config.data.sequence_length
        return (
            f"{how}; documents packed in rows of {length} tokens, each part of a document "
            "after a BOS that is not scored, EOS scored, no attention across documents"
        )

    def _report(self, nats_R, rows):
        scored = rows.scored_RxL
        bytes_R = (self._tokenizer.bytes_of_ids()[rows.tokens_RxL] * scored).sum(axis=1)
        tokens, size = int(scored.sum()), int(bytes_R.sum())
        nats, bits = nats_R.sum(), nats_R / math.log(2)
        ratio = bits.sum() / max(size, 1)
        # Standard error of a ratio of sums over rows (delta method).
        n = rows.number
        spread = np.square(bits - ratio * bytes_R).sum() * n / max(n - 1, 1)
        return BoundReport(
            nats_per_token=nats / tokens,
            bits_per_byte=ratio,
            stderr=math.sqrt(spread) / max(size, 1),
            perplexity=float(np.exp(min(nats / tokens, 700.0))),
            unigram_nats=unigram_entropy(rows),
            tokens=tokens,
            bytes=size,
            rows=n,
            protocol=self.protocol(),
        )


def _bound_step(config, model, objective, mesh, samples):
    """Returns step(params, rows, row_B, key) -> nats_B, each row's bound averaged over samples."""

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def step(params, rows, row_B, key):
        denoise = make_denoiser(config, model, params, objective.attention, mesh)
        batch = Batch(rows.tokens_RxL, Layout(rows.segments_RxL, rows.positions_RxL), row_B)
        if objective.exact:
            return jnp.sum(objective.bound(denoise, batch, key, 0, 1), axis=1)

        def add(nats_B, sample):
            nats_BxL = objective.bound(denoise, batch, key, sample, samples)
            return nats_B + jnp.sum(nats_BxL, axis=1), None

        zeros = jnp.zeros(row_B.shape, jnp.float32)
        nats_B, _ = jax.lax.scan(add, zeros, jnp.arange(samples))
        return nats_B / samples

    return step
