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
]
