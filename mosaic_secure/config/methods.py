"""What each baseline must have switched on and off; contradictions are refused before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mosaic_secure.config.layers import METHODS, ONE_ARCHITECTURE, PRESETS
from mosaic_secure.errors import UserError

if TYPE_CHECKING:
    from mosaic_secure.config.run import RunConfig

_SWITCHES = ("prototypes", "sampler", "classifier", "generator", "experts", "gate", "distill")
_ON = {"local": ("classifier",), "dense": ("classifier", "distill")}


def check_method(config: RunConfig) -> None:
    """Raise ``UserError`` where a field contradicts the method; the line names both.

    Mosaic takes part in other checks: here it only must not be asked to run with one client.
    """
    method = config.method
    if method != "central" and config.clients.count < 2:
        raise UserError(
            f"clients.count = {config.clients.count}: must be at least 2 (one client that holds all is "
            "method 'central')"
        )
    if method == METHODS[0]:
        return
    if config.preset != PRESETS[0]:
        raise UserError(f"preset = {config.preset!r} is of method 'mosaic', not of {method!r}: remove it")
    for name in _SWITCHES:
        wanted = name in _ON.get(method, ())
        if getattr(config, name).enabled != wanted:
            raise _contradiction(config, f"{name}.enabled", str(wanted).lower())
    if config.privacy.trust != "local":
        raise UserError(
            f"privacy.trust = 'distributed' shares the noise of encrypted sums, and method {method!r} has "
            "none: use 'local'"
        )
    if method in ONE_ARCHITECTURE:
        _check_averaged(config)
    else:
        if config.fine_tune.rounds:
            raise _contradiction(config, "fine_tune.rounds", "0")
        if config.classifier.rounds != 1:
            raise _contradiction(config, "classifier.rounds", "1")
    if method == "central":
        _check_central(config)


def _check_averaged(config: RunConfig) -> None:
    if not config.fine_tune.rounds:
        raise _contradiction(config, "fine_tune.rounds", "at least 1")
    if config.method != "fedprox" and config.fine_tune.proximal > 0:
        raise _contradiction(config, "fine_tune.proximal", "0, or use method 'fedprox'")
    chosen = config.global_model.architecture
    if other := set(config.clients.architectures) - {chosen}:
        raise UserError(
            f"clients.architectures has {sorted(other)[0]!r}, but in method {config.method!r} all train the "
            f"global model: set it to {chosen!r}, or global_model.architecture to the other"
        )


def _check_central(config: RunConfig) -> None:
    if config.clients.count != 1:
        raise _contradiction(config, "clients.count", "1")
    if not config.is_public:
        raise UserError(
            "method = 'central' pools the records of all clients, so it is for public data only: compare "
            "private data with method 'local'"
        )
    if config.data.clients_from != "partition":
        raise _contradiction(config, "data.clients_from", "'partition'")
    if config.data.declared_records is not None:
        raise _contradiction(config, "data.declared_records", "none")


def _contradiction(config: RunConfig, field: str, right: str) -> UserError:
    section, name = field.split(".")
    value = getattr(getattr(config, section), name)
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return UserError(f"{field} = {shown} contradicts method = {config.method!r}: must be {right}")
