"""How far ahead a row may see while it learns to, and that only training is told."""

import functools

import jax
import jax.numpy as jnp
from models.small import network, packed
import numpy as np
import pytest
from scipy import stats

from dlms_jax.config import BlockConfig, GaussianConfig
from dlms_jax.diffusion import (
    Annealing,
    Batch,
    Block,
    Denoiser,
    Gaussian,
    Linear,
    Masked,
    Uniform,
    Vocabulary,
    make_batch,
)
from dlms_jax.diffusion.block import beside_clean, in_blocks
from dlms_jax.models.attention import attention_mask

VOCABULARY = Vocabulary(size=100, pad_id=95, bos_id=96, eos_id=97, mask_id=98)  # models.small.ROWS
STEPS = 10


def batch_of(rows=3, length=12) -> Batch:
    """Returns rows of two documents each."""
    layout = packed(((5, length - 5),) * rows, length)
    positions = layout.positions_BxL
    tokens = np.random.default_rng(0).integers(0, 90, positions.shape, np.int32)
    tokens = np.where(positions == 0, VOCABULARY.bos_id, tokens)
    arrays = (tokens, layout.segments_BxL, positions, positions > 0)
    return make_batch(*map(jnp.asarray, arrays), jnp.arange(rows))


@functools.cache
def _ahead(steps):
    return jax.jit(lambda batch, key, step: Annealing(steps)(batch, key, step).layout.ahead_B)


def ahead(batch, step, key=0, steps=STEPS):
    """Returns how far ahead each row sees at a step of a run whose seed is `key`."""
    key = jax.random.fold_in(jax.random.key(key), step)  # as training/step.py does
    return np.asarray(_ahead(steps)(batch, key, step))


def test_without_steps_nothing_changes():
    batch = batch_of()
    assert Annealing()(batch, jax.random.key(0), 5) is batch


@pytest.mark.parametrize("length", [2, 12, 2048])
def test_it_begins_causal_and_ends_with_the_whole_row(length):
    batch = batch_of(400, 12)
    batch = batch._replace(tokens_BxL=jnp.zeros((400, length), jnp.int32))
    assert (ahead(batch, 0) == 0).all()
    for step in (STEPS, STEPS + 1, 10**6):
        assert (ahead(batch, step) == length).all()
    # 1: the whole run in one step; a number of steps that float32 cannot divide exactly.
    assert (ahead(batch, 1, steps=1) == length).all() and (ahead(batch, 0, steps=1) == 0).all()
    assert (ahead(batch, 16_777_259, steps=16_777_259) == length).all()


def test_the_share_that_is_seen_is_drawn_and_rises():
    """clip(2 r - u, 0, 1) at progress r: half way it is uniform, and no quantile ever falls."""
    rows, length = 4000, 1000
    batch = batch_of(rows)._replace(tokens_BxL=jnp.zeros((rows, length), jnp.int32))
    shares = [np.sort(ahead(batch, step)) / length for step in range(STEPS + 1)]
    assert stats.kstest(shares[STEPS // 2] + 0.5 / length, "uniform").pvalue > 0.01
    for r, share in zip(np.linspace(0, 1, STEPS + 1), shares, strict=True):
        mean = 2 * r**2 if r <= 0.5 else 1 - 2 * (1 - r) ** 2
        assert abs(share.mean() - mean) < 4 * 0.3 / np.sqrt(rows) + 1 / length
    for before, after in zip(shares, shares[1:], strict=False):
        assert (after - before > -0.05).all()


def test_a_rows_draw_depends_on_seed_step_and_row_alone():
    batch = batch_of(40)
    whole, part = ahead(batch, 4), ahead(jax.tree.map(lambda x: x[7:29], batch), 4)
    np.testing.assert_array_equal(part, whole[7:29])
    assert len(set(whole)) > 5
    assert (ahead(batch, 4, key=1) != whole).any()
    # Not of the step's progress alone: twice as far in twice as many steps is another draw.
    assert (ahead(batch, 8, steps=2 * STEPS) != whole).any()


def objectives(annealing=Annealing(STEPS)):  # noqa: B008
    table = {"annealing": annealing}
    return {
        "masked": Masked(VOCABULARY, Linear(), **table),
        "uniform": Uniform(VOCABULARY, Linear(), **table),
        "gaussian": Gaussian(VOCABULARY, GaussianConfig(embedding_size=8), **table),
        "block": Block(VOCABULARY, Linear(), BlockConfig(4), **table),
    }


def seen_in(compute, batch):
    """Returns the layouts that the network is given in `compute(denoise, batch, key, ...)`."""
    layouts = []

    def logits(inputs, t_BxL, layout):
        layouts.append(layout)
        return jnp.zeros((*t_BxL.shape, VOCABULARY.padded_size))

    table = np.random.default_rng(0).normal(size=(VOCABULARY.padded_size, 8)).astype(np.float32)
    compute(Denoiser.from_logits(logits, table_VxE=jnp.asarray(table)), batch, jax.random.key(3))
    assert layouts
    return layouts


@pytest.mark.parametrize("name", objectives())
def test_the_loss_anneals_the_network_and_the_bound_never_does(name):
    """Causal and its own at step 0, its own at the last, with what is beside it (the clean half of
    block diffusion, the first pass of self-conditioning)."""
    objective, batch = objectives()[name], batch_of()
    for step in (0, STEPS):
        loss = functools.partial(objective.loss, step=step)
        for layout in seen_in(loss, batch):
            own = attention_mask(layout._replace(ahead_B=None), layout, objective.traits.attention)
            q, k = layout.positions_BxL[:, None, :, None], layout.positions_BxL[:, None, None]
            expected = own & (k <= q) if step == 0 else own
            found = attention_mask(layout, layout, objective.traits.attention)
            np.testing.assert_array_equal(found, expected)
            assert (np.asarray(own) & ~np.asarray(k <= q)).any()
    bound = functools.partial(objective.bound, sample=1, num_samples=2)
    for layout in seen_in(bound, batch):
        assert layout.ahead_B is None


def test_both_halves_of_block_diffusion_see_as_far():
    batch = Annealing(STEPS)(in_blocks(batch_of(), 4), jax.random.key(0), 5)
    both = beside_clean(batch.layout)
    np.testing.assert_array_equal(both.ahead_B, batch.layout.ahead_B)
    assert both.positions_BxL.shape == (3, 24) and both.class_B is None


@pytest.mark.parametrize("name", ["masked", "block"])
def test_a_transformers_loss_is_causal_at_first_and_at_last_that_without_annealing(name):
    """Bit for bit, in one compiled program for all steps."""
    model, params = network()
    batch, key, compiled = batch_of(), jax.random.key(5), []

    def loss_of(objective, attention):
        def logits(inputs, t_BxL, layout):
            compiled.append(attention)
            return model.apply({"params": params}, inputs, t_BxL, layout, attention)

        denoise = Denoiser.from_logits(logits)
        return jax.jit(lambda step: objective.loss(denoise, batch, key, step).total)

    own = objectives()[name].traits.attention
    annealed = loss_of(objectives()[name], own)
    at = [float(annealed(step)) for step in (0, STEPS, 3 * STEPS)]
    assert len(compiled) == 1
    without = float(loss_of(objectives(Annealing())[name], own)(0))
    assert at[1] == at[2] == without != at[0]
    if name == "masked":
        causal = float(loss_of(objectives(Annealing())[name], "causal")(0))
        assert at[0] == causal
