"""Shifted outputs, as in autoregressive networks: each position predicts the next token."""

import jax.numpy as jnp

from dlms_jax.diffusion.protocol import Denoiser


def shifted(denoise: Denoiser) -> Denoiser:
    """Returns the Denoiser of a network whose output at a position predicts the next token.

    Every scored token has a token before it in its document, at least BOS. Index 0 of a row holds a
    BOS, which is never scored, and gets the output of the last index. The result has no cache,
    because a cache uses the network's own positions.
    """

    def forward(inputs, t_BxL, layout):
        logits_BxLxV, routers = denoise.forward(inputs, t_BxL, layout)
        return jnp.roll(logits_BxLxV, 1, axis=1), routers

    def nll(inputs, t_BxL, layout, targets_BxL, weights_BxL, bias_V):
        found = denoise.nll(
            inputs, t_BxL, layout, _shift_left(targets_BxL), _shift_left(weights_BxL), bias_V
        )
        # Move each value back to the token that it scores.
        return found._replace(nll_BxL=jnp.pad(found.nll_BxL[:, :-1], ((0, 0), (1, 0))))

    return denoise._replace(forward=forward, nll=nll, cached=None)


def _shift_left(x_BxL):
    """Returns x at the next position, and 0 (not scored) at the last."""
    return jnp.pad(x_BxL[:, 1:], ((0, 0), (0, 1)))
