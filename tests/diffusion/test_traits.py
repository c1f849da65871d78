"""What an objective says of itself, in place of its name."""

import jax.numpy as jnp
import numpy as np
import pytest

from dlms_jax.config import traits_of
from dlms_jax.diffusion import Cosine, Linear, Polynomial, make_objective
from dlms_jax.models import train_flops
from dlms_jax.planning.program import make_program
from dlms_jax.testing import small_config

SCHEDULES = {
    "linear": Linear(), "cosine": Cosine(), "polynomial": Polynomial(2.0), "steep": Polynomial(0.5)
}  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_share_of_masks_is_the_integral_over_time(schedule):
    middles = (np.arange(20_000) + 0.5) / 20_000
    mean = float(jnp.mean(schedule.masked(jnp.asarray(middles))))
    assert schedule.masked_share == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        (dict(objective__schedule="linear"), 0.5),
        (dict(objective__schedule="cosine"), 0.6366),
        (dict(objective__schedule="polynomial"), 0.3333),
        (dict(objective__name="block", objective__schedule="cosine"), 0.6366),
        (dict(objective__name="block", block__context="causal"), 0.5),
        (dict(objective__name="uniform", objective__schedule="cosine"), 1),
        (dict(objective__name="gaussian", objective__schedule="cosine"), 1),
        (dict(objective__name="autoregressive"), 1),
    ],
    ids=lambda x: " ".join(map(str, x.values())) if isinstance(x, dict) else "",
)
def test_an_objective_and_its_config_say_the_same_and_costs_go_by_the_share(
    settings, share, vocabulary, one_device
):
    config = small_config(**settings)
    traits = make_objective(config, vocabulary).traits
    assert traits == traits_of(config)
    assert traits.logits_share == pytest.approx(share, abs=1e-4)
    program = make_program(config, one_device)
    assert program.head_share == traits.logits_share
    one_logit = 6 * config.model.width  # FLOPs, forward and backward
    if traits.inputs == "tokens":
        more = [train_flops(config, rows, 32) for rows in (384, 384 + 128)]
        assert more[1] - more[0] == pytest.approx(one_logit * 128 * traits.logits_share)
    plain = make_program(
        small_config(training__loss_implementation="plain", **settings), one_device
    )
    assert plain.head_share == 1 and plain.flops == program.flops


def test_what_each_objective_says():
    said = {
        name: traits_of(small_config(objective__name=name))[:6]
        for name in ("masked", "uniform", "gaussian", "block", "autoregressive")
    }
    assert said == {  # attention, copies, inputs, order, needs_time, exact
        "masked": ("full", 1, "tokens", "any", False, False),
        "uniform": ("full", 1, "tokens", "any", True, False),
        "gaussian": ("full", 1, "embeddings", "any", True, False),
        "block": ("block", 2, "tokens", "blocks", False, False),
        "autoregressive": ("causal", 1, "tokens", "left_to_right", False, True),
    }
    causal = small_config(objective__name="block", block__context="causal")
    assert traits_of(causal).attention == "block_causal"
