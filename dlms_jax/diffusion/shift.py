"""The habit of autoregressive networks: the output at position i - 1 predicts token i."""

import jax.numpy as jnp

from dlms_jax.diffusion.protocol import Denoiser


def shifted(denoise: Denoiser) -> Denoiser:
    """Returns the Denoiser that reads a network's output at each position as the prediction of the
    next one's token.

    What is scored has a position before it in its own document: its BOS, at least. Position 0 of a
    row, which holds a BOS and is never scored, gets the output of the last. It has no cache, whose
    positions are the network's own.
    """

    def forward(inputs, t_BxL, layout):
        logits_BxLxV, routers = denoise.forward(inputs, t_BxL, layout)
        return jnp.roll(logits_BxLxV, 1, axis=1), routers

    def nll(inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
        found = denoise.nll(
            inputs, t_BxL, layout, _shift_left(targets_BxL), _shift_left(weights_BxL), bias_V
        )
        # Back onto what was predicted.
        return found._replace(nll_BxL=jnp.pad(found.nll_BxL[:, :-1], ((0, 0), (1, 0))))

    return denoise._replace(forward=forward, nll=nll, cached=None)


def _shift_left(x_BxL):
    """Returns x at the next position; 0 (never scored) at the last."""
    return jnp.pad(x_BxL[:, 1:], ((0, 0), (0, 1)))
