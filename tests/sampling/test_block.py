"""Block sampling against its own chain, enumerated; with a cache, without; alone, in a batch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling import chains
from sampling.sequential import (
    block_chain,
    block_oracle,
    check_chains,
    fill,
    fill_in_parts,
    mixed_canvases,
    reveal_all,
    text_canvases,
    tiny_transformer,
    until,
)

from dlms_jax.diffusion import Linear
from dlms_jax.errors import UserError
from dlms_jax.sampling.decoding.block import BlockSampler
from dlms_jax.sampling.decoding.orders import Ordered
from dlms_jax.sampling.prediction import Prediction
from dlms_jax.sampling.processes.ancestral import Ancestral
from dlms_jax.sampling.processes.first_hitting import FirstHitting
from dlms_jax.sampling.processes.masked import MaskedSampler, reveal
from dlms_jax.sampling.processes.remasking import Remasking
from dlms_jax.sampling.sampler import begin, run_sampler

JOINT = chains.SmallJoint(3, 3, seed=2)
DENOISE = block_oracle(JOINT)
PLAIN = Prediction(JOINT.vocabulary)
# With blocks of 2 (BOS and place 0; places 1 and 2): a block and a half given; nothing; a whole
# block; a block in two halves, the second given; a hole whose block cannot see the text after it;
# all given. Not the first row has the first hole.
GIVEN = [{0: 2, 1: 0}, {}, {0: 1}, {2: 1}, {1: 2, 2: 2}, {0: 0, 1: 1, 2: 2}]
SAMPLER = BlockSampler(Ancestral(PLAIN, Linear(), 2), 2)


def two_ancestral_steps(predict, holes):
    return chains.ancestral(predict, Linear(), 2, holes=holes), 2


def two_confident_steps(predict, holes):
    return chains.ordered(predict, Linear(), 2, "confidence", holes=holes), 2


@pytest.mark.parametrize(
    ("sampler", "inner_chain", "settings"),
    [
        (SAMPLER, two_ancestral_steps, {}),
        (BlockSampler(Ordered(PLAIN, Linear(), 2), 3), two_confident_steps, {}),
        (SAMPLER, two_ancestral_steps, {"guidance": 1.5, "temperature": 0.7, "top_k": 2}),
    ],
)
def test_each_kind_of_canvas_in_a_batch_follows_its_own_chain(sampler, inner_chain, settings):
    """Blocks of 3 are not a divisor of the 4 positions; a part of the rows has no cache."""
    inner = dataclasses.replace(sampler.inner, prediction=Prediction(JOINT.vocabulary, **settings))
    sampler = dataclasses.replace(sampler, inner=inner)
    rows = [5000, 20_000, 10_000, 10_000, 5000, 100]
    chain = lambda given: block_chain(JOINT, sampler.size, inner_chain, given, **settings)  # noqa: E731
    check_chains(JOINT, sampler, DENOISE, GIVEN, rows, chain)
    assert chains.total_variation(chain({}), JOINT.p) > 0.02  # not that of the joint
    distance = chains.total_variation(chain({}), JOINT.p)
    print(f"{sampler}: total variation from the joint {distance:.4f}")


@pytest.mark.parametrize(
    "sampler",
    [
        BlockSampler(Ancestral(PLAIN, Linear(), 1), 1),
        BlockSampler(FirstHitting(PLAIN, Linear()), 2),
    ],
)
def test_one_token_at_a_time_draws_from_the_joint(sampler):
    given = [{0: 2, 1: 0}, {}, {0: 1}]
    if sampler.size == 1:
        np.testing.assert_allclose(block_chain(JOINT, 1, reveal_all, {}), JOINT.p)
    check_chains(JOINT, sampler, DENOISE, given, [1000, 50_000, 5000], conditional)


def conditional(given):
    return chains.Exact(JOINT, given).conditional()


@pytest.mark.parametrize(
    "inner",
    [
        Ordered(PLAIN, Linear(), 2, order="entropy"),
        Remasking(PLAIN, Linear(), 4, kind="rescale", eta=0.5),
        FirstHitting(PLAIN, Linear()),
    ],
)
def test_a_block_as_long_as_the_canvas_is_the_inner_sampler(inner):
    canvas = mixed_canvases(JOINT, GIVEN, 40)
    keys_B = jax.random.split(jax.random.key(5), len(canvas.tokens_BxL))
    block_keys_B = jax.vmap(lambda key: jax.random.fold_in(key, 0))(keys_B)
    whole = fill(inner, JOINT.masked_denoiser(), canvas, block_keys_B)
    # 4 positions, which BlockSampler pads.
    np.testing.assert_array_equal(whole, fill(BlockSampler(inner, 7), DENOISE, canvas, keys_B))


def test_a_row_depends_on_neither_its_neighbours_nor_the_padding():
    batch, padded = (mixed_canvases(JOINT, GIVEN, 3, padding) for padding in (0, 3))
    keys_B = jax.random.split(jax.random.key(1), len(batch.tokens_BxL))
    together = fill(SAMPLER, DENOISE, batch, keys_B)
    for row in range(len(keys_B)):
        one, key = jax.tree.map(lambda x: x[row : row + 1], (padded, keys_B))  # noqa: B023
        alone = fill(SAMPLER, DENOISE, one, key)
        np.testing.assert_array_equal(alone[0, :3], together[row])
        assert (alone[0, 3:] == JOINT.vocabulary.pad_id).all()


def test_steps_can_be_run_in_parts():
    batch = mixed_canvases(JOINT, GIVEN, 3)
    # Two blocks of two steps, and with a cache one to read the first when it is full.
    assert SAMPLER.num_steps(batch) == 5
    assert dataclasses.replace(SAMPLER, cache=False).num_steps(batch) == 4
    whole = fill(SAMPLER, DENOISE, batch)
    np.testing.assert_array_equal(fill_in_parts(SAMPLER, DENOISE, batch), whole)


@pytest.mark.parametrize(
    "inner",
    [
        Ancestral(PLAIN, Linear(), 2, stop_at_eos=False),
        Remasking(PLAIN, Linear(), 3, eta=0.3),
    ],
)
def test_a_text_ends_at_its_first_eos_and_is_what_it_would_have_been(inner):
    """Symbol 2 is made EOS. Everything before it is drawn as where it ends nothing."""
    vocabulary = dataclasses.replace(JOINT.vocabulary, eos_id=2)
    batch = mixed_canvases(JOINT, GIVEN, 50)
    endless = fill(BlockSampler(inner, 2), DENOISE, batch)
    inner = dataclasses.replace(inner, prediction=Prediction(vocabulary))
    ended = fill(BlockSampler(inner, 2), DENOISE, batch)
    np.testing.assert_array_equal(ended, until(2, endless, batch))
    assert (ended != endless).any()


@functools.cache
def counted(answer=None):
    """Returns (DENOISE, the lengths of what it has read); it may `answer` one symbol always."""
    lengths = []

    def network(tokens_BxC, *others):
        jax.debug.callback(lambda: lengths.append(tokens_BxC.shape[1]))
        logits_BxCxV, cache = DENOISE.cached.logits(tokens_BxC, *others)
        if answer is not None:
            certain_V = jnp.where(jnp.arange(logits_BxCxV.shape[-1]) == answer, 0.0, -jnp.inf)
            logits_BxCxV = jnp.broadcast_to(certain_V, logits_BxCxV.shape)
        return logits_BxCxV, cache

    return DENOISE._replace(cached=DENOISE.cached._replace(logits=network)), lengths


def passes(sampler, given, answer=None) -> list[int]:
    denoise, lengths = counted(answer)
    lengths.clear()
    fill(sampler, denoise, mixed_canvases(JOINT, [given], 1))
    jax.effects_barrier()
    return sorted(lengths)


def test_the_network_is_asked_for_no_more_than_is_needed():
    """One pass before the first block, and one over each block that is finished while others are
    to come; none in a block without holes, when the block is full, or when all rows have ended."""
    one = BlockSampler(Ancestral(PLAIN, Linear(), 1), 1)
    assert passes(one, {}) == [1, 1, 1, 1, 1, 4]
    assert passes(one, {1: 0}) == [1, 1, 1, 1, 4]
    two = BlockSampler(FirstHitting(PLAIN, Linear()), 2)
    assert passes(two, {0: 1}) == [2, 2, 4]
    assert passes(two, {0: 1, 1: 0}) == [2, 4]
    assert passes(two, {}, answer=JOINT.vocabulary.eos_id) == [2, 4]


def test_nothing_to_fill_takes_no_step():
    given = mixed_canvases(JOINT, [{0: 0, 1: 1, 2: 2}], 1)
    only_bos = jax.tree.map(lambda x: x[:, :1], given)
    assert SAMPLER.num_steps(given) == SAMPLER.num_steps(only_bos) == 0
    assert fill(SAMPLER, DENOISE, only_bos).shape == (1, 0)


def test_a_network_without_a_cache_is_one_line():
    batch = mixed_canvases(JOINT, [{}], 1)
    with pytest.raises(UserError, match="cache=False"):
        SAMPLER.start(DENOISE._replace(cached=None), batch, jax.random.split(jax.random.key(0), 1))


@pytest.mark.parametrize(("attention", "guidance"), [("block", 1.0), ("block_causal", 0.0)])
def test_a_transformer_writes_the_same_with_a_cache_and_without(attention, guidance):
    """Prompts that end at a block's end and inside one, infills, and a length of 2 3/4 blocks."""
    denoise, vocabulary = tiny_transformer(attention)
    prompts = ("", "x", "xxx", "xxxx", "x_x__xx", "xxxxxxx", "_xxxxxxxxx")
    batch = text_canvases(vocabulary, prompts, length=11, padding=1)
    sampler = BlockSampler(Ancestral(Prediction(vocabulary, guidance=guidance), Linear(), 3), 4)
    cached = fill(sampler, denoise, batch)
    np.testing.assert_array_equal(
        cached, fill(dataclasses.replace(sampler, cache=False), denoise, batch)
    )
    assert len(np.unique(cached)) > 5  # it does not write one symbol only


@dataclasses.dataclass(frozen=True)
class Greedy(MaskedSampler):
    """An inner sampler of one step that keeps what the network said."""

    def num_steps(self, canvas):
        return 1

    def start(self, denoise, canvas, keys_B):
        shape = *canvas.tokens_BxL.shape, self.prediction.vocabulary.padded_size
        return begin(canvas, keys_B, jnp.zeros(shape))

    def time(self, state):
        return jnp.full(state.done_B.shape, 0.7)

    def update(self, state, logits_BxLxV, without_BxLxV=None):
        log_p_BxLxV = self.prediction.log_p(logits_BxLxV, without_BxLxV)
        drawn_BxL = jnp.argmax(log_p_BxLxV, axis=-1).astype(jnp.int32)
        return reveal(state, drawn_BxL, self.prediction, False, log_p_BxLxV)


@pytest.mark.parametrize("attention", ["block", "block_causal"])
def test_a_transformer_predicts_what_it_predicts_in_training(attention):
    """In training it reads [x_t, x_0]. Compared in the last of three blocks, which a canvas has in
    part given; the blocks before it were written, or given."""
    denoise, vocabulary = tiny_transformer(attention)
    vocabulary = dataclasses.replace(vocabulary, eos_id=vocabulary.pad_id)  # no text ends early
    canvas = text_canvases(vocabulary, ("xx", "xxxxxxxx_x", "xxxxxxx"), length=12)
    keys_B = jax.random.split(jax.random.key(0), 3)

    @functools.partial(jax.jit, static_argnums=1)
    def sampled(canvas, cache):
        sampler = BlockSampler(Greedy(Prediction(vocabulary), Linear()), 4, cache)
        state = sampler.start(denoise, canvas, keys_B)
        state = run_sampler(sampler, denoise, state, 5)  # 3 blocks; the first 2 are read again
        return state.tokens_BxL, state.extra.inner.extra

    @jax.jit
    def trained(tokens_BxL):
        layout = canvas.layout
        both = jax.tree.map(
            lambda x: jnp.concatenate([x, x], axis=1), layout._replace(class_B=None)
        )
        clean_BxL = jnp.broadcast_to(jnp.arange(24)[None] >= 12, (3, 24))
        both = both._replace(
            class_B=canvas.layout.class_B, blocks_BxL=both.positions_BxL // 4, clean_BxL=clean_BxL
        )
        inputs_BxL = jnp.concatenate([canvas.tokens_BxL, tokens_BxL], axis=1)
        logits_BxLxV = denoise.logits(inputs_BxL, jnp.where(clean_BxL, 0.0, 0.7), both)
        return jax.nn.log_softmax(logits_BxLxV[:, 8:12] + vocabulary.text_bias_V()[None, None])

    tokens_BxL, cached = sampled(canvas, True)
    _, uncached = sampled(canvas, False)
    possible = np.isfinite(cached)
    np.testing.assert_allclose(cached[possible], uncached[possible], rtol=1e-5, atol=1e-5)
    expected = trained(tokens_BxL)
    np.testing.assert_allclose(cached[possible], expected[possible], rtol=1e-5, atol=1e-5)
    assert np.std(cached[possible]) > 0.1
