"""The configuration of a run: one frozen object, read from TOML, checked, and hashed."""

from __future__ import annotations

from mosaic_secure.config.checks import enabled_parts
from mosaic_secure.config.federation import ClientsConfig, DataConfig, PartitionConfig
from mosaic_secure.config.loading import config_folder, config_hash, config_names, load_config
from mosaic_secure.config.privacy import PrivacyConfig, SharesConfig
from mosaic_secure.config.run import RunConfig
from mosaic_secure.config.stages import (
    BlockWeights,
    ClassifierConfig,
    DenseConfig,
    DistillConfig,
    EngineConfig,
    ExpertsConfig,
    FineTuneConfig,
    GateConfig,
    GeneratorConfig,
    GlobalModelConfig,
    PrototypesConfig,
    SamplerConfig,
)

__all__ = [
    "BlockWeights",
    "ClassifierConfig",
    "ClientsConfig",
    "DataConfig",
    "DenseConfig",
    "DistillConfig",
    "EngineConfig",
    "ExpertsConfig",
    "FineTuneConfig",
    "GateConfig",
    "GeneratorConfig",
    "GlobalModelConfig",
    "PartitionConfig",
    "PrivacyConfig",
    "PrototypesConfig",
    "RunConfig",
    "SamplerConfig",
    "SharesConfig",
    "config_folder",
    "config_hash",
    "config_names",
    "enabled_parts",
    "load_config",
]
