"""Optimizers and learning-rate schedules, as optax chains."""

import re

import jax
import optax

from dlms_jax.config import OptimizerConfig
from dlms_jax.parallel.rules import path_string
from dlms_jax.training.rounding import in_bfloat16

_DECAYED = r"kernel$"  # matrices; not norms, biases, embeddings and the noise schedule
# The matrices of the Transformer's layers (with their leading layer axis) and of the U-Net's
# levels, except their modulation by time and class and the router of experts.
_MUON_MATRIX = (
    r"^((source_)?layers|(down|up)_\d+(_\d+)?|mid|(shorten|lengthen)_\d+)/(.*/)?"
    r"(?<!_modulation/proj/)(?<!mlp/gate/)kernel$"
)


def learning_rate(config: OptimizerConfig, steps: int, peak: float) -> optax.Schedule:
    """Returns the learning rate by step: linear warm-up to `peak`, then config.schedule.

    constant: the rate stays at `peak`.
    cosine: half a cosine down to final_fraction * peak at the last step.
    wsd (warm-up, stable, decay; MiniCPM, arXiv 2404.06395): constant, then linear decay to
        final_fraction * peak in the last decay_fraction of the steps.

    Args:
      config: the settings of the schedule.
      steps: the number of steps of the run.
      peak: the largest rate.
    """
    warmup = min(config.warmup_steps, steps)
    final = config.final_fraction * peak
    rest = max(steps - warmup, 1)
    if config.schedule == "constant":
        after = optax.constant_schedule(peak)
    elif config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, config.final_fraction)
    else:
        decay = min(round(config.decay_fraction * steps), rest)
        after = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, final, max(decay, 1))],
            [rest - decay],
        )
    # The rate of step 0 is peak / warmup, not 0.
    ramp = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(
    config: OptimizerConfig, steps: int, seed: int = 0
) -> optax.GradientTransformation:
    """Returns the optimizer: clipping by global norm, then AdamW or Muon.

    Muon (arXiv 2502.16982) updates the matrices of the layers; AdamW updates the rest.

    Args:
      config: the settings of the optimizer.
      steps: the number of steps of the run.
      seed: the seed of the stochastic rounding of bfloat16 moments.
    """
    rate = learning_rate(config, steps, config.peak_learning_rate)
    update = optax.adamw(
        rate,
        config.b1,
        config.b2,
        config.epsilon,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    if config.name == "muon":
        muon = optax.contrib.muon(
            learning_rate(config, steps, config.muon_learning_rate),
            weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=_matrix_dimensions,
        )
        update = optax.partition({"muon": muon, "adam": update}, muon_or_adam)
    if config.moments == "bfloat16":
        update = in_bfloat16(update, seed)
    if not config.clip_norm:
        return update
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def decay_mask(params):
    """Returns a tree of bools: whether weight decay applies to a parameter."""
    return _by_path(lambda path: bool(re.search(_DECAYED, path)), params)


def muon_or_adam(params):
    """Returns a tree of "muon" and "adam": which of the two updates a parameter in Muon."""
    return _by_path(lambda path: "muon" if re.search(_MUON_MATRIX, path) else "adam", params)


def _matrix_dimensions(params):
    """Returns Muon's dimension numbers: the last two axes are (in, out), the others are batch axes.

    Without them optax does not treat a stacked kernel as matrices and updates it with Adam.
    """
    return jax.tree.map(
        lambda x: optax.contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params
    )


def _by_path(function, params):
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_string(path)), params)
