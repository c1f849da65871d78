"""One update is the same on every mesh, with and without accumulation, and skips what is broken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.config import MeshConfig
from dlms_jax.data.packing import Rows, join, pack
from dlms_jax.data.tokenizers import ByteTokenizer
from dlms_jax.denoiser import vocabulary_of
from dlms_jax.parallel.mesh import batch_sharding, make_mesh, to_global
from dlms_jax.testing import small_config
from dlms_jax.training.assembly import assemble
from dlms_jax.training.pretraining import as_batch

ONE = dict(data=1, fsdp=1, tensor=1)
MESHES = {
    "data 8": dict(data=8, fsdp=1, tensor=1),
    "fsdp 8": dict(data=1, fsdp=8, tensor=1),
    "tensor 4, data 2": dict(data=2, fsdp=1, tensor=4),
    "mixed": dict(data=2, fsdp=2, tensor=2),
    "sequence 4, data 2": dict(data=2, fsdp=1, tensor=1, sequence=4),
    "sequence, mixed": dict(data=1, fsdp=2, tensor=2, sequence=2),
}
TOKENIZER = ByteTokenizer()


def rows_of_text(batch_size=16, length=32) -> Rows:
    rng = np.random.default_rng(0)
    documents = [rng.integers(97, 123, rng.integers(3, 40)) for _ in range(2 * length)]
    t = TOKENIZER
    packed = join(pack(documents, length, t.bos_id, t.eos_id, t.pad_id), length)
    return packed.take(slice(batch_size))


def build(mesh_shape=ONE, **settings):
    """Returns (state, step, objective, mesh) of a small config on a mesh."""
    config = small_config(training__batch_size=16, **settings)
    devices = jax.devices()[: int(np.prod(list(mesh_shape.values())))]
    mesh = make_mesh(MeshConfig(**mesh_shape), devices)
    assembly = assemble(config, vocabulary_of(TOKENIZER), mesh)
    return assembly.initial_state(), assembly.step(), assembly.objective, mesh


def after(steps, mesh_shape=ONE, rows=None, **settings):
    """Returns (params, metrics of each step) after some steps on the same rows."""
    state, step, _, mesh = build(mesh_shape, **settings)
    rows, history = rows or rows_of_text(), []
    for _ in range(steps):
        state, metrics = step(state, (), to_global(rows, mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state.params), history


def assert_same_training(one, other):
    """Losses and gradient norms agree to float tolerance, and so do the weights after them.

    Adam divides by the gradient's own size, so where that is near 0 the sign of a rounding error
    moves a weight by the whole learning rate; few may."""
    for a, b in zip(one[1], other[1], strict=True):
        for name in ("loss", "grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(other[0]), strict=True):
        assert np.isclose(a, b, rtol=1e-3, atol=2e-5).mean() > 0.99


@pytest.fixture(scope="module")
def reference():
    return {name: after(2, objective__name=name) for name in ("masked", "autoregressive")}


@pytest.mark.parametrize("shape", MESHES.values(), ids=MESHES)
def test_training_is_the_same_on_every_mesh(shape, reference):
    assert_same_training(after(2, shape, objective__name="masked"), reference["masked"])


def test_autoregressive_training_is_the_same_on_a_mixed_mesh(reference):
    mixed = after(2, MESHES["mixed"], objective__name="autoregressive")
    assert_same_training(mixed, reference["autoregressive"])


@pytest.mark.parametrize("shape", [ONE, MESHES["data 8"]], ids=["1", "data 8"])
def test_accumulation_gives_the_large_batchs_update(shape, reference):
    accumulated = after(2, shape, training__accumulation_steps=2, objective__name="masked")
    assert_same_training(accumulated, reference["masked"])


def test_accumulation_by_four(reference):
    assert_same_training(after(2, training__accumulation_steps=4), reference["masked"])


def test_a_shifted_and_annealed_run_is_the_same_on_a_mixed_mesh_and_accumulated():
    """Half way, where rows differ in how far ahead they see."""
    settings = dict(objective__shift=True, objective__anneal_steps=2)
    mixed = after(2, MESHES["mixed"], training__accumulation_steps=2, **settings)
    assert_same_training(mixed, after(2, **settings))


def test_the_plain_head_trains_as_the_fused_one(reference):
    assert_same_training(after(2, training__loss_implementation="plain"), reference["masked"])


def test_unrolled_layers_train_as_scanned_ones(reference):
    assert_same_training(after(2, model__scan_layers=False), reference["masked"])


@pytest.mark.parametrize("shape", MESHES.values(), ids=MESHES)
def test_corruption_is_bit_equal_on_every_mesh(shape):
    """Masks and times, not only their statistics: no layout may change what is learned."""
    _, _, objective, mesh = build(shape)
    rows, key = rows_of_text(), jax.random.key(5)

    @jax.jit
    def corrupt(rows):
        batch = as_batch(rows)
        return objective.corrupt(batch, objective.draw_times(batch, key), key)

    sharded = corrupt(to_global(rows, mesh))
    assert sharded[0].sharding.is_equivalent_to(batch_sharding(mesh), 2)
    expected = corrupt(jax.device_put(rows, jax.devices()[0]))
    for a, b in zip(sharded, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_state_and_batch_are_sharded_from_the_start():
    state, step, _, mesh = build(MESHES["fsdp 8"])
    rows = to_global(rows_of_text(), mesh)
    assert rows.tokens_RxL.addressable_shards[0].data.shape == (2, 32)
    for _ in range(2):  # as created, and as returned
        kernel = state.params["layers"]["mlp"]["up_proj"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // 8
        moments = [x for x in jax.tree.leaves(state.optimizer) if x.shape == kernel.shape]
        assert moments and all(m.addressable_shards[0].data.size == m.size // 8 for m in moments)
        state, _ = step(state, (), rows)


def test_bfloat16_computes_nearly_the_same_from_a_float32_state(reference):
    params, history = after(2, model__dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    for step, expected in zip(history, reference["masked"][1], strict=True):
        assert step["loss"] == pytest.approx(expected["loss"], rel=5e-3)
        assert step["loss"] != expected["loss"]


def test_metrics_are_means_over_all_scored_tokens():
    """The loss of an untrained network is near log V, whatever padding and packing there is."""
    _, history = after(1, objective__name="autoregressive")
    assert history[0]["loss"] == pytest.approx(np.log(260), rel=0.02)


@pytest.mark.slow
def test_overfits_one_batch():
    """Random letters can only be memorised: a model that cannot stays at log 26 = 3.26 nats."""
    few = rows_of_text().take(np.tile(np.arange(4), 4))
    settings = dict(optimizer__schedule="constant", optimizer__weight_decay=0.0,
                    training__steps=200)  # fmt: skip
    for name, below in (("autoregressive", 0.3), ("masked", 1.5)):
        _, history = after(200, rows=few, objective__name=name, **settings)
        assert np.mean([m["loss"] for m in history[-20:]]) < below


class TestNonFinite:
    """Symbol "z" has a broken embedding: rows with it give NaN, rows without it do not."""

    def prepare(self):
        state, step, _, mesh = build()
        embedding = state.params["embed"]["embedding"].at[ord("z")].set(jnp.nan)
        state = state._replace(params=state.params | {"embed": {"embedding": embedding}})
        rows = rows_of_text()
        good = rows._replace(
            tokens_RxL=np.where(rows.tokens_RxL == ord("z"), ord("a"), rows.tokens_RxL)
        )
        bad = rows._replace(tokens_RxL=np.where(rows.tokens_RxL < 256, ord("z"), rows.tokens_RxL))
        return state, step, to_global(good, mesh), to_global(bad, mesh)

    def test_a_bad_step_changes_nothing_but_the_counters(self):
        state, step, _, bad = self.prepare()
        before = jax.device_get(state)
        state, metrics = step(state, (), bad)
        assert not np.isfinite(metrics["loss"])
        assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (1, 1, 1)
        for part in ("params", "optimizer"):
            jax.tree.map(
                np.testing.assert_array_equal,
                getattr(before, part),
                jax.device_get(getattr(state, part)),
            )

    def test_a_good_step_ends_the_streak_and_keeps_the_count(self):
        state, step, good, bad = self.prepare()
        for rows in (bad, bad, good):
            state, metrics = step(state, (), rows)
        assert np.isfinite(metrics["loss"])
        assert (int(state.step), int(state.skipped), int(state.skipped_in_a_row)) == (3, 2, 0)


def test_moving_average_follows_the_weights():
    state, step, _, mesh = build(training__ema_decay=0.999)
    first = jax.device_get(state.params["lm_head"]["kernel"])
    state, _ = step(state, (), to_global(rows_of_text(), mesh))
    new, ema = (jax.device_get(tree["lm_head"]["kernel"]) for tree in (state.params, state.ema))
    np.testing.assert_allclose(ema, 0.1 * first + 0.9 * new, rtol=1e-5)  # decay (1 + 0) / (10 + 0)
