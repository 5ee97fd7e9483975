"""Published accuracies that a curve may stand beside, each with its source and what is different in it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Published", "published"]


@dataclass(frozen=True)
class Published:
    """One published number. None of them was measured in the setting of a run here.

    Attributes:
        accuracy: on the data set's own test part, in [0, 1]. source: where it was read.
        setting: in which way its setting is another one.
    """

    name: str
    dataset: str
    epsilon: float
    accuracy: float
    source: str
    setting: str


_POOLED = "all training records in one place, one trusted trainer, delta 1e-5"
_TRAMER = "Tramèr and Boneh, Differentially private learning needs better features, arXiv 2011.11660"
_FEDDIFF = "FedDiff, arXiv 2405.01494"
_KNOWN = (
    Published("DP-SGD, network", "mnist", 3.0, 0.981, _TRAMER, _POOLED),
    Published("DP-SGD, linear on scattering", "mnist", 3.0, 0.987, _TRAMER, _POOLED),
    Published("DP-SGD, network", "fashion_mnist", 3.0, 0.860, _TRAMER, _POOLED),
    Published("DP-SGD, linear on scattering", "fashion_mnist", 3.0, 0.897, _TRAMER, _POOLED),
    Published(
        "one-shot DP diffusion models",
        "fashion_mnist",
        1.0,
        0.655,
        _FEDDIFF,
        "10 clients that each send a diffusion model once, on a partition of its own",
    ),
)


def published(dataset: str) -> tuple[Published, ...]:
    """What is known of a data set; empty where nothing is."""
    return tuple(one for one in _KNOWN if one.dataset == dataset)
