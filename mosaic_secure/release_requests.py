"""What a configuration asks every client to release, before any noise is decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from privacy.budget import PlannedRelease, ReleaseRequest

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig

__all__ = ["are_requested", "release_requests"]


def release_requests(config: RunConfig) -> tuple[ReleaseRequest, ...]:
    """What each client is asked for, with its share of mu^2."""
    shares, prototypes = config.privacy.shares, config.prototypes
    requests = []
    if shares.counts > 0:
        requests.append(ReleaseRequest("counts", shares.counts, "gaussian"))
    if prototypes.enabled and shares.prototypes > 0:
        if prototypes.centre_share > 0:
            requests.append(ReleaseRequest("centre", shares.prototypes * prototypes.centre_share, "gaussian"))
        rest = 1.0 - prototypes.centre_share - prototypes.gradient_share
        requests.append(ReleaseRequest("moments", shares.prototypes * rest, "gaussian"))
        if prototypes.rounds:
            share = shares.prototypes * prototypes.gradient_share
            requests.append(ReleaseRequest("gradient", share, "gaussian", rounds=prototypes.rounds))
    if config.sampler.enabled:
        sampler = config.sampler
        parts = {
            "image_centre": sampler.centre_share,
            "image_means": sampler.means_share,
            "image_moments": sampler.moments_share,
        }
        parts["image_class_moments"] = 1.0 - sum(parts.values())
        requests += [ReleaseRequest(name, shares.sampler * part, "gaussian") for name, part in parts.items()]
    for name, part in (("classifier", config.classifier), ("generator", config.generator)):
        if part.enabled:
            requests.append(
                ReleaseRequest(
                    name,
                    getattr(shares, name),
                    "dpsgd",
                    rounds=getattr(part, "rounds", 1),
                    sample_rate=part.sample_rate,
                    steps=part.steps,
                )
            )
    if config.fine_tune.rounds:
        part = config.fine_tune
        requests.append(
            ReleaseRequest(
                "fine_tune",
                shares.fine_tune,
                "dpsgd",
                rounds=part.rounds,
                sample_rate=part.sample_rate,
                steps=part.steps * part.rounds,
            )
        )
    return tuple(requests)


def are_requested(releases: Sequence[PlannedRelease], config: RunConfig) -> bool:
    """Whether planned releases are just those that a configuration asks for, whatever their noise."""
    return [_asked(r) for r in releases] == [_asked(r) for r in release_requests(config)]


def _asked(release: ReleaseRequest | PlannedRelease) -> tuple[object, ...]:
    """Everything about a release but its noise."""
    return release.name, release.share, release.kind, release.rounds, release.sample_rate, release.steps
