"""Left to right: draws from the joint; with a cache as without; alone as in a batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampling.chains import SmallJoint
from sampling.sequential import (
    block_chain,
    check_chains,
    fill,
    fill_in_parts,
    mixed_canvases,
    next_token_oracle,
    reveal_all,
    text_canvases,
    tiny_transformer,
    until,
)

from dlms_jax.diffusion import Denoiser
from dlms_jax.errors import UserError
from dlms_jax.sampling.decoding.next_token import NextToken
from dlms_jax.sampling.prediction import Prediction

JOINT = SmallJoint(3, 3, seed=2)
DENOISE = next_token_oracle(JOINT)
# Not the first row has the first hole.
GIVEN = [{0: 2, 1: 0}, {}, {0: 1}, {0: 0, 1: 1, 2: 2}]
SAMPLER = NextToken(Prediction(JOINT.vocabulary))


@pytest.mark.parametrize(
    ("settings", "rows"),
    [
        ({}, [5000, 50_000, 5000, 100]),
        ({"guidance": 1.5, "temperature": 0.7}, [5000, 10_000, 10_000, 100]),
    ],
)
def test_prompts_of_all_lengths_in_a_batch_follow_their_own_chains(settings, rows):
    def chain(given):
        p = block_chain(JOINT, 1, reveal_all, given, **settings)
        if not settings:  # then that is the joint, given the prompt
            agree = np.all([JOINT.texts[:, i] == s for i, s in given.items()], axis=0)
            np.testing.assert_allclose(p, JOINT.p * agree / (JOINT.p * agree).sum())
        return p

    sampler = NextToken(Prediction(JOINT.vocabulary, **settings))
    check_chains(JOINT, sampler, DENOISE, GIVEN, rows, chain)


def test_a_row_depends_on_neither_its_neighbours_nor_the_padding():
    batch, padded = (mixed_canvases(JOINT, GIVEN, 10, padding) for padding in (0, 3))
    keys_B = jax.random.split(jax.random.key(1), len(batch.tokens_BxL))
    together = fill(SAMPLER, DENOISE, batch, keys_B)
    for row in range(0, len(keys_B), 3):
        one, key = jax.tree.map(lambda x: x[row : row + 1], (padded, keys_B))  # noqa: B023
        alone = fill(SAMPLER, DENOISE, one, key)
        np.testing.assert_array_equal(alone[0, :3], together[row])
        assert (alone[0, 3:] == JOINT.vocabulary.pad_id).all()


def test_a_text_ends_at_its_first_eos_and_is_what_it_would_have_been():
    """Symbol 2 is made EOS. Everything before it is drawn as where it ends nothing."""
    batch = mixed_canvases(JOINT, GIVEN, 10)
    endless = fill(SAMPLER, DENOISE, batch)
    vocabulary = dataclasses.replace(JOINT.vocabulary, eos_id=2)
    ended = fill(NextToken(Prediction(vocabulary)), DENOISE, batch)
    np.testing.assert_array_equal(ended, until(2, endless, batch))
    assert (ended != endless).any()


def test_the_loop_stops_when_every_row_has_ended():
    """All rows draw EOS first: the network is not asked again, else it would answer NaN."""
    vocabulary = dataclasses.replace(JOINT.vocabulary, eos_id=2)
    eos_V = jnp.where(jnp.arange(vocabulary.padded_size) == 2, 0.0, -jnp.inf)
    asked = []

    def logits(tokens_BxL, t_BxL, layout):
        jax.debug.callback(lambda: asked.append(1))
        return jnp.broadcast_to(eos_V, (*tokens_BxL.shape, vocabulary.padded_size))

    sampler = NextToken(Prediction(vocabulary), cache=False)
    texts = fill(sampler, Denoiser.from_logits(logits), mixed_canvases(JOINT, [{}, {0: 1}], 3))
    jax.effects_barrier()
    assert len(asked) == 1  # each row at its own first hole
    assert texts.tolist() == [[2, 2, 2]] * 3 + [[1, 2, 2]] * 3


def test_steps_can_be_run_in_parts():
    batch = mixed_canvases(JOINT, GIVEN, 10)
    whole = fill(SAMPLER, DENOISE, batch)
    np.testing.assert_array_equal(fill_in_parts(SAMPLER, DENOISE, batch), whole)


def test_holes_before_text_are_refused_in_any_row():
    for given in ([{}, {2: 0}], [{0: 1}, {1: 1}]):
        with pytest.raises(UserError, match="left to right"):
            SAMPLER.num_steps(mixed_canvases(JOINT, given, 1))
    assert SAMPLER.num_steps(mixed_canvases(JOINT, [{0: 1}, {0: 2, 1: 1}], 1, padding=2)) == 2


def test_nothing_to_fill_takes_no_step():
    given = mixed_canvases(JOINT, [{0: 0, 1: 1, 2: 2}], 1)
    only_bos = jax.tree.map(lambda x: x[:, :1], given)
    assert SAMPLER.num_steps(given) == SAMPLER.num_steps(only_bos) == 0
    assert fill(SAMPLER, DENOISE, only_bos).shape == (1, 0)


def test_a_network_without_a_cache_is_one_line():
    batch = mixed_canvases(JOINT, [{}], 1)
    with pytest.raises(UserError, match="cache=False"):
        SAMPLER.start(DENOISE._replace(cached=None), batch, jax.random.split(jax.random.key(0), 1))


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_a_transformer_writes_the_same_with_a_cache_and_without(guidance):
    denoise, vocabulary = tiny_transformer("causal")
    batch = text_canvases(vocabulary, prompts=("", "x", "xxxx", "x" * 7), length=11, padding=2)
    sampler = NextToken(Prediction(vocabulary, guidance=guidance))
    cached = fill(sampler, denoise, batch)
    np.testing.assert_array_equal(
        cached, fill(dataclasses.replace(sampler, cache=False), denoise, batch)
    )
    assert len(np.unique(cached)) > 5  # it does not write one symbol only
