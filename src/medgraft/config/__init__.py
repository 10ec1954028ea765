"""Typed configuration: what can be asked of a run."""

from medgraft.config.dump import dump_config
from medgraft.config.load import load_config
from medgraft.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    PhaseConfig,
    TrainingConfig,
)

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "ModelConfig",
    "PhaseConfig",
    "TrainingConfig",
    "dump_config",
    "load_config",
]
