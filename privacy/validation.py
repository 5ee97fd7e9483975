"""Which networks may be trained with per-record gradients, and how to mend the others.

A bound on the influence of one record needs a loss for one record. A layer that mixes the records of a batch
(batch normalisation in any form, running statistics) has none, so it is refused, and a replacement is
offered.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from privacy.errors import UnsafeModelError

__all__ = ["group_count", "make_safe", "probe", "validate"]

_MAX_GROUPS = 32
_CHANNELS_PER_GROUP = 4


def validate(module: nn.Module) -> None:
    """Refuse a network that has a layer which mixes records.

    Batch normalisation is refused even with frozen affine parameters or in evaluation mode: its buffers
    were, or will be, statistics of records that no mechanism has noised.

    Raises:
        UnsafeModelError: lists every such layer, each with its fix.
    """
    problems = []
    for name, layer in module.named_modules():
        where = f"{name or 'the model itself'} ({type(layer).__name__})"
        if isinstance(layer, _BatchNorm):
            problems.append(
                f"{where} normalises over the batch: use GroupNorm, for instance through "
                "privacy.validation.make_safe"
            )
        elif isinstance(layer, _InstanceNorm) and layer.track_running_stats:
            problems.append(
                f"{where} keeps running statistics of records: set track_running_stats=False, "
                "for instance through privacy.validation.make_safe"
            )
    if problems:
        raise UnsafeModelError(problems)


def probe(forward: Callable[..., Tensor], inputs: Sequence[Tensor], tolerance: float = 1e-4) -> None:
    """Change one record of a batch and check that the outputs of all others stay.

    This finds what :func:`validate` cannot see, such as a mean over the batch inside a ``forward``. It is a
    test on the given inputs, not a proof.

    Args:
        forward: maps the inputs to outputs whose first dimension is the batch.
        inputs: tensors whose first dimension is the batch, at least two records; not private ones, because
            the error names an amount. At least one of them is floating-point.
        tolerance: largest change, relative to the largest output, that counts as rounding.

    Raises:
        UnsafeModelError: an output depends on another record, or the batch dimension is lost.
    """
    size = len(inputs[0])
    with torch.no_grad():
        before = forward(*inputs)
        if before.dim() == 0 or len(before) != size:
            raise UnsafeModelError("the output has no row for each record: return one row a record")
        changed = [tensor.clone() for tensor in inputs]
        for tensor in changed:
            if tensor.is_floating_point():
                tensor[0] = 1.0 - 3.0 * tensor[0]
        after = forward(*changed)
    drift = (after[1:] - before[1:]).abs().max().item()
    if not drift <= tolerance * max(1.0, before.abs().max().item()):
        raise UnsafeModelError(
            f"outputs move by {drift:.3g} when another record of the batch changes: "
            "replace sums, means and statistics over the batch by per-record ones"
        )


def make_safe(module: nn.Module) -> nn.Module:
    """Return a copy without layers that mix records, ready for per-record gradients.

    Batch normalisation becomes group normalisation with the same affine parameters, instance normalisation
    loses its running statistics, and in-place activations become out-of-place ones. The given module is left
    as it is.
    """
    safe = copy.deepcopy(module)
    if _is_replaced(safe):
        safe = _replacement(safe)
    for parent in list(safe.modules()):
        for name, child in list(parent.named_children()):
            if _is_replaced(child):
                setattr(parent, name, _replacement(child))
    for layer in safe.modules():
        if getattr(layer, "inplace", False) is True:
            layer.inplace = False
    return safe


def group_count(channels: int) -> int:
    """Return the largest divisor of ``channels`` up to 32 that leaves 4 channels a group (at least 1)."""
    limit = max(1, min(_MAX_GROUPS, channels // _CHANNELS_PER_GROUP))
    return max(count for count in range(1, limit + 1) if channels % count == 0)


def _is_replaced(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) or (isinstance(layer, _InstanceNorm) and layer.track_running_stats)


def _replacement(layer: nn.Module) -> nn.Module:
    channels = layer.num_features
    if isinstance(layer, _BatchNorm):
        fresh: nn.Module = nn.GroupNorm(group_count(channels), channels, eps=layer.eps, affine=layer.affine)
    else:
        fresh = type(layer)(channels, eps=layer.eps, affine=layer.affine, track_running_stats=False)
    if layer.affine:
        with torch.no_grad():
            fresh.weight.copy_(layer.weight)
            fresh.bias.copy_(layer.bias)
        fresh.requires_grad_(layer.weight.requires_grad)
        fresh.to(layer.weight.device, layer.weight.dtype)
    return fresh.train(layer.training)
