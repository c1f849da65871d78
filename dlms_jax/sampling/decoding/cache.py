"""Keys and values of what is given, before a sampler's first step."""

from typing import Any

from dlms_jax.diffusion import Denoiser
from dlms_jax.errors import UserError


def filled_cache(denoise: Denoiser, tokens_BxL, t_BxL, layout) -> Any:
    """Returns a cache of all of a canvas, in one pass. Holes are read too: who uses the cache reads
    them again, filled, before anything sees them. Raises UserError for a network without a cache.
    """
    if denoise.cached is None:
        raise UserError(
            "this network keeps no keys and values of what it has read; set "
            "config.sampling.cache=False"
        )
    cache = denoise.cached.empty(*tokens_BxL.shape)
    return denoise.cached.logits(tokens_BxL, t_BxL, layout, 0, cache)[1]
