"""The names of the classifiers in the registry, for those who must not import torch to know them."""

from __future__ import annotations

CLASSIFIERS = (
    "cnn",
    "cnn_wide",
    "mlp",
    "scatter_head",
    "prototype_head",
    "resnet18",
    "mobilenet_v3_small",
)
