"""Names and limits of the networks, for those who must not import torch to know them."""

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

WAVELET_SIZE = 16  # pixels a side of the smallest images for the encoder "wavelets": coarse waves need room
WAVELET_DIM = 1024  # its most directions: more would need more procedural images than one would wait for
