"""A tiny Transformer learns a toy language by each loss, and its bound stays above the entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlms_jax.config import GaussianConfig, ModelConfig
from dlms_jax.denoiser import initial_params
from dlms_jax.diffusion import Denoiser, Vocabulary, make_batch
from dlms_jax.diffusion.gaussian import Gaussian, schedule_size
from dlms_jax.models import Transformer
from dlms_jax.models.inputs import noise_schedule, noise_table

STAY, SYMBOLS, LENGTH, ROWS, STEPS = 0.9, 6, 16, 24, 120


def entropy_rate() -> float:
    """Returns the nats per token of the language, after its first."""
    other = (1 - STAY) / (SYMBOLS - 1)
    return -STAY * np.log(STAY) - (1 - STAY) * np.log(other)


def batch_of(key, vocabulary, rows):
    """Returns rows in which each symbol is the one before, plus 1 with probability STAY."""
    first_key, stay_key, jump_key = jax.random.split(key, 3)
    jumps = jax.random.randint(jump_key, (rows, LENGTH), 2, SYMBOLS + 1)
    moves = jnp.where(jax.random.bernoulli(stay_key, STAY, (rows, LENGTH)), 1, jumps)
    moves = moves.at[:, 0].set(jax.random.randint(first_key, (rows,), 0, SYMBOLS))
    text = jnp.cumsum(moves, axis=1) % SYMBOLS
    tokens = jnp.pad(text, ((0, 0), (1, 0)), constant_values=vocabulary.bos_id)
    positions = jnp.tile(jnp.arange(LENGTH + 1)[None], (rows, 1))
    segments = jnp.ones_like(positions)
    return make_batch(tokens, segments, positions, positions > 0, jnp.arange(rows))


@pytest.mark.parametrize(
    ("loss", "schedule", "settings"),
    [
        ("cross_entropy", "warped", {}),
        pytest.param("bound", "learned", {"self_conditioning": False}, marks=pytest.mark.slow),
        ("score_matching", "cosine",
         {"head": "embedding", "parameterisation": "v", "self_conditioning": False}),
    ],
)  # fmt: skip
def test_each_loss_learns_a_toy_language(loss, schedule, settings):
    gaussian = GaussianConfig(embedding_size=8, loss=loss, **settings)
    config = ModelConfig(width=64, num_layers=2, num_heads=2, feed_forward=128, dtype="float32",
                         conditioning="film", conditioning_size=16)  # fmt: skip
    vocabulary = Vocabulary(size=SYMBOLS + 4, pad_id=6, bos_id=7, eos_id=8, mask_id=9)
    model = Transformer(
        config, vocabulary.padded_size, gaussian=gaussian, schedule_size=schedule_size(schedule)
    )
    objective = Gaussian(vocabulary, gaussian, schedule)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(5e-3, b2=0.95))

    def denoiser(params):
        def logits(inputs, t_BxL, layout):
            return model.apply({"params": params}, inputs, t_BxL, layout, "full")

        table_VxE = noise_table(params, gaussian)
        return Denoiser.from_logits(logits, table_VxE=table_VxE, schedule=noise_schedule(params))

    @jax.jit
    def train(params):
        def step(state, i):
            params, optimizer = state
            data_key, key = jax.random.split(jax.random.fold_in(jax.random.key(1), i))
            batch = batch_of(data_key, vocabulary, ROWS)

            def mean_loss(params):
                return objective.loss(denoiser(params), batch, key, i).total / ROWS / LENGTH

            value, gradient = jax.value_and_grad(mean_loss)(params)
            updates, optimizer = tx.update(gradient, optimizer, params)
            return (optax.apply_updates(params, updates), optimizer), value

        return jax.lax.scan(step, (params, tx.init(params)), jnp.arange(STEPS))

    @jax.jit
    def bound(params):
        batch, key = batch_of(jax.random.key(2), vocabulary, 128), jax.random.key(3)

        def add(total, sample):
            nats_BxL = objective.bound(denoiser(params), batch, key, sample, 4)
            return total + jnp.sum(nats_BxL), None

        return jax.lax.scan(add, 0.0, jnp.arange(4))[0] / 4 / 128 / LENGTH

    params = jax.jit(lambda: initial_params(model, jax.random.key(0)))()
    before = float(bound(params))
    (params, _), losses = train(params)
    after = float(bound(params))
    print(loss, before, after, entropy_rate(), losses[::10])
    assert np.isfinite(losses).all()
    if loss != "cross_entropy":  # its schedule moves to the noise that costs most
        assert np.mean(losses[-10:]) < np.mean(losses[:10])
    floor = entropy_rate() + (np.log(SYMBOLS) - entropy_rate()) / LENGTH
    assert floor - 0.05 < after < before - 0.2
