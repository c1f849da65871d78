"""Settings that no run could use are refused before anything is compiled."""

import math
import types

from dlms_jax.errors import UserError

_AT_LEAST = types.MappingProxyType({
    2: "data.sequence_length",  # BOS and a token
    1: "model.width model.num_layers model.num_heads data.prefetch tokenizer.vocab_size "
    "training.steps training.batch_size training.accumulation_steps training.log_every "
    "training.max_skipped_steps training.head_chunk data.synthetic_documents checkpoint.every "
    "checkpoint.keep_latest evaluation.every evaluation.batch_size evaluation.samples "
    "sampling.length sampling.steps mesh.data mesh.fsdp mesh.tensor",
    0: "model.num_kv_heads model.head_size model.feed_forward model.norm_epsilon "
    "optimizer.warmup_steps optimizer.weight_decay optimizer.clip_norm optimizer.epsilon "
    "optimizer.peak_learning_rate optimizer.muon_learning_rate optimizer.b1 optimizer.b2 "
    "optimizer.decay_fraction optimizer.final_fraction training.ema_decay training.seed "
    "checkpoint.keep_best evaluation.rows evaluation.final_rows evaluation.seed "
    "sampling.temperature sampling.guidance data.seed data.max_unique_tokens data.repeat "
    "data.short_rows data.workers",
})  # fmt: skip
_ABOVE_0 = ("model.rope_theta", "objective.schedule_power", "data.heldout_fraction")
_BELOW = types.MappingProxyType({
    1: "optimizer.b1 optimizer.b2 training.ema_decay data.heldout_fraction",
    # jax.random.key takes more, and drops the upper bits.
    2**32: "training.seed evaluation.seed data.seed",
})  # fmt: skip


def check(config):
    """Raises UserError for settings that no run could use, before anything is compiled."""
    settings = {
        f"{section}.{leaf}": value
        for section, leaves in config.to_dict().items()
        if isinstance(leaves, dict)
        for leaf, value in leaves.items()
    }
    for key, value in settings.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{key}={value} should be finite")
    for low, keys in _AT_LEAST.items():
        for key in keys.split():
            the_rest = key.startswith("mesh.") and settings[key] == -1
            if settings[key] < low and not the_rest:
                raise UserError(f"config.{key}={settings[key]} should be at least {low}")
    for key in _ABOVE_0:
        if settings[key] <= 0:
            raise UserError(f"config.{key}={settings[key]} should be above 0")
    for high, keys in _BELOW.items():
        for key in keys.split():
            if settings[key] >= high:
                raise UserError(f"config.{key}={settings[key]} should be below {high}")
    if settings["data.short_rows"] > 1:
        raise UserError(f"config.data.short_rows={settings['data.short_rows']} should be at most 1")
    if config.data.max_unique_tokens and config.data.packing != "concat":
        raise UserError(
            "config.data.max_unique_tokens needs config.data.packing=concat: rows of best-fit are "
            "not in document order"
        )
    for name, weight in config.data.mixture.items():
        if not weight > 0 or not math.isfinite(weight):
            raise UserError(f"config.data.mixture[{name!r}]={weight} should be above 0")
    model, training = config.model, config.training
    if not model.head_size and model.width % model.num_heads:
        raise UserError(
            f"config.model.width={model.width} is not a multiple of "
            f"config.model.num_heads={model.num_heads}; change one, or set config.model.head_size"
        )
    if model.num_heads % model.kv_heads:
        raise UserError(
            f"config.model.num_heads={model.num_heads} is not a multiple of "
            f"config.model.num_kv_heads={model.kv_heads}"
        )
    if model.per_head % 2:
        raise UserError(
            f"config.model.head_size={model.per_head} is odd; rotary positions need an even one"
        )
    if training.batch_size % training.accumulation_steps:
        raise UserError(
            f"config.training.batch_size={training.batch_size} is not a multiple of "
            f"config.training.accumulation_steps={training.accumulation_steps}"
        )
