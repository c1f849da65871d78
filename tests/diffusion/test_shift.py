"""A network whose output at a position predicts the next token, under the masked objective."""

import jax
import jax.numpy as jnp
from models.small import network, packed
import numpy as np

from dlms_jax.diffusion import (
    Autoregressive,
    Cached,
    Denoiser,
    Linear,
    Masked,
    Vocabulary,
    make_batch,
    shifted,
)
from dlms_jax.testing import Joint

VOCABULARY = Vocabulary(size=100, pad_id=95, bos_id=96, eos_id=97, mask_id=98)  # models.small.ROWS


def early(denoise: Denoiser) -> Denoiser:
    """Returns the network that says everything one position too early, and nonsense at the last."""

    def logits(inputs, t_BxL, layout):
        logits_BxLxV = denoise.logits(inputs, t_BxL, layout)
        return jnp.full_like(logits_BxLxV, jnp.nan).at[:, :-1].set(logits_BxLxV[:, 1:])

    return Denoiser.from_logits(logits)


def text(lengths=((5, 5), (9, 1), (12,), (1, 1, 3))):
    layout = packed(lengths)
    segments, positions = layout.segments_BxL, layout.positions_BxL
    tokens = np.random.default_rng(0).integers(0, 90, positions.shape, np.int32)
    tokens = np.where(positions == 0, VOCABULARY.bos_id, tokens)
    tokens = np.where(segments == 0, VOCABULARY.pad_id, tokens)
    arrays = map(jnp.asarray, (tokens, segments, positions, positions > 0))
    return make_batch(*arrays, jnp.arange(len(lengths)))


def test_bound_and_loss_of_the_exact_network_that_speaks_early_are_the_exact_ones():
    """On the oracle, whose bound is the entropy (test_bounds.py)."""
    joint = Joint(3, 3)
    objective, batch, exact = Masked(joint.vocabulary, Linear()), joint.batch(), None
    for denoise in (joint.masked_denoiser(), shifted(early(joint.masked_denoiser()))):
        key = jax.random.key(1)
        loss = objective.loss(denoise, batch, key)
        found = loss, objective.bound(denoise, batch, key, 1, 2)
        exact = exact or found
        jax.tree.map(np.testing.assert_array_equal, found, exact)
    assert exact[0].total > 0


def test_a_shifted_network_is_the_network_with_its_logits_rolled():
    """Exactly: bound and what samplers read; the loss sums in another order."""
    model, params = network()
    batch, objective = text(), Masked(VOCABULARY, Linear())

    def compute(make):
        def logits(inputs, t_BxL, layout):
            return model.apply({"params": params}, inputs, t_BxL, layout, "full")

        @jax.jit
        def parts(key):
            denoise, t_BxL = make(logits), jnp.ones(batch.tokens_BxL.shape)
            read_BxLxV = denoise.logits(batch.tokens_BxL, t_BxL, batch.layout)
            loss = objective.loss(denoise, batch, key)
            return loss.total, objective.bound(denoise, batch, key, 1, 3), read_BxLxV

        return parts(jax.random.key(4))

    def rolled(logits):
        return Denoiser.from_logits(lambda *x: jnp.roll(logits(*x), 1, axis=1))

    one, other = compute(rolled), compute(lambda f: shifted(Denoiser.from_logits(f)))
    jax.tree.map(np.testing.assert_array_equal, one[1:], other[1:])
    np.testing.assert_allclose(one[0], other[0], rtol=1e-6)


def test_what_is_scored_is_predicted_from_the_position_before_it_in_its_own_document():
    """The network says where it stands: symbol j at place j of the row, surely."""
    batch = text()
    shape = batch.tokens_BxL.shape
    sure_BxLxV = 1e3 * jnp.broadcast_to(jnp.eye(shape[1], VOCABULARY.padded_size), (*shape, 128))
    denoise = shifted(Denoiser.from_logits(lambda *_: sure_BxLxV))
    source_BxL = np.argmax(denoise.logits(batch.tokens_BxL, jnp.ones(shape), batch.layout), -1)
    layout, scored_BxL = jax.tree.map(np.asarray, (batch.layout, batch.scored_BxL))
    rows = np.broadcast_to(np.arange(shape[0])[:, None], shape)
    for field, behind in ((layout.segments_BxL, 0), (layout.positions_BxL, 1)):
        assert (field[rows, source_BxL] == field - behind)[scored_BxL].all()
    total, nll_BxL, _ = denoise.nll(
        batch.tokens_BxL, jnp.ones(shape), batch.layout, jnp.asarray(source_BxL),
        scored_BxL.astype(jnp.float32), VOCABULARY.text_bias_V(),
    )  # fmt: skip
    assert total == 0 and (np.asarray(nll_BxL) == 0).all()


def test_where_attention_is_causal_an_autoregressive_network_predicts_what_it_did():
    """Of the first mask of each document, exactly: what stands before it is the text itself."""
    model, params = network()
    batch = text()
    layout, tokens_BxL = batch.layout, batch.tokens_BxL
    first_BxL = layout.positions_BxL == 4
    masked_BxL = jnp.where(layout.positions_BxL >= 4, VOCABULARY.mask_id, tokens_BxL)

    @jax.jit
    def predicted(params):
        def denoiser(attention):
            return Denoiser.from_logits(lambda *x: model.apply({"params": params}, *x, attention))

        causal = layout._replace(ahead_B=jnp.zeros(len(tokens_BxL), int))  # annealing's step 0
        _, nll_BxL, _ = shifted(denoiser("full")).nll(
            masked_BxL, jnp.zeros(masked_BxL.shape), causal, tokens_BxL,
            first_BxL.astype(jnp.float32), VOCABULARY.exported_bias_V(),
        )  # fmt: skip
        exact_BxL = Autoregressive(VOCABULARY).bound(denoiser("causal"), batch, None, 0, 1)
        return nll_BxL, jnp.where(first_BxL, exact_BxL, 0.0)

    nll_BxL, exact_BxL = predicted(params)
    np.testing.assert_allclose(nll_BxL, exact_BxL, rtol=1e-5)
    assert (np.asarray(nll_BxL) > 0).sum() == first_BxL.sum() == 4


def test_a_shifted_denoiser_has_no_cache():
    cached = Cached(None, None)
    assert shifted(Denoiser(None, None, cached=cached)).cached is None
