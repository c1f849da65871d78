"""The settings of a run: frozen dataclasses with defaults, which a recipe changes.

A recipe in configs/ has a `get_config()` that returns an ml_collections ConfigDict, so that
`--config.section.key=value` works. `load_config` converts it to the frozen `Config`. A misspelt
key, a wrong type, a value out of range and sizes that do not fit raise a UserError of one line. The
rest of the program only reads `Config`. `SETTINGS` describes each setting.
"""

from dlms_jax.config.describe import settings_help
from dlms_jax.config.formats import FORMAT, NewerFormatError, upgrade, upgrade_run
from dlms_jax.config.options import add_option
from dlms_jax.config.recipes import (
    changed_settings,
    default_config,
    from_dict,
    load_config,
)
from dlms_jax.config.sections import (
    SETTINGS,
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
    "FORMAT",
    "SETTINGS",
    "BlockConfig",
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "GaussianConfig",
    "MeshConfig",
    "ModelConfig",
    "NewerFormatError",
    "ObjectiveConfig",
    "OptimizerConfig",
    "SamplingConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "Traits",
    "add_option",
    "changed_settings",
    "default_config",
    "from_dict",
    "load_config",
    "settings_help",
    "traits_of",
    "upgrade",
    "upgrade_run",
]
