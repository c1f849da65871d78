"""What of a text is given in training, and when prompts are hidden."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.diffusion import Batch, Prompts, Vocabulary, hide_prompts, make_batch

VOCABULARY = Vocabulary(size=9, pad_id=5, bos_id=6, eos_id=7, mask_id=8)
ROWS, LENGTHS, PROMPT = 600, (12, 1, 9, 2), 3


def batch_of(rows=ROWS) -> Batch:
    """Returns rows of documents, the first two tokens after BOS a prompt, and 4 of padding."""
    segments = np.concatenate([np.full(n, i + 1) for i, n in enumerate(LENGTHS)] + [np.zeros(4)])
    positions = np.concatenate([np.arange(n) for n in LENGTHS] + [np.zeros(4)])
    tokens = np.where(segments == 0, 5, np.where(positions == 0, 6, 1))
    tile = lambda x: jnp.asarray(np.tile(x, (rows, 1)), jnp.int32)  # noqa: E731
    return make_batch(
        tile(tokens), tile(segments), tile(positions), tile(positions >= PROMPT).astype(bool),
        jnp.arange(rows), 1 + jnp.arange(rows) % 3,
    )  # fmt: skip


def seen(prompts: Prompts, batch=None, key=0) -> Batch:
    """Returns the batch of a step as numpy arrays."""
    batch = batch_of() if batch is None else batch
    return jax.tree.map(np.asarray, _step(prompts)(batch, jax.random.key(key)))


@functools.cache
def _step(prompts):
    return jax.jit(lambda batch, key: prompts(batch, key, VOCABULARY.mask_id))


def near(number, of, p):
    """Whether a count is within 4 standard errors of its rate."""
    return abs(number - of * p) < 4 * np.sqrt(of * p * (1 - p))


def test_what_is_neither_bos_nor_scored_nor_padding_is_given():
    batch = jax.tree.map(np.asarray, batch_of())
    segments, positions = batch.layout.segments_BxL, batch.layout.positions_BxL
    expected = (segments > 0) & (positions > 0) & (positions < PROMPT)
    np.testing.assert_array_equal(batch.layout.prompt_mask_BxL, expected)


def test_without_probabilities_nothing_changes():
    batch = batch_of(4)
    assert Prompts()(batch, jax.random.key(0), VOCABULARY.mask_id) is batch


def test_hidden_prompts_hold_the_mask_and_class_0_in_whole_rows_at_their_rate():
    before, after = jax.tree.map(np.asarray, batch_of()), seen(Prompts(drop=0.3))
    hidden_B = after.layout.class_B == 0
    assert near(hidden_B.sum(), ROWS, 0.3)
    prompt_mask_BxL = before.layout.prompt_mask_BxL
    expected = np.where(prompt_mask_BxL & hidden_B[:, None], VOCABULARY.mask_id, before.tokens_BxL)
    np.testing.assert_array_equal(after.tokens_BxL, expected)
    np.testing.assert_array_equal(
        after.layout.class_B, np.where(hidden_B, 0, before.layout.class_B)
    )
    np.testing.assert_array_equal(after.layout.prompt_mask_BxL, prompt_mask_BxL)
    np.testing.assert_array_equal(after.scored_BxL, before.scored_BxL)


def test_a_layout_without_classes_keeps_none():
    batch = batch_of(3)
    hidden_B = jnp.array([True, False, True])
    tokens_BxL, layout = hide_prompts(
        batch.tokens_BxL, batch.layout._replace(class_B=None), hidden_B, VOCABULARY.mask_id
    )
    assert layout.class_B is None
    assert (tokens_BxL == VOCABULARY.mask_id).sum() == 2 * batch.layout.prompt_mask_BxL[0].sum()


@pytest.fixture(scope="module")
def random_parts():
    """Returns (before, after, [given_RxL of a document's scored tokens, by document])."""
    before, after = jax.tree.map(np.asarray, batch_of()), seen(Prompts(random=0.4))
    more_BxL = after.layout.prompt_mask_BxL & ~before.layout.prompt_mask_BxL
    segments_L, scored_L = before.layout.segments_BxL[0], before.scored_BxL[0]
    documents = [more_BxL[:, (segments_L == i + 1) & scored_L] for i in range(len(LENGTHS))]
    return before, after, [given_RxL for given_RxL in documents if given_RxL.shape[1]]


def test_random_parts_are_given_and_not_scored_and_bos_and_padding_never(random_parts):
    before, after, _ = random_parts
    more_BxL = after.layout.prompt_mask_BxL & ~before.layout.prompt_mask_BxL
    assert not (more_BxL & ~before.scored_BxL).any()
    assert (after.layout.prompt_mask_BxL >= before.layout.prompt_mask_BxL).all()
    np.testing.assert_array_equal(after.scored_BxL, before.scored_BxL & ~more_BxL)
    assert not (after.layout.prompt_mask_BxL & (before.layout.positions_BxL == 0)).any()
    np.testing.assert_array_equal(after.tokens_BxL, before.tokens_BxL)
    np.testing.assert_array_equal(after.layout.class_B, before.layout.class_B)


def test_random_parts_have_their_rates(random_parts):
    """A share of the document, uniform: 0.4 of documents have one, half of these a beginning (at
    position i, of n, with probability 1 - i / n), half single tokens (each with 1/2)."""
    for given_RxL, n in zip(random_parts[2], (12, 9), strict=True):
        i_L = np.arange(PROMPT, n)
        p_L = 0.4 * (0.5 * (1 - i_L / n) + 0.5 * 0.5)
        assert all(
            near(count, ROWS, p) for count, p in zip(given_RxL.sum(axis=0), p_L, strict=True)
        )
        # Single tokens alone can leave the first one out: P(some, but not it) of share s is (1 - s)
        # (1 - (1 - s)^(rest)), integrated over s.
        rest = len(i_L) - 1
        scattered = given_RxL.any(axis=1) & ~given_RxL[:, 0]
        assert near(scattered.sum(), ROWS, 0.2 * (1 / 2 - 1 / (rest + 2)))


def test_documents_of_a_row_have_their_own_parts(random_parts):
    """Whether one has a part says nothing of the other."""
    first, second = (given_RxL.any(axis=1) for given_RxL in random_parts[2])
    covariance = np.mean(first * second) - first.mean() * second.mean()
    assert abs(covariance) < 4 * np.sqrt(first.var() * second.var() / ROWS)


def test_what_is_given_by_chance_is_hidden_with_the_prompt():
    after = seen(Prompts(drop=0.5, random=1.0))
    hidden_B, prompt_mask_BxL = after.layout.class_B == 0, after.layout.prompt_mask_BxL
    masks_BxL = after.tokens_BxL == VOCABULARY.mask_id
    np.testing.assert_array_equal(masks_BxL, prompt_mask_BxL & hidden_B[:, None])
    assert prompt_mask_BxL[hidden_B].sum() > 2.5 * hidden_B.sum() * 4


def test_a_rows_draws_depend_on_key_and_row_alone():
    """Not on its neighbours, nor on padding at its end."""
    prompts = Prompts(drop=0.5, random=0.5)
    batch = batch_of(40)
    whole = seen(prompts, batch)
    part = seen(prompts, jax.tree.map(lambda x: x[7:29], batch))
    jax.tree.map(np.testing.assert_array_equal, part, jax.tree.map(lambda x: x[7:29], whole))
    wide = jax.tree.map(lambda x: x if x.ndim == 1 else jnp.pad(x, ((0, 0), (0, 9))), batch)
    cut = jax.tree.map(lambda x: x if x.ndim == 1 else x[:, :28], seen(prompts, wide))
    jax.tree.map(np.testing.assert_array_equal, cut, whole)
    other = seen(prompts, batch, key=1)
    assert (other.layout.prompt_mask_BxL != whole.layout.prompt_mask_BxL).any()
    assert (other.layout.class_B != whole.layout.class_B).any()
