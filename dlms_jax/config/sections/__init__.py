"""The sections of a config: all settings with default, meaning and range."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from dlms_jax.config.checks import check
from dlms_jax.config.sections.data import DataConfig, TokenizerConfig
from dlms_jax.config.sections.model import ModelConfig
from dlms_jax.config.sections.objective import BlockConfig, GaussianConfig, ObjectiveConfig
from dlms_jax.config.sections.sampling import EvaluationConfig, SamplingConfig
from dlms_jax.config.sections.training import (
    CheckpointConfig,
    MeshConfig,
    OptimizerConfig,
    TrainingConfig,
)
from dlms_jax.config.setting import Setting, setting, settings_in

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
    "SETTINGS",
    "SamplingConfig",
    "TokenizerConfig",
    "TrainingConfig",
]


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run."""

    name: str = setting(
        "base", "Name of the run. Its default workdir is runs/NAME.", changeable=True
    )
    objective: ObjectiveConfig = ObjectiveConfig()
    gaussian: GaussianConfig = GaussianConfig()
    block: BlockConfig = BlockConfig()
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
        for key, one in SETTINGS.items():
            one.check_range(self.value(key))
        check(self)

    def value(self, key: str) -> Any:
        """Returns the value of the setting "section.name"."""
        section, _, name = key.rpartition(".")
        return getattr(getattr(self, section) if section else self, name)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as a nested dict."""
        return dataclasses.asdict(self)


SETTINGS: Mapping[str, Setting] = settings_in(Config)
