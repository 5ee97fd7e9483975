"""The one frozen configuration that a run depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from mosaic_secure.config.base import Section
from mosaic_secure.config.checks import check
from mosaic_secure.config.federation import ClientsConfig, DataConfig, PartitionConfig
from mosaic_secure.config.privacy import PrivacyConfig
from mosaic_secure.config.problems import explain
from mosaic_secure.config.stages import (
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
from mosaic_secure.errors import UserError
from privacy.secagg.quorum import fewest_contributors, honest_in_a_sum

PRIVATE_EPSILON_PER_RUN = 8.0
PRIVATE_EPSILON_LIFETIME = 10.0
PRIVATE_DELTA_LIFETIME = 1e-4
"""Caps of a private population that sets none of its own."""


class RunConfig(Section):
    """Everything that a run depends on. Frozen; build it with ``load_config`` or ``RunConfig.from_dict``.

    ``method`` and ``preset`` were laid over the file by ``load_config``; here they only say what was chosen.
    """

    schema_version: Literal[1] = 1
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    method: Literal["mosaic", "fedavg", "fedprox", "local", "dense", "central"] = "mosaic"
    preset: Literal["accuracy", "synthetic"] = "accuracy"
    data: DataConfig = DataConfig()
    clients: ClientsConfig = ClientsConfig()
    partition: PartitionConfig = PartitionConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    prototypes: PrototypesConfig = PrototypesConfig()
    sampler: SamplerConfig = SamplerConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    generator: GeneratorConfig = GeneratorConfig()
    experts: ExpertsConfig = ExpertsConfig()
    gate: GateConfig = GateConfig()
    distill: DistillConfig = DistillConfig()
    fine_tune: FineTuneConfig = FineTuneConfig()
    dense: DenseConfig = DenseConfig()
    global_model: GlobalModelConfig = GlobalModelConfig()
    engine: EngineConfig = EngineConfig()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """Build and check a configuration from nested plain values.

        Raises:
            UserError: an unknown key, an impossible value or a contradiction; the line names the field.
        """
        try:
            config = cls.model_validate(dict(values))
        except ValidationError as error:
            raise UserError(explain(error, cls)) from None
        check(config)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values that JSON can hold; an infinite epsilon is the string ``"inf"``."""
        return self.model_dump(mode="json")

    @property
    def client_ids(self) -> tuple[str, ...]:
        """``client-0`` and on, in order."""
        return tuple(f"client-{index}" for index in range(self.clients.count))

    @property
    def places(self) -> dict[str, int]:
        """Client ids and their positions."""
        return {client: index for index, client in enumerate(self.client_ids)}

    def architecture_of(self, index: int) -> str:
        """Name of the classifier that client ``index`` trains."""
        names = self.clients.architectures
        return names[index % len(names)]

    @property
    def architecture_groups(self) -> dict[str, tuple[int, ...]]:
        """Client indices by architecture, in order of first appearance."""
        groups: dict[str, tuple[int, ...]] = {}
        for index in range(self.clients.count):
            name = self.architecture_of(index)
            groups[name] = (*groups.get(name, ()), index)
        return groups

    @property
    def is_public(self) -> bool:
        """Whether the training records are public."""
        return self.data.is_public

    @property
    def no_noise(self) -> bool:
        """Whether epsilon is infinite, so that nothing is protected."""
        return math.isinf(self.privacy.epsilon)

    @property
    def partition_seed(self) -> int:
        """Seed of the partition: its own, or that of the run."""
        return self.seed if self.partition.seed is None else self.partition.seed

    @property
    def honest_clients(self) -> int:
        """h: clients whose noise counts in a sum, the protected one included; 1 under local trust."""
        if self.privacy.trust == "local":
            return 1
        if self.privacy.honest_clients is not None:
            return self.privacy.honest_clients
        return self.clients.count - self.privacy.colluding_clients - self.privacy.allowed_dropouts

    @property
    def min_contributors(self) -> int:
        """Fewest contributions that the key authority adds and decrypts, and that clients help to unmask."""
        if self.privacy.min_contributors is not None:
            return self.privacy.min_contributors
        if self.privacy.trust == "distributed":
            return self.clients.count - self.privacy.allowed_dropouts
        if self.privacy.pairwise_masks:
            fewest = fewest_contributors(self.clients.count, self.privacy.colluding_clients)
            return self.clients.count if fewest is None else fewest
        return min(max(2, self.clients.count // 2 + 1), self.clients.count)

    @property
    def has_encrypted_sums(self) -> bool:
        """Whether clients contribute to sums under encryption."""
        return self.method == "mosaic" and (self.prototypes.enabled or self.sampler.enabled)

    @property
    def honest_in_a_sum(self) -> int:
        """Fewest honest clients in a sum that server, authority and colluders open under pairwise masks."""
        return honest_in_a_sum(self.clients.count, self.privacy.colluding_clients, self.min_contributors)

    @property
    def max_epsilon_per_run(self) -> float:
        """Cap of one run for policies that this run creates."""
        return self._cap(self.privacy.max_epsilon_per_run, PRIVATE_EPSILON_PER_RUN)

    @property
    def max_epsilon_lifetime(self) -> float:
        """Lifetime cap for policies that this run creates; infinite for public data unless set."""
        return self._cap(self.privacy.max_epsilon_lifetime, PRIVATE_EPSILON_LIFETIME)

    @property
    def max_delta_lifetime(self) -> float:
        """Lifetime cap of delta for policies that this run creates; 1 for public data unless set."""
        return min(1.0, self._cap(self.privacy.max_delta_lifetime, PRIVATE_DELTA_LIFETIME))

    def _cap(self, given: float | None, private: float) -> float:
        if given is not None:
            return given
        return math.inf if self.is_public else private
