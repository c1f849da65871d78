"""Oracles: a known joint distribution on a few symbols, whose exact denoiser is an enumeration."""

import itertools

import jax.numpy as jnp
import numpy as np

from dlms_jax.diffusion import Batch, Denoiser, Layout, Vocabulary


class Joint:
    """A random distribution over texts of `length` symbols out of `symbols`.

    A text stands in a row after BOS. Token ids 0..symbols-1 are text.
    """

    def __init__(self, symbols: int = 3, length: int = 3, seed: int = 0):
        self.texts = np.array(list(itertools.product(range(symbols), repeat=length)))
        weights = np.random.default_rng(seed).gamma(0.5, size=len(self.texts)) + 1e-3
        self.p = weights / weights.sum()
        self.length, self.symbols = length, symbols
        self.vocabulary = Vocabulary(
            size=symbols + 4,
            pad_id=symbols, bos_id=symbols + 1, eos_id=symbols + 2, mask_id=symbols + 3,
        )  # fmt: skip

    @property
    def entropy(self) -> float:
        return float(-(self.p * np.log(self.p)).sum())

    def batch(self, texts=None) -> Batch:
        """Returns one row a text (all of them where None): BOS and the text."""
        texts = self.texts if texts is None else np.asarray(texts)
        rows = len(texts)
        tokens = np.insert(texts, 0, self.vocabulary.bos_id, axis=1).astype(np.int32)
        segments = np.ones_like(tokens)
        positions = np.tile(np.arange(self.length + 1, dtype=np.int32), (rows, 1))
        layout = Layout(jnp.asarray(segments), jnp.asarray(positions))
        return Batch(jnp.asarray(tokens), layout, jnp.arange(rows), layout.positions_BxL > 0)

    def masked_denoiser(self) -> Denoiser:
        """Returns p(x_i | the tokens that are not masked), exact for any set of masks."""

        def logits(inputs_BxL, t_BxL, layout):
            seen_BxL = inputs_BxL[:, 1:]
            open_BxL = seen_BxL == self.vocabulary.mask_id
            agrees_BxTxL = (seen_BxL[:, None] == self.texts[None]) | open_BxL[:, None]
            return self._logits(agrees_BxTxL.all(axis=-1), shift=1)

        return Denoiser.from_logits(logits)

    def next_token_denoiser(self) -> Denoiser:
        """Returns p(x_i+1 | x_1..i) at position i."""

        def logits(inputs_BxL, t_BxL, layout):
            logits_BxLxV = []
            for i in range(self.length + 1):  # at position i the first i symbols are known
                known = (inputs_BxL[:, None, 1 : i + 1] == self.texts[None, :, :i]).all(axis=-1)
                column = min(i, self.length - 1)  # what stands after the end is never scored
                logits_BxLxV.append(self._logits(known, shift=0)[:, column])
            return jnp.stack(logits_BxLxV, axis=1)

        return Denoiser.from_logits(logits)

    def _logits(self, agrees_BxT, shift: int):
        """Returns log p of each symbol at each place among the texts that agree."""
        p_BxT = agrees_BxT * jnp.asarray(self.p, jnp.float32)[None]
        p_BxT /= p_BxT.sum(axis=1, keepdims=True)
        one_hot_TxLxV = np.eye(self.vocabulary.rows, dtype=np.float32)[self.texts]
        log_p_BxLxV = jnp.log(jnp.einsum("bt,tlv->blv", p_BxT, one_hot_TxLxV))
        return jnp.pad(log_p_BxLxV, ((0, 0), (shift, 0), (0, 0)))
