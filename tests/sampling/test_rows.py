"""Rows at different steps, in one program, write what each would write alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling.chains import SmallJoint
from sampling.sequential import block_oracle, mixed_canvases, next_token_oracle
from sampling.test_gaussian import CONFIG, TABLE

from dlms_jax.config import BlockConfig, SamplingConfig
from dlms_jax.diffusion import Autoregressive, Block, Gaussian, Linear, Masked, Uniform
from dlms_jax.sampling import SAMPLERS, make_sampler, run_sampler
from dlms_jax.testing import exact_gaussian_denoiser

JOINT = SmallJoint(3, 3, seed=2)
V = JOINT.vocabulary
NETWORKS = {
    "masked": (Masked(V, Linear()), JOINT.masked_denoiser()),
    "block": (Block(V, Linear(), BlockConfig(size=2)), block_oracle(JOINT)),
    "uniform": (Uniform(V, Linear(), 0.3), JOINT.leave_one_out_denoiser(Linear(), 0.3)),
    "gaussian": (Gaussian(V, CONFIG, "linear"), exact_gaussian_denoiser(JOINT, CONFIG, TABLE)),
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
    """Returns a state with the first half of the rows of `one` and the second of `other`; parts: of
    the rows of a cache, 2 under guidance."""

    def halves(x, y, axis=0):
        return [*jnp.split(x, 2, axis)[:1], *jnp.split(y, 2, axis)[1:]]

    def in_parts(x, y):
        pairs = zip(*(jnp.split(z, parts, axis=1) for z in (x, y)), strict=True)
        return jnp.concatenate([z for pair in pairs for z in halves(*pair, axis=1)], axis=1)

    cache = jax.tree.map(in_parts, one.cache, other.cache)
    one, other = one._replace(cache=None), other._replace(cache=None)
    both = jax.tree.map(lambda x, y: jnp.concatenate(halves(x, y)), one, other)
    return both._replace(cache=cache)


def words(case) -> str:
    return " ".join(map(str, case.values())) if isinstance(case, dict) else case


@pytest.mark.parametrize(("name", "settings"), CASES, ids=words)
def test_rows_started_at_different_times_write_what_each_writes_alone(name, settings):
    """Also beside rows that are done, which neither change nor count steps."""
    objective, denoise = NETWORKS[name]
    settings = {"steps": 4, "guidance": 0.7, "temperature": 0.9, "eta": 0.4, **settings}
    sampler = make_sampler(name, objective, SamplingConfig(**settings))
    parts = 2 if settings["guidance"] else 1
    canvas = mixed_canvases(JOINT, [{}, {0: 1}, {0: 2, 1: 0}, {}], 3)
    run = jax.jit(functools.partial(run_sampler, sampler, denoise))
    start = jax.jit(functools.partial(sampler.start, denoise))
    early, late = (start(canvas, jax.random.split(jax.random.key(seed), 12)) for seed in (0, 1))
    total = sampler.num_steps(canvas)
    alone = beside(run(early, total), run(late, total), parts)
    assert alone.done_B.all() and not (alone.tokens_BxL == V.mask_id).any()
    for steps in (1, total):
        before = beside(run(early, steps), late, parts)
        assert len(np.unique(before.step_B)) > 1
        together = run(before, total)
        np.testing.assert_array_equal(together.tokens_BxL, alone.tokens_BxL)
        np.testing.assert_array_equal(together.step_B, alone.step_B)
