"""Every setting of a run: frozen dataclasses with defaults, read once from a recipe.

A recipe in configs/ has a `get_config()` that returns an ml_collections ConfigDict, so that
`--config.section.key=value` works. `load_config` turns it into the frozen `Config`, where a
misspelt key, a wrong type or sizes that do not fit are one line each. The rest of the program only
ever sees `Config`.
"""

from dlms_jax.config.recipes import (
    changed_settings,
    default_config,
    from_dict,
    leaf_types,
    load_config,
    settings_help,
    to_plain,
)
from dlms_jax.config.sections import (
    BlockConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    GaussianConfig,
    MeshConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    SamplingConfig,
    TokenizerConfig,
    TrainingConfig,
)
from dlms_jax.config.traits import Traits, traits_of

__all__ = [
    "BlockConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "GaussianConfig",
    "MeshConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "SamplingConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "Traits",
    "changed_settings",
    "default_config",
    "from_dict",
    "leaf_types",
    "load_config",
    "settings_help",
    "to_plain",
    "traits_of",
]
