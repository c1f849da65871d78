"""docs/features.md says what the program does: refusals are one line, and all the rest can run."""

import pathlib

import feature_table
from feature_table import (
    NETWORKS,
    OBJECTIVES,
    SAMPLING,
    SECTIONS,
    TOKENIZER,
    TRAINING,
    config_of,
    refusal,
)
import jax
import numpy as np
import pytest

from dlms_jax.denoiser import make_denoiser
from dlms_jax.diffusion.protocol import example_keys
from dlms_jax.parallel.mesh import make_mesh
from dlms_jax.planning.program import make_program
from dlms_jax.sampling import make_canvas, make_sampler, run_sampler

COMBINATIONS = [
    (objective, network)
    for objective in OBJECTIVES
    for network in NETWORKS
    if refusal(objective, network, TRAINING[0]) is None
]


def test_the_page_is_current():
    page = (pathlib.Path(__file__).parents[1] / "docs/features.md").read_text(encoding="utf-8")
    assert page == feature_table.page(), "run: python tests/feature_table.py > docs/features.md"


def test_a_refusal_is_one_line():
    for features in SECTIONS.values():
        for feature in features:
            for objective in OBJECTIVES:
                for network in NETWORKS:
                    why = refusal(objective, network, feature)
                    assert why is None or (why and "\n" not in why), (feature.name, why)


def test_the_networks_of_the_table_are_those_of_the_program():
    assert len(COMBINATIONS) == 13  # a U-Net cannot keep later tokens from earlier ones
    assert not any(
        network == "U" for name, network in COMBINATIONS if name in ("block", "autoregressive")
    )


def program_of(objective, network, feature):
    config = config_of(objective, network, feature)
    return make_program(config, make_mesh(config.mesh, jax.devices()[:2]))


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.slow
@pytest.mark.parametrize("objective, network", COMBINATIONS)
def test_what_is_not_refused_can_be_trained(objective, network):
    for feature in TRAINING:
        if refusal(objective, network, feature) is None:
            program = program_of(objective, network, feature)
            state, metrics = jax.eval_shape(program.step(), program.state, (), program.rows)
            assert metrics["loss"].shape == (), feature.name
            assert shapes(state) == shapes(program.state), feature.name


@pytest.mark.slow
@pytest.mark.parametrize("objective, network", COMBINATIONS)
def test_what_is_not_refused_can_be_sampled(objective, network):
    for feature in SAMPLING:
        if refusal(objective, network, feature) is None:
            program = program_of(objective, network, feature)
            canvas = make_canvas([["a", 2]], TOKENIZER, 16)
            state = jax.eval_shape(sampling_of(program), program.state.params, canvas)
            assert state.tokens_BxL.shape == canvas.tokens_BxL.shape, feature.name


def sampling_of(program):
    """Returns a function (params, canvas) -> the state after two steps of the sampler."""
    config, objective = program.config, program.objective
    sampler = make_sampler(config.objective.name, objective, config.sampling)

    def sample(params, canvas):
        denoise = make_denoiser(config, program.network, params, objective, program.mesh)
        state = sampler.start(denoise, canvas, example_keys(jax.random.key(0), np.arange(1)))
        return run_sampler(sampler, denoise, state, 2)

    return sample
