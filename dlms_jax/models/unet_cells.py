"""Downsampling and upsampling of rows of documents for the U-Net.

A cell holds two neighbouring tokens of one document, paired from the document's start: (0, 1),
(2, 3), ...; an odd token at the end joins the last cell as a third. A document of one token has no
cell and does not reach the next level. So no cell holds two documents, and the cells of a document
depend neither on its offset in the row nor on the documents beside it.

A document of n tokens at index s of the row has its n // 2 cells from index s // 2 on. Since
s // 2 + n // 2 <= (s + n) // 2, the cells of the next document come after them, and M = L // 2
slots hold the cells of any row of length L; unused slots are padding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Cells(NamedTuple):
    """The assignment of the tokens of a row to cells.

    Attributes:
      place_BxL: a token's place in its cell (0, 1 or 2); -1 if it has no cell.
      early_BxM: whether a cell's first token has the even index, 2m, rather than 2m + 1.
      held_BxMx3: which of a cell's three places hold a token; all False for an unused slot.
    """

    place_BxL: jax.Array
    early_BxM: jax.Array
    held_BxMx3: jax.Array

    def gather(self, x_BxLxD) -> jax.Array:
        """Returns x_BxMx3xD: the tokens of each cell, 0 at places without a token."""
        even_BxMxD, odd_BxMxD = _pairs(x_BxLxD, 0)
        early = jnp.stack([even_BxMxD[:, :-1], odd_BxMxD[:, :-1], even_BxMxD[:, 1:]], axis=2)
        late = jnp.stack([odd_BxMxD[:, :-1], even_BxMxD[:, 1:], odd_BxMxD[:, 1:]], axis=2)
        x_BxMx3xD = jnp.where(self.early_BxM[:, :, None, None], early, late)
        return jnp.where(self.held_BxMx3[..., None], x_BxMx3xD, 0)

    def first(self, x_BxL) -> jax.Array:
        """Returns x_BxM, the value at each cell's first token; 0 for an unused slot."""
        return self.gather(x_BxL[..., None])[:, :, 0, 0]

    def mean(self, x_BxLxD) -> jax.Array:
        """Returns x_BxMxD, the mean over each cell's tokens; 0 for an unused slot."""
        number_BxM = jnp.maximum(jnp.sum(self.held_BxMx3, axis=2), 1)
        mean_BxMxD = jnp.sum(self.gather(x_BxLxD), axis=2) / number_BxM[..., None]
        return mean_BxMxD.astype(x_BxLxD.dtype)

    def spread(self, x_BxMx3xD) -> jax.Array:
        """Returns x_BxLxD, the inverse of `gather`: 0 for tokens without a cell."""
        length = self.place_BxL.shape[1]

        def repeated(place, shift):
            """Returns, at token i, the value of cell i // 2 - shift."""
            x_BxMxD = jnp.pad(x_BxMx3xD[:, :, place], ((0, 0), (shift, 1), (0, 0)))
            return jnp.repeat(x_BxMxD, 2, axis=1)[:, :length]

        place_BxLx1 = self.place_BxL[..., None]
        odd_1xLx1 = (jnp.arange(length) % 2 == 1)[None, :, None]
        second = jnp.where(odd_1xLx1, repeated(1, 0), repeated(1, 1))
        x_BxLxD = jnp.where(place_BxLx1 == 0, repeated(0, 0), 0)
        x_BxLxD = jnp.where(place_BxLx1 == 1, second, x_BxLxD)
        return jnp.where(place_BxLx1 == 2, repeated(2, 1), x_BxLxD)


def make_cells(segments_BxL: jax.Array) -> Cells:
    """Returns the cells of rows with the given segments (0: padding, which has no cells)."""
    joined_BxL = joined(segments_BxL)
    goes_on_BxL = jnp.pad(joined_BxL[:, 1:], ((0, 0), (0, 1)))
    index_1xL = jnp.arange(segments_BxL.shape[1])[None]
    start_BxL = jax.lax.cummax(jnp.where(joined_BxL, 0, index_1xL), axis=1)
    offset_BxL = index_1xL - start_BxL
    last_BxL = jnp.where(offset_BxL > 0, 2, -1)
    place_BxL = jnp.where(offset_BxL % 2 == 1, 1, jnp.where(goes_on_BxL, 0, last_BxL))

    even_BxM, odd_BxM = _pairs(place_BxL, -1)
    early_BxM = even_BxM[:, :-1] == 0
    cell_BxM = early_BxM | (odd_BxM[:, :-1] == 0)
    third_BxM = cell_BxM & (jnp.where(early_BxM, even_BxM[:, 1:], odd_BxM[:, 1:]) == 2)
    return Cells(place_BxL, early_BxM, jnp.stack([cell_BxM, cell_BxM, third_BxM], axis=2))


def joined(segments_BxL: jax.Array) -> jax.Array:
    """Returns joined_BxL, True where a token and the one before it belong to one document."""
    same_BxL = segments_BxL[:, 1:] == segments_BxL[:, :-1]
    return jnp.pad(same_BxL & (segments_BxL[:, 1:] > 0), ((0, 0), (1, 0)))


def with_neighbours(x_BxLxD, joined_BxL) -> jax.Array:
    """Returns x_BxLx3D: each token with the ones before and after it, 0 for another document's.

    Multiplied by a matrix this is a convolution of three taps.
    """
    sides = jnp.pad(x_BxLxD, ((0, 0), (1, 1), (0, 0)))
    joined_BxLx1 = jnp.pad(joined_BxL, ((0, 0), (0, 1)))[..., None]
    before_BxLxD = jnp.where(joined_BxLx1[:, :-1], sides[:, :-2], 0)
    after_BxLxD = jnp.where(joined_BxLx1[:, 1:], sides[:, 2:], 0)
    return jnp.concatenate([before_BxLxD, x_BxLxD, after_BxLxD], axis=-1)


def _pairs(x, fill):
    """Returns (x[:, 2j], x[:, 2j + 1]) for j = 0..M, padded with `fill` past the end."""
    length = x.shape[1]
    pairs = max(length // 2, 1) + 1
    widths = [(0, 0), (0, 2 * pairs - length)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, widths, constant_values=fill)
    return x[:, ::2], x[:, 1::2]
