"""Where arrays live while a step runs: sharded as the config says, with nothing large on every
device, and rows split by positions (`sequence`) for every kind of attention."""

import functools
import math
import re

import jax
import numpy as np
import pytest
from training.test_step import MESHES, TOKENIZER, after, assert_same_training, build, rows_of_text

from dlms_jax.config import MeshConfig
from dlms_jax.denoiser import initial_params, make_denoiser, make_network, vocabulary_of
from dlms_jax.errors import UserError
from dlms_jax.model import DiffusionLM
from dlms_jax.parallel.mesh import (
    batch_shards,
    constrain_places,
    make_mesh,
    to_global,
    to_local,
)
from dlms_jax.parallel.rules import path_string
from dlms_jax.planning.program import make_program
from dlms_jax.testing import small_config
from dlms_jax.training.assembly import assemble
from dlms_jax.training.pretraining import as_batch

SEQUENCE = MESHES["sequence, mixed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        dict(objective__name="autoregressive"),
        dict(objective__name="block", block__size=4),
        dict(
            objective__name="masked", objective__shift=True, training__loss_implementation="plain"
        ),
        dict(objective__name="gaussian", gaussian__embedding_size=16),
        dict(model__prompt_encoder="cross_attention", objective__random_context=0.5),
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_rows_split_by_positions_train_the_same(settings):
    """Causal, block and full attention within documents, and attention to an encoded prompt."""
    assert_same_training(after(2, SEQUENCE, **settings), after(2, **settings))


@pytest.mark.slow
def test_rows_split_by_positions_accumulate():
    settings = dict(training__accumulation_steps=2)
    assert_same_training(after(2, SEQUENCE, **settings), after(2, **settings))


@pytest.mark.slow
def test_samples_are_the_same_with_split_positions():
    """Also with a cache: the few tokens that the network then reads at a time do not divide."""
    for name in ("masked", "block", "autoregressive"):
        config = small_config(objective__name=name, block__size=4)
        texts = []
        for shape in (dict(data=1), SEQUENCE):
            devices = jax.devices()[: int(np.prod(list(shape.values())))]
            mesh = make_mesh(MeshConfig(**shape), devices)
            network = make_network(config, vocabulary_of(TOKENIZER).padded_size, mesh)
            params = jax.jit(functools.partial(initial_params, network))(jax.random.key(0))
            lm = DiffusionLM(config, TOKENIZER, params, mesh)
            texts.append(lm.sample("ab", length=12, seed=3, temperature=0.5))
        assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(data__sequence_length=30), "sequence_length=30 does not divide over config.mesh.seq"),
        (dict(model__name="unet"), "config.mesh.sequence=4 splits rows, which a U-Net's"),
    ],
)
def test_rows_that_cannot_be_split_are_refused(settings, message):
    mesh = make_mesh(MeshConfig(2, sequence=4))
    with pytest.raises(UserError, match=message):
        make_network(small_config(**settings), 384, mesh)


def test_activations_are_split_by_rows_and_positions_and_keys_are_whole():
    mesh = make_mesh(MeshConfig(2, sequence=4))
    x = np.zeros((8, 32, 2, 6), np.float32)
    pin = jax.jit(constrain_places, static_argnames=("mesh", "whole"))
    shape_of = lambda y: y.addressable_shards[0].data.shape  # noqa: E731
    assert shape_of(pin(x, mesh=mesh)) == (4, 8, 2, 6)
    assert shape_of(pin(x, mesh=mesh, whole=True))[:2] == (4, 32)
    assert shape_of(pin(x[:, :3], mesh=mesh)) == (4, 3, 2, 6)  # does not divide


@pytest.mark.slow
def test_a_split_row_takes_less_memory_on_each_device():
    """Scores and masks too, which are L x L: 556 MiB on one device, 63 MiB on each of 8."""
    length, memory = 2048, []
    for shape in (dict(data=1), dict(data=1, sequence=8)):
        settings = dict(data__sequence_length=length, training__batch_size=1, model__width=64)
        mesh = make_mesh(MeshConfig(**shape), jax.devices()[: math.prod(shape.values())])
        program = make_program(small_config(**settings), mesh)
        compiled = program.lower().compile()
        memory.append(compiled.memory_analysis().temp_size_in_bytes)
    assert memory[1] < memory[0] / 7


def share(x) -> float:
    """Returns the share of a global array that a device holds."""
    return x.addressable_shards[0].data.size / x.size


@pytest.mark.parametrize("name", ["fsdp 8", "sequence, mixed"])
def test_what_a_step_keeps_is_split(name):
    """Each device holds its share of batch, logits and, as the rules say, of the state (except for
    norms and counters), before and after a step."""
    shape = MESHES[name]
    state, step, objective, mesh = build(shape, training__ema_decay=0.9)
    rows = to_global(rows_of_text(), mesh)
    assert all(share(x) == 1 / batch_shards(mesh) for x in jax.tree.leaves(rows))
    parts = mesh.shape["fsdp"] * mesh.shape["tensor"]
    for _ in range(2):
        kept = jax.tree_util.tree_leaves_with_path((state.params, state.ema, state.optimizer))
        whole = [path_string(path) for path, x in kept if x.size > 256 and share(x) != 1 / parts]
        assert not whole
        state, _ = step(state, (), rows)

    config = small_config()
    network = make_network(config, state.params["lm_head"]["kernel"].shape[1], mesh)

    @jax.jit
    def logits(params, rows):
        batch = as_batch(rows)
        denoise = make_denoiser(config, network, params, objective, mesh)
        key = jax.random.key(0)
        tokens, t, _ = objective.corrupt(batch, objective.draw_times(batch, key), key)
        return denoise.logits(tokens, t, batch.layout)

    split = share(logits(state.params, rows))
    assert split <= 1 / (batch_shards(mesh) * mesh.shape["sequence"])


def collectives(shape) -> dict[str, int]:
    """Returns how many collectives of each kind a compiled step has."""
    state, step, _, mesh = build(shape)
    text = step.lower(state, (), to_global(rows_of_text(), mesh)).compile().as_text()
    kinds = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
    return {kind: len(re.findall(rf"= .* {kind}(?:-start)?\(", text)) for kind in kinds}


def test_fsdp_gathers_weights_and_scatters_gradients():
    found = collectives(MESHES["fsdp 8"])
    assert found["all-gather"] >= 7 and found["reduce-scatter"] >= 1, found  # a layer's kernels


def test_data_parallelism_only_adds_up():
    found = collectives(MESHES["data 8"])
    assert found["all-reduce"] >= 1
    assert found["all-gather"] == found["all-to-all"] == 0, found


def test_to_local_inverts_to_global():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    x = np.arange(24).reshape(8, 3)
    np.testing.assert_array_equal(to_local(to_global({"x": x}, mesh))["x"], x)


def test_a_state_is_never_whole_on_one_device():
    """Not while it is created either: each device creates its part."""
    mesh = make_mesh(MeshConfig(1, 8, 1))
    state = assemble(small_config(), vocabulary_of(TOKENIZER), mesh).initial_state()
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    whole = sum(x.nbytes for x in jax.tree.leaves(state))
    assert held < 1.1 * whole / 8
