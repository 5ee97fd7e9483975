"""Seeds for everything that may be reproducible. Privacy noise never comes from here."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["derive_seed", "torch_generator"]


def derive_seed(seed: int, *labels: object) -> int:
    """A 63-bit seed for the purpose named by `labels`, independent of every other purpose's."""
    text = "\x1f".join([str(int(seed)), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *labels: object) -> torch.Generator:
    """A CPU torch generator for the purpose named by `labels`."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *labels))
