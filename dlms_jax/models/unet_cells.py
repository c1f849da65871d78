"""How the U-Net halves rows of documents, and brings them back to their length.

A cell holds two neighbouring tokens of one document, paired from the document's start: (0, 1),
(2, 3), ...; an odd one at its end joins the last cell as a third. A document of one token has no
cell: it ends at this resolution. So no cell holds two documents, and a document's cells are the
same wherever in a row it stands and whatever stands beside it.

A document of n tokens at place s of the row has its n // 2 cells from place s // 2 on. Since
s // 2 + n // 2 <= (s + n) // 2, the next document's are behind them, and L // 2 places hold the
cells of any row of any length L; a place left over is padding. M is the number of those places.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Cells(NamedTuple):
    """Which tokens make the cells of a row.

    place_BxL: a token's place in its cell (0, 1 or 2); -1 where it has none.
    early_BxM: True where a cell's first token is the even one of the array's pair, not the odd one.
    held_BxMx3: which of a cell's three places hold a token; none of an empty cell's.
    """

    place_BxL: jax.Array
    early_BxM: jax.Array
    held_BxMx3: jax.Array

    def gather(self, x_BxLxD) -> jax.Array:
        """Returns x_BxMx3xD: the tokens of each cell, 0 at places that hold none."""
        even_BxMxD, odd_BxMxD = _pairs(x_BxLxD, 0)
        early = jnp.stack([even_BxMxD[:, :-1], odd_BxMxD[:, :-1], even_BxMxD[:, 1:]], axis=2)
        late = jnp.stack([odd_BxMxD[:, :-1], even_BxMxD[:, 1:], odd_BxMxD[:, 1:]], axis=2)
        x_BxMx3xD = jnp.where(self.early_BxM[:, :, None, None], early, late)
        return jnp.where(self.held_BxMx3[..., None], x_BxMx3xD, 0)

    def first(self, x_BxL) -> jax.Array:
        """Returns x_BxM of each cell's first token, 0 of an empty cell."""
        return self.gather(x_BxL[..., None])[:, :, 0, 0]

    def mean(self, x_BxLxD) -> jax.Array:
        """Returns x_BxMxD, the mean over each cell's tokens; 0 of an empty cell."""
        number_BxM = jnp.maximum(jnp.sum(self.held_BxMx3, axis=2), 1)
        mean_BxMxD = jnp.sum(self.gather(x_BxLxD), axis=2) / number_BxM[..., None]
        return mean_BxMxD.astype(x_BxLxD.dtype)

    def spread(self, x_BxMx3xD) -> jax.Array:
        """Returns x_BxLxD: to each token what its place in its cell holds, 0 where it has none."""
        length = self.place_BxL.shape[1]

        def repeated(place, shift):
            """Cell i // 2 - shift at token i."""
            x_BxMxD = jnp.pad(x_BxMx3xD[:, :, place], ((0, 0), (shift, 1), (0, 0)))
            return jnp.repeat(x_BxMxD, 2, axis=1)[:, :length]

        place_BxLx1 = self.place_BxL[..., None]
        odd_1xLx1 = (jnp.arange(length) % 2 == 1)[None, :, None]
        second = jnp.where(odd_1xLx1, repeated(1, 0), repeated(1, 1))
        x_BxLxD = jnp.where(place_BxLx1 == 0, repeated(0, 0), 0)
        x_BxLxD = jnp.where(place_BxLx1 == 1, second, x_BxLxD)
        return jnp.where(place_BxLx1 == 2, repeated(2, 1), x_BxLxD)


def make_cells(segments_BxL: jax.Array) -> Cells:
    """Returns the cells of rows of documents (0: padding, which has none)."""
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
    """Returns joined_BxL: True where a token and the one before it are of one document."""
    same_BxL = segments_BxL[:, 1:] == segments_BxL[:, :-1]
    return jnp.pad(same_BxL & (segments_BxL[:, 1:] > 0), ((0, 0), (1, 0)))


def with_neighbours(x_BxLxD, joined_BxL) -> jax.Array:
    """Returns x_BxLx3D: the token before, the token, the token after; 0 for one that is of another
    document. A matrix times this is a convolution of three taps."""
    sides = jnp.pad(x_BxLxD, ((0, 0), (1, 1), (0, 0)))
    joined_BxLx1 = jnp.pad(joined_BxL, ((0, 0), (0, 1)))[..., None]
    before_BxLxD = jnp.where(joined_BxLx1[:, :-1], sides[:, :-2], 0)
    after_BxLxD = jnp.where(joined_BxLx1[:, 1:], sides[:, 2:], 0)
    return jnp.concatenate([before_BxLxD, x_BxLxD, after_BxLxD], axis=-1)


def _pairs(x, fill):
    """Returns (x[:, 2j], x[:, 2j + 1]) for j = 0..M, filled where the array has ended."""
    length = x.shape[1]
    pairs = max(length // 2, 1) + 1
    widths = [(0, 0), (0, 2 * pairs - length)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, widths, constant_values=fill)
    return x[:, ::2], x[:, 1::2]
