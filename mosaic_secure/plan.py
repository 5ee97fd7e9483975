"""The plan of a run: every mechanism that touches a record, fixed before any record is read.

The plan follows from the configuration and the calibrated budget alone. Server and clients derive it
separately from the same two documents, so neither can be led to a mechanism that was not accounted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mosaic_secure.config import RunConfig, config_hash
from mosaic_secure.errors import UserError
from mosaic_secure.masking import choose_encryption, fit_mechanism, mask_exchanges
from mosaic_secure.models.names import WAVELET_SIZE
from mosaic_secure.release_requests import are_requested, release_requests
from privacy.budget import BudgetPlan, PlannedRelease, plan_budget
from privacy.canonical import canonical_json
from privacy.mechanisms import Statistic, SumMechanism
from privacy.secagg.parameters import CkksParameters

if TYPE_CHECKING:
    from mosaic_secure.data.records import DataInfo
    from privacy.dpsgd import DPSGDPlan

__all__ = ["EncryptedRound", "RunPlan", "build_plan"]

_NOMINAL_RECORDS = {
    "digits": 1_437,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "cifar10": 50_000,
    "cifar10_subset": 15_000,
    "pneumonia": 4_708,
}
PROTOTYPE_ROUNDS = ("centre", "moments", "gradient")
IMAGE_ROUNDS = ("image_centre", "image_means", "image_moments", "image_class_moments")
ENCRYPTED = (*PROTOTYPE_ROUNDS, *IMAGE_ROUNDS)


@dataclass(frozen=True)
class EncryptedRound:
    """One encrypted sum: its id on the wire ("gradient-3"), release, round, and mechanism."""

    round_id: str
    release: str
    round: int
    mechanism: SumMechanism

    @property
    def length(self) -> int:
        """Integers in each contribution."""
        return self.mechanism.length


@dataclass(frozen=True)
class RunPlan:
    """Configuration, budget and what follows from them. Build it with `build_plan` or `RunPlan.derive`."""

    config: RunConfig
    budget: BudgetPlan
    info: DataInfo

    @classmethod
    def derive(cls, config: RunConfig, budget: BudgetPlan, data_root: str | None = None) -> RunPlan:
        """The plan of a given budget.

        Raises:
            UserError: the budget does not belong to this configuration, or the encoder takes no such images.
        """
        from mosaic_secure.data import data_info

        if budget.target_epsilon != config.privacy.epsilon or budget.delta != config.privacy.delta:
            raise UserError("plan: its epsilon or delta is not the configuration's")
        if not are_requested(budget.releases, config):
            raise UserError("plan: its releases are not the configuration's")
        info, prototypes = data_info(config.data, data_root), config.prototypes
        size = min(info.image_shape[-1], prototypes.feature_size or info.image_shape[-1])
        if prototypes.enabled and prototypes.encoder == "wavelets" and size < WAVELET_SIZE:
            raise UserError(
                f"prototypes.encoder = 'wavelets': takes images of {WAVELET_SIZE}x{WAVELET_SIZE} pixels or "
                f"more, not {size}x{size}; use 'scattering' or 'fourier'"
            )
        return cls(config, budget, info)

    @property
    def config_hash(self) -> str:
        """Hash of everything the run depends on."""
        return config_hash(self.config)

    @property
    def agreement(self) -> str:
        """Hash (SHA-256, hex) of configuration and budget: what all who take part must have agreed to."""
        agreed = {"config": self.config_hash, "plan": self.budget.to_dict()}
        return hashlib.sha256(canonical_json(agreed)).hexdigest()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.info.image_shape

    @property
    def num_classes(self) -> int:
        """Number of class slots, all of which are always sent."""
        return self.info.num_classes

    @cached_property
    def ckks(self) -> CkksParameters:
        """Encryption parameters of the run."""
        return choose_encryption(self)

    @cached_property
    def code_dim(self) -> int:
        """Length of a code: features and pooled pixels."""
        prototypes, (channels, size, _) = self.config.prototypes, self.image_shape
        if prototypes.encoder == "pixels":
            return channels * min(prototypes.image_size, size) ** 2
        pixels = channels * min(prototypes.image_size, size) ** 2 if prototypes.pixel_weight > 0 else 0
        return self._feature_dim + pixels

    @property
    def _feature_dim(self) -> int:
        prototypes, (channels, size, _) = self.config.prototypes, self.image_shape
        if prototypes.encoder != "scattering":
            return prototypes.dim
        size = min(prototypes.feature_size or size, size)
        scales = 2 if size >= 16 else 1
        full = channels * (81 if scales == 2 else 9) * (size // 2**scales) ** 2
        return min(prototypes.dim, full)

    @cached_property
    def total_records(self) -> int:
        """Declared records of all clients together; bounds the encrypted sums and nothing else."""
        declared, count = self.config.data.declared_records, self.config.clients.count
        if isinstance(declared, dict):
            return sum(declared.values())
        if declared is not None:
            return declared * count
        nominal = _NOMINAL_RECORDS.get(self.config.data.dataset, 200_000)
        limit = self.config.data.limit
        return nominal if limit is None else min(nominal, limit)

    @cached_property
    def declared(self) -> tuple[int, ...]:
        """Records that each client is taken to hold, in order: declared ones, or of public data those dealt
        to it."""
        from mosaic_secure.data import declared_records

        return declared_records(self.config, self.config.data.root)

    def release(self, name: str) -> PlannedRelease | None:
        """A planned release by name, or None when the run does not make it."""
        return next((r for r in self.budget.releases if r.name == name), None)

    @cached_property
    def counts(self) -> SumMechanism | None:
        """The noised class counts that each client sends in the clear, under its own noise."""
        planned = self.release("counts")
        if planned is None:
            return None
        statistics = (Statistic("counts"),)
        return SumMechanism(statistics, 1, self.num_classes, planned.noise_multiplier, grid=2.0**16)

    @cached_property
    def mechanisms(self) -> dict[str, SumMechanism]:
        """What is released in encrypted rounds, by release, on no grid as yet."""
        return {
            name: SumMechanism(
                self._statistics(name),
                self._dim(name),
                self.num_classes,
                planned.noise_multiplier,
                honest=self.config.honest_clients,
            )
            for name in ENCRYPTED
            if (planned := self.release(name)) is not None
        }

    @cached_property
    def rounds(self) -> tuple[EncryptedRound, ...]:
        """The encrypted rounds in order."""
        out = []
        for name, mechanism in self.mechanisms.items():
            fitted = fit_mechanism(self, mechanism)
            out += [
                EncryptedRound(f"{name}-{k}", name, k, fitted)
                for k in range(self.budget.release(name).rounds)
            ]
        return tuple(out)

    @property
    def is_masked(self) -> bool:
        """Whether contributions to encrypted sums are under masks that clients agree on."""
        return self.config.privacy.pairwise_masks

    @property
    def round_lengths(self) -> dict[str, int]:
        """Integers in each contribution, by round id."""
        return {item.round_id: item.length for item in self.rounds}

    @cached_property
    def sampler_side(self) -> int:
        """Side of the pooled images of the sampler."""
        return min(self.config.sampler.image_size, self.image_shape[-1])

    @cached_property
    def sampler_dim(self) -> int:
        """P: pooled pixels of one image of the sampler."""
        return self.image_shape[0] * self.sampler_side**2

    @cached_property
    def sampler_rank(self) -> int:
        """Directions along which second moments of each class are released."""
        return min(self.config.sampler.rank, self.sampler_dim)

    def image_clip(self, name: str) -> float:
        """L2 norm to which one image is clipped in a round of the sampler."""
        sampler = self.config.sampler
        per_pixel = {"image_centre": sampler.centre_clip, "image_means": sampler.means_clip}
        return per_pixel.get(name, sampler.moments_clip) * math.sqrt(self.sampler_dim)

    def _dim(self, name: str) -> int:
        if name in PROTOTYPE_ROUNDS:
            return self.code_dim
        return self.sampler_rank if name == "image_class_moments" else self.sampler_dim

    def _statistics(self, name: str) -> tuple[Statistic, ...]:
        if name == "image_means":
            return (Statistic("class_sums"), Statistic("counts", self.config.sampler.count_weight))
        if name == "image_moments":
            return (Statistic("second_moments"),)
        if name == "image_class_moments":
            return (Statistic("class_second_moments"),)
        if name in ("centre", "image_centre"):
            return (Statistic("code_sum"),)
        if name == "gradient":
            return (Statistic("gradient", clip=self.config.prototypes.gradient_clip),)
        weights = self.config.prototypes.weights
        blocks = [Statistic("counts", weights.counts), Statistic("class_sums", weights.class_sums)]
        if self.config.prototypes.second_moments:
            blocks.append(Statistic("second_moments", weights.second_moments))
        return tuple(blocks)

    def round(self, round_id: str) -> EncryptedRound:
        """An encrypted round by its id; raises UserError for one that is not in the plan."""
        for item in self.rounds:
            if item.round_id == round_id:
                return item
        raise UserError(f"round {round_id!r} is not in the plan")

    def dpsgd(self, name: str, declared_records: int, architecture: str | None = None) -> DPSGDPlan:
        """DP-SGD of one round of `name` ("classifier", "generator" or "fine_tune") at a client.

        The normaliser is sample rate times *declared* records: a constant, whatever the client really holds.

        Args:
            architecture: of the client's classifier, which may have a learning rate of its own.
        """
        from privacy.dpsgd import DPSGDPlan

        part: Any = getattr(self.config, name)
        planned = self.budget.release(name)
        discriminator = name == "generator"
        rate = part.discriminator_learning_rate if discriminator else part.learning_rate
        if name == "classifier":
            rate = part.learning_rates.get(architecture, rate)
        return DPSGDPlan(
            noise_multiplier=planned.noise_multiplier,
            sample_rate=planned.sample_rate,
            steps=planned.steps_per_round,
            max_grad_norm=part.max_grad_norm,
            expected_batch_size=planned.sample_rate * declared_records,
            learning_rate=rate,
            optimizer=part.optimizer,
            momentum=part.momentum,
            chunk_size=part.chunk_size,
            ema_decay=0.0 if discriminator else getattr(part, "ema_decay", 0.0),
        )

    def encoder(self) -> Any:
        """The public encoder of the prototypes (a torch module)."""
        from mosaic_secure.models.encoders import build_encoder
        from mosaic_secure.seeds import derive_seed

        prototypes = self.config.prototypes
        return build_encoder(
            prototypes.encoder,
            self.image_shape,
            seed=derive_seed(self.config.seed, "encoder"),
            dim=prototypes.dim,
            pixel_side=prototypes.image_size,
            pixel_weight=prototypes.pixel_weight,
            feature_side=prototypes.feature_size,
        )

    def pixel_encoder(self) -> Any:
        """The encoder whose `pool` describes images where generators are told moments of pooled pixels.

        The sampler's where there is one, or that of the prototypes; `pixel_dim` is 0 without either.
        """
        from mosaic_secure.models.encoders import build_encoder

        if not self.config.sampler.enabled:
            return self.encoder()
        return build_encoder("pixels", self.image_shape, seed=0, pixel_side=self.sampler_side)

    def describe(self) -> list[dict[str, Any]]:
        """One row a release: name, kind, share of mu^2, noise multiplier, sample rate, steps or rounds."""
        return [
            {
                "release": r.name,
                "mechanism": "Gaussian" if r.kind == "gaussian" else "DP-SGD",
                "share": r.share,
                "noise_multiplier": r.noise_multiplier,
                "sample_rate": r.sample_rate,
                "steps": r.steps,
                "rounds": r.rounds,
            }
            for r in self.budget.releases
        ]

    def cost(self) -> Mapping[str, Any]:
        """What the run moves: encrypted rounds, ciphertexts and bytes that each client sends.

        ``upload_bytes_per_client`` is of the ciphertexts, ``model_bytes_per_client`` of the trained weights
        that the client with the largest networks sends over the whole run.
        """
        from mosaic_secure.models.sizes import model_bytes

        classifier = self.config.classifier
        training = self.config.fine_tune.rounds + (classifier.rounds if classifier.enabled else 0)
        ciphertexts = sum(self.ckks.ciphertexts_for(r.length) for r in self.rounds)
        return {
            "encrypted_rounds": len(self.rounds),
            "ciphertexts_per_client": ciphertexts,
            "upload_bytes_per_client": ciphertexts * self.ckks.ciphertext_bytes,
            "model_bytes_per_client": model_bytes(self),
            "exchanges_per_client": len(self.rounds) + 2 + training + mask_exchanges(self),
        }


def build_plan(config: RunConfig, data_root: str | None = None) -> RunPlan:
    """Calibrate the budget of a configuration and derive its plan, without touching any record.

    Raises:
        UserError, PrivacyError: the plan is impossible (shares, delta, a sum that cannot be encrypted).
    """
    budget = plan_budget(config.privacy.epsilon, config.privacy.delta, release_requests(config))
    plan = RunPlan.derive(config, budget, data_root)
    for wanted in plan.rounds:  # grids are looked for here, so that a sum that does not fit is refused now
        wanted.mechanism.check_noise()
    return plan
