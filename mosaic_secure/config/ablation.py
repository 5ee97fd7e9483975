"""The same run without one of its parts, to measure what that part is worth."""

from __future__ import annotations

from typing import Any

from mosaic_secure.config.checks import enabled_parts
from mosaic_secure.config.run import RunConfig
from mosaic_secure.errors import UserError

_WITHOUT: dict[str, dict[str, dict[str, Any]]] = {
    "prototype expert": {"experts": {"prototype_expert": False}},
    "class experts": {"experts": {"class_experts": False}},
    "prototypes": {"prototypes": {"enabled": False}, "experts": {"prototype_expert": False}},
    "second moments": {"prototypes": {"second_moments": False}},
    "generators": {"generator": {"enabled": False}},
    "gate": {"gate": {"enabled": False}},
    "distillation": {"distill": {"enabled": False}},
    "fine-tuning": {"fine_tune": {"rounds": 0}},
}


def ablations(config: RunConfig) -> dict[str, RunConfig]:
    """Every part that is on in ``config`` and can be left out, with the run that lacks it."""
    found = {}
    for part in _WITHOUT:
        try:
            changed = without(config, part)
        except UserError:
            continue
        if changed != config:
            found[part] = changed
    return found


def without(config: RunConfig, part: str) -> RunConfig:
    """The run without ``part``; the budget of a release that falls away goes to the others in proportion.

    Raises:
        UserError: no such part, or the rest cannot run without it.
    """
    if part not in _WITHOUT:
        raise UserError(f"part {part!r}: unknown; choose one of {', '.join(_WITHOUT)}")
    values = config.to_dict()
    for section, fields in _WITHOUT[part].items():
        values[section].update(fields)
    changed = config.model_copy(
        update={
            section: getattr(config, section).model_copy(update=fields)
            for section, fields in _WITHOUT[part].items()
        }
    )
    shares = values["privacy"]["shares"]
    kept = {name: share for name, share in shares.items() if enabled_parts(changed)[name]}
    total = sum(kept.values())
    if total > 0:
        values["privacy"]["shares"] = {name: kept.get(name, 0.0) / total for name in shares}
    return RunConfig.from_dict(values)
