"""Optimizers and learning-rate schedules, as optax chains."""

import re

import jax
import optax

from dlms_jax.config import OptimizerConfig
from dlms_jax.parallel.rules import path_string
from dlms_jax.training.rounding import in_bfloat16

_DECAYED = r"kernel$"  # matrices; not norms, biases, embeddings and the noise schedule
# The matrices of the Transformer's layers (with their leading layer axis) and of the U-Net's
# levels; not what conditions them on time and class, nor the router of experts.
_MUON_MATRIX = (
    r"^((source_)?layers|(down|up)_\d+(_\d+)?|mid|(shorten|lengthen)_\d+)/(.*/)?"
    r"(?<!_modulation/proj/)(?<!mlp/gate/)kernel$"
)


def learning_rate(config: OptimizerConfig, steps: int, peak: float) -> optax.Schedule:
    """Returns the rate by step: linear warm-up to `peak`, then what config.schedule names.

    cosine: half a cosine down to final_fraction * peak at the last step. wsd (warm-up, stable,
    decay; MiniCPM arXiv 2404.06395): constant, then linear down in the last decay_fraction.
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
    # The first update already moves: step 0 has rate peak / warmup.
    ramp = optax.linear_schedule(peak / max(warmup, 1), peak, max(warmup - 1, 1))
    return optax.join_schedules([ramp, after], [warmup])


def make_optimizer(
    config: OptimizerConfig, steps: int, seed: int = 0
) -> optax.GradientTransformation:
    """Returns the chain: clip by global norm, then AdamW; or Muon (arXiv 2502.16982) for the
    layers' matrices and AdamW for the rest.

    seed: decides how moments in bfloat16 are rounded.
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
    """Returns a tree of bools: which parameters weight decay pulls towards 0."""
    return _by_path(lambda path: bool(re.search(_DECAYED, path)), params)


def muon_or_adam(params):
    """Returns a tree of "muon" and "adam": which of the two updates a parameter in Muon's runs."""
    return _by_path(lambda path: "muon" if re.search(_MUON_MATRIX, path) else "adam", params)


def _matrix_dimensions(params):
    """Names the last two axes as in x out: a layers' kernel is N matrices, that of their experts
    N x E. Without it optax takes a 3-D kernel for no matrix, and Adam updates it."""
    return jax.tree.map(
        lambda x: optax.contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params
    )


def _by_path(function, params):
    return jax.tree_util.tree_map_with_path(lambda path, _: function(path_string(path)), params)
