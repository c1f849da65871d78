"""Block diffusion: between the chain rule and masked diffusion, by an oracle and a Transformer."""

import functools

import jax
import jax.numpy as jnp
from models.small import network
import numpy as np
import pytest

from dlms_jax.config import BlockConfig
from dlms_jax.diffusion import (
    Autoregressive,
    Cosine,
    Denoiser,
    Linear,
    Masked,
    Nll,
    Polynomial,
    Prompts,
    Vocabulary,
    make_batch,
)
from dlms_jax.diffusion.block import Block
from dlms_jax.diffusion.times import document_times
from dlms_jax.testing import Joint

VOCABULARY = Vocabulary(size=100, pad_id=95, bos_id=96, eos_id=97, mask_id=98)  # models.small.ROWS


def block(vocabulary, size, schedule=Linear(), prompts=Prompts(), **config):  # noqa: B008
    return Block(vocabulary, schedule, BlockConfig(size, **config), prompts)


@pytest.mark.parametrize("size", [2, 3])
def test_bound_and_loss_of_the_exact_network_estimate_the_entropy(size):
    """Blocks of 1, 2 and 1 tokens, then of 2 and 2: BOS stands in the first."""
    joint, copies, samples = Joint(2, 4, seed=3), 60, 3
    objective = block(joint.vocabulary, size, Polynomial(2.0))
    denoise, batch = joint.block_denoiser(), joint.batch(np.tile(joint.texts, (copies, 1)))
    rows = jax.tree.map(lambda x: x[:, None], batch)  # a batch of one each
    p = np.tile(joint.p, copies) / copies

    @jax.jit
    def estimate(key):
        def bound(sample):
            return objective.bound(denoise, batch, key, sample, samples)

        nats_B = jax.lax.map(bound, jnp.arange(samples)).sum(axis=(0, 2)) / samples
        losses_B = jax.vmap(lambda row: objective.loss(denoise, row, key).total)(rows)
        return jnp.sum(nats_B * p), jnp.sum(losses_B * p)

    runs = np.array([estimate(jax.random.key(seed)) for seed in range(30)])
    error = runs.std(axis=0) / np.sqrt(len(runs))
    assert (error < [0.02, 0.06]).all()
    assert (abs(runs.mean(axis=0) - joint.entropy) < 4 * error + 1e-5).all()


def test_with_blocks_of_one_token_the_bound_is_the_autoregressive_one():
    """Token by token, at every sample."""
    joint = Joint(3, 3)
    batch = joint.batch()
    objective = block(joint.vocabulary, 1)
    chain_rule = Autoregressive(joint.vocabulary).bound(
        joint.next_token_denoiser(), batch, jax.random.key(0), 0, 1
    )
    bound = jax.jit(lambda key, s: objective.bound(joint.block_denoiser(), batch, key, s, 2))
    for seed, sample in ((0, 0), (1, 1)):
        nats_BxL = bound(jax.random.key(seed), sample)
        np.testing.assert_allclose(nats_BxL, chain_rule, rtol=1e-5, atol=1e-6)


def packed(lengths=((7, 12, 2), (20, 3, 1)), length=26, given=()):
    """Returns rows of documents, the rest padding; tokens at `given` positions are given."""
    segments, positions = np.zeros((2, len(lengths), length), np.int32)
    for row, sizes in enumerate(lengths):
        ends = np.cumsum([0, *sizes])
        for document, (at, size) in enumerate(zip(ends, sizes, strict=False), start=1):
            segments[row, at : at + size] = document
            positions[row, at : at + size] = np.arange(size)
    tokens = np.random.default_rng(0).integers(0, 90, segments.shape).astype(np.int32)
    tokens = np.where(positions == 0, VOCABULARY.bos_id, tokens)
    tokens = np.where(segments == 0, VOCABULARY.pad_id, tokens)
    scored = (positions > 0) & ~np.isin(positions, given)
    arrays = map(jnp.asarray, (tokens, segments, positions, scored))
    return make_batch(*arrays, jnp.arange(len(lengths)))


@functools.cache
def transformer():
    return network(conditioning="film")


def transformer_denoiser(attention) -> Denoiser:
    model, params = transformer()
    return Denoiser.from_logits(lambda *x: model.apply({"params": params}, *x, attention))


def flat(attention) -> Denoiser:
    return Denoiser.from_logits(lambda x, t, layout: jnp.zeros((*x.shape, VOCABULARY.padded_size)))


def both(objective, batch, make_denoiser=transformer_denoiser):
    """Returns (loss, its metrics, nats_BxL) of one draw."""

    @jax.jit
    def compute(key):
        denoise = make_denoiser(objective.traits.attention)
        loss = objective.loss(denoise, batch, key)
        return loss.total, loss.metrics, objective.bound(denoise, batch, key, 1, 3)

    return compute(jax.random.key(7))


def test_with_blocks_as_long_as_documents_it_is_masked_diffusion():
    """The same draws, the same loss, the same bound; the clean half is seen by no noisy token."""
    batch, prompts = packed(given=(3, 4)), Prompts(drop=0.5, random=0.5)
    expected = both(Masked(VOCABULARY, Cosine(), prompts), batch)
    assert expected[0] > 0
    for context in ("bidirectional", "causal"):
        got = both(block(VOCABULARY, 20, Cosine(), prompts, context=context), batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), expected, got)
    smaller = both(block(VOCABULARY, 19, Cosine(), prompts), batch)
    assert abs(smaller[0] / expected[0] - 1) > 1e-3  # the test can tell


@pytest.mark.parametrize("context", ["bidirectional", "causal"])
def test_with_blocks_of_one_token_the_bound_is_the_networks_own_chain_rule(context):
    """The network asked position by position: the document before, then a mask, and no more."""
    batch = packed(((13,),), 13)
    objective = block(VOCABULARY, 1, context=context)
    nats_L = both(objective, batch)[2][0]
    denoise = transformer_denoiser(objective.traits.attention)

    # Row i asks for position i. Nothing sees what stands after it.
    place_L = np.arange(13)
    read_LxL = jnp.where(np.eye(13, dtype=bool), VOCABULARY.mask_id, batch.tokens_BxL)
    t_L = seen_by(objective, batch)[1][0, :13]
    layout = jax.tree.map(lambda x: jnp.repeat(x, 13, axis=0), batch.layout)
    layout = layout._replace(
        blocks_BxL=layout.positions_BxL, clean_BxL=jnp.asarray(place_L[None] < place_L[:, None])
    )
    logits_LxLxV = jax.jit(denoise.logits)(read_LxL, jnp.diag(t_L), layout)
    logits_LxV = logits_LxLxV[place_L, place_L] + VOCABULARY.text_bias_V()[None]
    expected_L = -jax.nn.log_softmax(logits_LxV)[place_L, batch.tokens_BxL[0]].at[0].set(0.0)
    np.testing.assert_allclose(nats_L, expected_L, rtol=1e-4)


@pytest.mark.parametrize("context", ["bidirectional", "causal"])
def test_nothing_leaks_from_later_blocks_or_other_documents(context):
    """Another token in a block changes the nats of its own and of later ones, none before."""
    batch, size = packed(), 4
    objective = block(VOCABULARY, size, context=context)
    denoise = transformer_denoiser(objective.traits.attention)
    bound = jax.jit(lambda batch: objective.bound(denoise, batch, jax.random.key(0), 1, 2))
    nats_BxL = np.asarray(bound(batch))
    segments_BxL, positions = map(np.asarray, batch.layout[:2])
    assert (nats_BxL > 0).sum() > 10
    later_ones_changed = 0
    for row, at in ((0, 3), (0, 13), (0, 20), (1, 4), (1, 12), (1, 22)):
        other = batch._replace(tokens_BxL=batch.tokens_BxL.at[row, at].add(1))
        changed_BxL = np.asarray(bound(other)) != nats_BxL
        may_BxL = segments_BxL == segments_BxL[row, at]
        may_BxL &= positions // size >= positions[row, at] // size
        may_BxL[1 - row] = False
        assert not (changed_BxL & ~may_BxL).any()
        later_ones_changed += (changed_BxL & (positions // size > positions[row, at] // size)).sum()
    assert later_ones_changed > 5


def seen_by(objective, batch, key=7, step=0, kind="bound", sample=1, samples=3):
    """Returns (inputs_Bx2L, t_Bx2L, layout, targets_Bx2L, weights_Bx2L) of one loss or bound: by
    the same draws as those of `both`. With an array of samples a leading axis has one for each."""

    @jax.jit
    def compute(batch, key, step, sample):
        seen = []

        def nll(*arguments):
            seen.append(arguments[:5])
            return Nll(jnp.zeros(()), jnp.zeros(arguments[1].shape))

        if kind == "loss":
            objective.loss(Denoiser(None, nll), batch, key, step)
        else:
            objective.bound(Denoiser(None, nll), batch, key, sample, samples)
        return seen[0]

    if np.ndim(sample):
        compute = jax.jit(jax.vmap(compute, in_axes=(None, None, None, 0)))
    return jax.tree.map(np.asarray, compute(batch, jax.random.key(key), step, sample))


@pytest.mark.parametrize("kind", ["loss", "bound"])
def test_the_network_is_given_what_is_noisy_beside_what_is_clean(kind):
    batch, size = packed(given=(3, 4)), 4
    batch = batch._replace(layout=batch.layout._replace(class_B=jnp.array([2, 1])))
    objective = block(VOCABULARY, size, Cosine())
    inputs, t, layout, targets, weights = seen_by(objective, batch, kind=kind)
    noisy, clean = np.split(inputs, 2, axis=1)
    np.testing.assert_array_equal(clean, batch.tokens_BxL)
    masked = noisy == VOCABULARY.mask_id
    np.testing.assert_array_equal(noisy, np.where(masked, VOCABULARY.mask_id, batch.tokens_BxL))
    assert masked.any() and not (masked & ~batch.scored_BxL).any()
    np.testing.assert_array_equal(np.split(weights, 2, axis=1)[0] > 0, masked)
    np.testing.assert_array_equal(np.split(targets, 2, axis=1)[0], batch.tokens_BxL)
    assert (np.split(weights, 2, axis=1)[1] == 0).all() and (np.split(t, 2, axis=1)[1] == 0).all()

    np.testing.assert_array_equal(layout.class_B, [2, 1])
    for name in ("segments_BxL", "positions_BxL", "prompt_mask_BxL"):
        for half in np.split(getattr(layout, name), 2, axis=1):
            np.testing.assert_array_equal(half, getattr(batch.layout, name))
    np.testing.assert_array_equal(layout.blocks_BxL, layout.positions_BxL // size)
    np.testing.assert_array_equal(layout.clean_BxL, [[False] * 26 + [True] * 26] * 2)

    # One time a block, in which something is scored; blocks and documents have their own.
    times = {}
    for row, at in np.argwhere(batch.scored_BxL):
        number = row, layout.segments_BxL[row, at], layout.blocks_BxL[row, at]
        times.setdefault(number, set()).add(t[row, at])
    assert all(len(of_block) == 1 and 0 < min(of_block) <= 1 for of_block in times.values())
    assert len(set.union(*times.values())) == len(times) > 8


def test_in_each_block_each_number_of_masks_has_its_turn():
    """Of a block's n scored tokens, n samples mask 1, 2, ..., n in some order; weight n / k."""
    batch = packed(((2, 3, 10, 5), (9, 9)), 20, given=(6,))
    objective = block(VOCABULARY, 4)
    blocks = np.asarray(batch.layout.segments_BxL * 100 + batch.layout.positions_BxL // 4)
    scored = np.asarray(batch.scored_BxL)
    seen = seen_by(objective, batch, sample=np.arange(12), samples=12)
    for row, number in {(row, blocks[row, at]) for row, at in np.argwhere(scored)}:
        of_block = (blocks[row] == number) & scored[row]
        n, found = of_block.sum(), []
        for inputs, weights in zip(seen[0], seen[4], strict=True):
            k = (inputs[row, :20] == VOCABULARY.mask_id)[of_block].sum()
            here = weights[row, :20][of_block]
            np.testing.assert_allclose(here[here > 0], n / k)
            found.append(k)
        assert (np.bincount(found)[1:] == 12 // n).all()
    assert (seen[0][0] != seen[0][1]).any()


def test_times_are_of_low_discrepancy_over_rows_documents_and_blocks():
    """Also in each eighth of the rows; n uniform draws would differ by about 1 / sqrt(n)."""
    rows, documents, blocks = 48, 3, 8
    shape = rows, documents * blocks
    segments_BxL = jnp.broadcast_to(jnp.repeat(jnp.arange(1, documents + 1), blocks)[None], shape)
    blocks_BxL = jnp.broadcast_to(jnp.tile(jnp.arange(blocks), documents)[None], shape)
    for seed in range(3):
        t = document_times(jax.random.key(seed), jnp.arange(rows), segments_BxL, blocks_BxL)
        assert len(np.unique(t)) == t.size
        for part in [t, *np.array_split(t, 8)]:
            n, ordered = part.size, np.sort(np.ravel(part))
            grid = np.arange(n)
            discrepancy = max((ordered - grid / n).max(), ((grid + 1) / n - ordered).max())
            assert discrepancy < 1.2 * (1 + np.log(n)) / n
    keys = jax.random.split(jax.random.key(0), 200)
    at = jnp.array([5]), segments_BxL[:1], blocks_BxL[:1]
    t = jax.vmap(lambda key: document_times(key, *at)[0, 10])(keys)
    assert np.abs(np.sort(t) - np.arange(200) / 200).max() < 1.63 / np.sqrt(200)  # KS, 1%


@pytest.mark.parametrize("kind", ["loss", "bound"])
def test_a_rows_masks_depend_on_key_and_row_alone(kind):
    """Not on its neighbours, nor on padding at its end."""
    batch = packed(((7, 12, 2), (20, 3, 1), (15,), (4, 4)))
    objective = block(VOCABULARY, 3, prompts=Prompts(drop=0.5, random=0.5))
    part = jax.tree.map(lambda x: x[1:3], batch)
    wide = jax.tree.map(lambda x: x if x.ndim == 1 else jnp.pad(x, ((0, 0), (0, 5))), batch)
    whole, some, longer = (seen_by(objective, x, kind=kind) for x in (batch, part, wide))
    scored = np.asarray(batch.scored_BxL)
    for number in (0, 1, 4):
        np.testing.assert_array_equal(whole[number][1:3], some[number])
        at_scored = longer[number][:, :26][scored]
        np.testing.assert_array_equal(whole[number][:, :26][scored], at_scored)
    other = seen_by(objective, batch, key=8, kind=kind)
    assert (other[0] != whole[0]).mean() > 0.05


def test_a_curriculum_sets_the_size_by_the_step_in_one_program():
    """Before its first step the size is config.size, as it always is where the model is tested."""
    curriculum = {"1000": 8, "10": 1, "200": 5}
    objective, batch = block(VOCABULARY, 3, curriculum=curriculum), packed()
    sizes = {0: 3, 9: 3, 10: 1, 199: 1, 200: 5, 999: 5, 1000: 8, 2**31 - 1: 8}
    traced = []

    def count(step):
        traced.append(step)
        return objective.size_at(step)

    size_at = jax.jit(count)
    assert {step: int(size_at(step)) for step in sizes} == sizes
    assert len(traced) == 1

    # What the loss is given at step 50, all but the network, is that of blocks of that size.
    got = seen_by(objective, batch, step=50, kind="loss")
    expected = seen_by(block(VOCABULARY, 1), batch, kind="loss")
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    from_the_start = block(VOCABULARY, 3, curriculum={"0": 8})
    got, expected = (seen_by(x, batch) for x in (from_the_start, block(VOCABULARY, 3)))
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_documents_of_one_token_or_nothing_scored_give_0():
    batch = packed(((1, 1, 1), (3, 1)), 5)
    batch = batch._replace(weights_BxL=batch.weights_BxL * (jnp.arange(2) == 0)[:, None])
    for size in (1, 2, 100):
        loss, metrics, nats_BxL = both(block(VOCABULARY, size), batch, flat)
        assert loss == 0 and metrics["masked"] == 0 and (nats_BxL == 0).all()


def test_objectives_of_the_same_settings_are_one_to_jit():
    one, same = (block(VOCABULARY, 3, curriculum={"5": 4}) for _ in range(2))
    assert one == same and hash(one) == hash(same)
    assert one != block(VOCABULARY, 3, curriculum={"5": 2})
