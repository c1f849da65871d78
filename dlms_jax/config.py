"""Every setting of a run: frozen dataclasses with defaults, read once from a recipe.

A recipe in configs/ has a `get_config()` that returns an ml_collections ConfigDict, so that
`--config.section.key=value` works. `load_config` turns it into the frozen `Config` below, where a
misspelt key, a wrong type or sizes that do not fit are one line each. The rest of the program only
ever sees `Config`.
"""

import dataclasses
import difflib
import math
import pathlib
import runpy
import types
import typing
from typing import Any, Literal

import ml_collections

from dlms_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What is learned: a masked diffusion, or the autoregressive baseline."""

    name: Literal["masked", "autoregressive"] = "masked"
    schedule: Literal["linear", "cosine", "polynomial"] = "linear"
    schedule_power: float = 2.0  # polynomial only: alpha(t) = 1 - t^power


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The denoiser, laid out and named as Qwen3."""

    name: Literal["transformer"] = "transformer"
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    num_kv_heads: int = 0  # 0: as many as num_heads; fewer: grouped-query attention
    head_size: int = 0  # 0: width / num_heads
    feed_forward: int = 0  # 0: 8/3 of the width, rounded up to a multiple of 64
    qk_norm: bool = True
    qkv_bias: bool = False
    tie_embeddings: bool = False
    rope_theta: float = 10_000.0
    norm_epsilon: float = 1e-6
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the computation; the state is float32
    attention: Literal["xla"] = "xla"
    scan_layers: bool = True
    remat: Literal["none", "dots", "full"] = "none"

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def per_head(self) -> int:
        return self.head_size or self.width // self.num_heads

    @property
    def hidden(self) -> int:
        return self.feed_forward or -(-(8 * self.width // 3) // 64) * 64


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    name: Literal["bytes", "bpe"] = "bytes"
    vocab_size: int = 8192  # bpe only: symbols to train, special tokens included
    path: str = ""  # bpe only: load this tokenizer.json instead of training one


@dataclasses.dataclass(frozen=True)
class DataConfig:
    corpus: str = "python-prose"  # a named corpus, or a text file, or a folder of them
    sequence_length: int = 512
    heldout_fraction: float = 0.05  # of the documents
    prefetch: int = 8  # batches prepared ahead of the step


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    name: Literal["adamw", "muon"] = "adamw"
    peak_learning_rate: float = 2e-4  # with muon: of what muon does not update (embeddings, norms)
    muon_learning_rate: float = 0.02
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    warmup_steps: int = 1000
    decay_fraction: float = 0.2  # wsd only: the share of all steps in which the rate falls
    final_fraction: float = 0.1  # cosine and wsd: last rate as a share of the peak
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    clip_norm: float = 1.0  # 0: no clipping


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    steps: int = 200_000
    batch_size: int = 64  # rows of all devices and accumulation steps together
    accumulation_steps: int = 1
    seed: int = 0
    ema_decay: float = 0.0  # 0: no moving average of the weights
    log_every: int = 50
    max_skipped_steps: int = 20  # non-finite steps in a row before the run stops
    head: Literal["fused", "plain"] = "fused"  # fused: logits only where the loss looks
    head_chunk: int = 1024  # positions whose logits exist at one time, on each device


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; -1 is 'the rest'."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: int = 5000
    keep_latest: int = 2
    keep_best: int = 1


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    every: int = 2500
    rows: int = 256  # held-out rows at each evaluation in training; 0: all of them
    final_rows: int = 0  # the same at the end of training
    batch_size: int = 64
    samples: int = 8  # Monte-Carlo strata of the bound for each document
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Defaults of `sample`, and of the sample shown at each evaluation."""

    length: int = 128  # new tokens, or as many as the context has room for
    steps: int = 64
    temperature: float = 0.8
    guidance: float = 0.0
    prompt: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = "base"
    objective: ObjectiveConfig = ObjectiveConfig()
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    sampling: SamplingConfig = SamplingConfig()

    def __post_init__(self):
        _validate(self)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def default_config() -> ml_collections.ConfigDict:
    """Returns the default settings as a ConfigDict, for a recipe to change and return.

    It takes values of any type: `from_dict` checks them, and says which setting is wrong.
    """
    return ml_collections.ConfigDict(dataclasses.asdict(Config()), type_safe=False)


def load_config(recipe: str, overrides: dict[str, str] | None = None) -> Config:
    """Returns the Config of a recipe file, with `{"section.key": "text"}` overrides applied."""
    path = pathlib.Path(recipe)
    if not path.is_file():
        raise UserError(f"--config={recipe}: no such file; the recipes are configs/*.py")
    try:
        namespace = runpy.run_path(str(path))
        settings = namespace["get_config"]() if "get_config" in namespace else None
    except Exception as error:  # the recipe is the user's code
        raise UserError(f"--config={recipe}: {type(error).__name__}: {error}") from None
    if "get_config" not in namespace:
        raise UserError(f"--config={recipe}: a recipe needs a function get_config()")
    if not hasattr(settings, "to_dict") and not isinstance(settings, dict):
        raise UserError(f"--config={recipe}: get_config() should return a ConfigDict")
    settings = to_plain(settings)
    for key, text in (overrides or {}).items():
        *sections, leaf = key.split(".")
        hint = _hint_of(key)
        target = settings
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"config.{section} is a section; the recipe set it to {target!r}")
        target[leaf] = _parse(key, text, hint)
    return from_dict(settings)


def to_plain(settings) -> dict[str, Any]:
    """Returns a ConfigDict (or a dict, or a Config) as a nested dict."""
    if isinstance(settings, Config):
        return settings.to_dict()
    return settings.to_dict() if hasattr(settings, "to_dict") else dict(settings)


def from_dict(settings) -> Config:
    """Returns the Config of a ConfigDict or nested dict; keys left out keep their defaults."""
    if isinstance(settings, Config):
        return settings
    return _build(Config, to_plain(settings), prefix="")


def changed_settings(before: Config, now: Config) -> list[tuple[str, Any, Any]]:
    """Returns ("section.key", before, now) for every setting in which two configs differ."""
    before, now = before.to_dict(), now.to_dict()
    changed = []
    for key in leaf_types():
        section, _, leaf = key.rpartition(".")
        old, new = (c[section][leaf] if section else c[leaf] for c in (before, now))
        if old != new:
            changed.append((key, old, new))
    return changed


def leaf_types(cls=Config, prefix: str = "") -> dict[str, Any]:
    """Returns {"section.key": type} for every setting."""
    leaves = {}
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            leaves |= leaf_types(hint, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = hint
    return leaves


def settings_help() -> str:
    """Returns a line a setting: its key, default and choices."""
    lines, defaults = [], Config().to_dict()
    for key, hint in leaf_types().items():
        section, _, leaf = key.rpartition(".")
        value = defaults[section][leaf] if section else defaults[leaf]
        choices = f"  (of {_choices(hint)})" if typing.get_origin(hint) is Literal else ""
        lines.append(f"  {key}={value}{choices}")
    return "\n".join(lines)


def _hint_of(key: str):
    leaves = leaf_types()
    if key not in leaves:
        inside = [leaf for leaf in leaves if leaf.startswith(key + ".")]
        near = difflib.get_close_matches(key, leaves, n=1, cutoff=0.0)[0]
        if inside:
            raise UserError(f"config.{key} is a section, not a setting; it has {', '.join(inside)}")
        raise UserError(f"config.{key} is no setting; did you mean config.{near}?")
    return leaves[key]


def _build(cls, settings: dict[str, Any], prefix: str):
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in settings.items():
        key = prefix + name
        if name in hints and dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise UserError(
                    f"config.{key} is a section, not a setting; it was set to {value!r}"
                )
            values[name] = _build(hints[name], value, key + ".")
        else:
            hint = _hint_of(key)
            if name not in hints:
                raise UserError(f"config.{key} should be nested: {{section: {{key: value}}}}")
            values[name] = _check(key, value, hint)
    return cls(**values)


def _check(key: str, value, hint):
    """Returns `value` if it is of the type that the setting wants (an int passes for a float)."""
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise UserError(f"config.{key}={value!r} is not one of {_choices(hint)}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise UserError(f"config.{key}={value!r} should be {_a(hint)}")
    return value


def _parse(key: str, text: str, hint):
    """Returns the value that `text`, from the command line, stands for."""
    if hint is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise UserError(f"config.{key}={text} should be true or false")
        return words[text.lower()]
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise UserError(f"config.{key}={text} should be {_a(hint)}") from None
    return _check(key, text, hint)


def _choices(hint) -> str:
    return ", ".join(map(str, typing.get_args(hint)))


def _a(hint: type) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]


_AT_LEAST = types.MappingProxyType({
    2: "data.sequence_length",  # BOS and a token
    1: "model.width model.num_layers model.num_heads data.prefetch tokenizer.vocab_size "
    "training.steps training.batch_size training.accumulation_steps training.log_every "
    "training.max_skipped_steps training.head_chunk checkpoint.every checkpoint.keep_latest "
    "evaluation.every evaluation.batch_size evaluation.samples sampling.length sampling.steps "
    "mesh.data mesh.fsdp mesh.tensor",
    0: "model.num_kv_heads model.head_size model.feed_forward model.norm_epsilon "
    "optimizer.warmup_steps optimizer.weight_decay optimizer.clip_norm optimizer.epsilon "
    "optimizer.peak_learning_rate optimizer.muon_learning_rate optimizer.b1 optimizer.b2 "
    "optimizer.decay_fraction optimizer.final_fraction training.ema_decay training.seed "
    "checkpoint.keep_best evaluation.rows evaluation.final_rows evaluation.seed "
    "sampling.temperature sampling.guidance",
})  # fmt: skip
_ABOVE_0 = ("model.rope_theta", "objective.schedule_power", "data.heldout_fraction")
_BELOW = types.MappingProxyType({
    1: "optimizer.b1 optimizer.b2 training.ema_decay data.heldout_fraction",
    2**32: "training.seed evaluation.seed",  # jax.random.key takes more and drops the upper bits
})  # fmt: skip


def _validate(config: Config):
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
