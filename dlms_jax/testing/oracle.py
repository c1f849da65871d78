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
        weights_BxL = jnp.asarray(positions > 0, jnp.float32)
        return Batch(jnp.asarray(tokens), layout, jnp.arange(rows), weights_BxL)

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

    def leave_one_out_denoiser(self, schedule, mask_share=0.0, leave_out=True) -> Denoiser:
        """Returns p(x_i | x_t without place i) of uniform diffusion, exact, each place at its own
        t (0: clean; a mask at t=0 is a token that is not known). leave_out=False: the ordinary
        posterior p(x_i | x_t)."""
        share = (1 - mask_share) / int((self.vocabulary.text_bias_V() == 0).sum())

        def logits(inputs_BxL, t_BxL, layout):
            z_BxL, noise_BxL = inputs_BxL[:, 1:], schedule.masked(t_BxL[:, 1:])
            same_BxTxL = z_BxL[:, None] == self.texts[None]
            like_BxTxL = (1 - noise_BxL)[:, None] * same_BxTxL + share * noise_BxL[:, None]
            # Of a mask the likelihood is the same for all texts.
            masked_BxTxL = (z_BxL == self.vocabulary.mask_id)[:, None] | jnp.zeros_like(same_BxTxL)
            like_BxTxL = jnp.where(masked_BxTxL, 1.0, like_BxTxL)
            logits_BxLxV = []
            for place in range(self.length):
                others_BxTxL = like_BxTxL.at[:, :, place].set(1.0) if leave_out else like_BxTxL
                log_p_BxLxV = self._logits(others_BxTxL.prod(axis=2), shift=0)
                logits_BxLxV.append(log_p_BxLxV[:, place])
            return jnp.pad(jnp.stack(logits_BxLxV, axis=1), ((0, 0), (1, 0), (0, 0)))

        return Denoiser.from_logits(logits)

    def block_denoiser(self) -> Denoiser:
        """Returns p(x_i | the clean blocks before, what is not masked in the block of i), exact, in
        the first half of rows [x_t, x_0]; of the second half's logits nothing is known."""

        def logits(inputs_Bx2L, t_Bx2L, layout):
            half = inputs_Bx2L.shape[1] // 2
            noisy_BxL, clean_BxL = inputs_Bx2L[:, 1:half], inputs_Bx2L[:, half + 1 :]
            blocks_BxL = layout.blocks_BxL[:, 1:half]
            logits_BxLxV = []
            for place in range(self.length):
                here_BxL = blocks_BxL[:, place, None]
                seen_BxL = jnp.where(blocks_BxL < here_BxL, clean_BxL, self.vocabulary.mask_id)
                seen_BxL = jnp.where(blocks_BxL == here_BxL, noisy_BxL, seen_BxL)
                open_BxL = seen_BxL == self.vocabulary.mask_id
                agrees_BxTxL = (seen_BxL[:, None] == self.texts[None]) | open_BxL[:, None]
                log_p_BxLxV = self._logits(agrees_BxTxL.all(axis=-1), shift=0)
                logits_BxLxV.append(log_p_BxLxV[:, place])
            logits_BxLxV = jnp.pad(jnp.stack(logits_BxLxV, axis=1), ((0, 0), (1, 0), (0, 0)))
            return jnp.concatenate([logits_BxLxV, jnp.full_like(logits_BxLxV, jnp.nan)], axis=1)

        return Denoiser.from_logits(logits)

    def _logits(self, agrees_BxT, shift: int):
        """Returns log p of each symbol at each place, where texts agree with what is known or are
        so likely to have led to it."""
        p_BxT = agrees_BxT * jnp.asarray(self.p, jnp.float32)[None]
        p_BxT /= p_BxT.sum(axis=1, keepdims=True)
        one_hot_TxLxV = np.eye(self.vocabulary.padded_size, dtype=np.float32)[self.texts]
        log_p_BxLxV = jnp.log(jnp.einsum("bt,tlv->blv", p_BxT, one_hot_TxLxV))
        return jnp.pad(log_p_BxLxV, ((0, 0), (shift, 0), (0, 0)))
