"""Seeded construction of networks that leaves the process-wide random state as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Run a block with torch's CPU generator seeded, and restore the generator afterwards.

    Only the CPU generator is touched (``torch.manual_seed`` would also reseed the accelerators), and
    parameters are created on the CPU whatever the default device is.

    Args:
        seed: any integer; taken modulo 2**63.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.random.default_generator.manual_seed(int(seed) % 2**63)
        yield


def build_seeded(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return ``factory()`` built inside :func:`seeded_initialisation`."""
    with seeded_initialisation(seed):
        return factory()
