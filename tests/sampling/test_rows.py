"""Rows at different steps, in one program, write what each would write alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from oracle_gaussian import exact_denoiser
import pytest
from sampling.chains import SmallJoint
from sampling.sequential import block_oracle, mixed_canvases, next_token_oracle
from sampling.test_gaussian import CONFIG, TABLE

from dlms_jax.config import BlockConfig, SamplingConfig
from dlms_jax.diffusion import Autoregressive, Block, Gaussian, Linear, Masked, Uniform
from dlms_jax.sampling import SAMPLERS, make_sampler, run_sampler

JOINT = SmallJoint(3, 3, seed=2)
V = JOINT.vocabulary
NETWORKS = {
    "masked": (Masked(V, Linear()), JOINT.masked_denoiser()),
    "block": (Block(V, Linear(), BlockConfig(size=2)), block_oracle(JOINT)),
    "uniform": (Uniform(V, Linear(), 0.3), JOINT.leave_one_out_denoiser(Linear(), 0.3)),
    "gaussian": (Gaussian(V, CONFIG, "linear"), exact_denoiser(JOINT, CONFIG, TABLE)),
    "autoregressive": (Autoregressive(V), next_token_oracle(JOINT)),
}
# Every sampler there is, under guidance; those with a cache without one too.
CASES = [
    *((name, {"sampler": sampler}) for name in NETWORKS for sampler in SAMPLERS[name]),
    ("block", {"cache": False}),
    ("block", {"guidance": 0.0}),
    ("autoregressive", {"cache": False}),
    ("autoregressive", {"guidance": 0.0}),
]


def beside(one, other, parts):
    """Returns a state with the rows of both; parts: of the rows of a cache, 2 under guidance."""

    def in_parts(x, y):
        pairs = zip(*(jnp.split(z, parts, axis=1) for z in (x, y)), strict=True)
        return jnp.concatenate([z for pair in pairs for z in pair], axis=1)

    caches = one.cache, other.cache
    one, other = one._replace(cache=None), other._replace(cache=None)
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), one, other)
    return both._replace(cache=jax.tree.map(in_parts, *caches))


@pytest.mark.parametrize(
    ("name", "settings"),
    CASES,
    ids=lambda x: x if isinstance(x, str) else " ".join(map(str, x.values())),
)
def test_rows_started_at_different_times_write_what_each_writes_alone(name, settings):
    """Also beside rows that are done, which neither change nor count steps."""
    objective, denoise = NETWORKS[name]
    settings = {"steps": 4, "guidance": 0.7, "temperature": 0.9, "eta": 0.4, **settings}
    sampler = make_sampler(name, objective, SamplingConfig(**settings))
    run = jax.jit(functools.partial(run_sampler, sampler, denoise))
    start = jax.jit(functools.partial(sampler.start, denoise))
    early, late = (
        (mixed_canvases(JOINT, given, 6), jax.random.split(jax.random.key(seed), 12))
        for seed, given in enumerate(([{}, {0: 1}], [{0: 2, 1: 0}, {}]))
    )
    total = max(sampler.num_steps(canvas) for canvas, _ in (early, late))
    alone = [run(start(*canvas_and_keys), total) for canvas_and_keys in (early, late)]
    expected = np.concatenate([state.tokens_BxL for state in alone])
    assert all(state.done_B.all() for state in alone) and not (expected == V.mask_id).any()
    for first in (1, total):
        before = run(start(*early), first)
        both = beside(before, start(*late), parts=2 if settings["guidance"] else 1)
        assert len(np.unique(both.step_B)) > 1
        both = run(both, total)
        np.testing.assert_array_equal(both.tokens_BxL, expected)
        steps_B = np.concatenate([state.step_B for state in alone])
        np.testing.assert_array_equal(both.step_B, steps_B)
