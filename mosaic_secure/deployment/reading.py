"""What the owner of a kit should read in its own rules before it joins, in plain words."""

from __future__ import annotations

import json
from collections.abc import Collection

from mosaic_secure.deployment.description import AUTHORITY
from mosaic_secure.deployment.kits import Kit
from privacy.policy import ClientPolicy

__all__ = ["rules_to_read"]

_MEANINGS = {
    "population": "whose records: the same for every version of your data that may hold the same people",
    "visibility": "'private', unless anybody may see statistics and pictures of your records",
    "max_epsilon_per_run": "the most that one run may cost a record; lower is more private",
    "max_epsilon_lifetime": "the most that all runs together may cost it; your ledger adds up",
    "max_delta_lifetime": "chance that this fails; far below one over the number of your records",
    "trust": "'local': your own noise suffices; 'distributed': you rely on others' noise too",
    "min_contributors": "fewest clients in a sum that you add to; more hides you better",
    "colluding_clients": "how many of the others may work against you, under 'distributed'",
    "pairwise_masks": "true: add to sums only under masks that server and authority together cannot lift",
    "allow_insecure_noise": "false, unless your records are public: noise from a seed protects nobody",
    "allowed_releases": "what you release; take out what you do not want to leave",
    "allowed_architectures": "models that you are ready to train",
    "allowed_datasets": "data sets that a run may name",
    "roster": "the other clients: compare the keys with what their owners tell you",
}


def rules_to_read(kit: Kit) -> list[tuple[str, str, str]]:
    """Field, value and meaning of each rule of a kit that its owner should look at."""
    if kit.party.role == AUTHORITY:
        terms = json.loads(kit.rules.read_bytes())
        return [
            (
                "min_contributors",
                str(terms["min_contributors"]),
                "fewest clients in any sum that you decrypt",
            ),
            ("roster", f"{len(terms['roster'])} clients", "whose contributions you add; nobody else's"),
        ]
    policy = ClientPolicy.load(kit.rules)
    return [
        (field, _shown(getattr(policy, field)), meaning)
        for field, meaning in _MEANINGS.items()
        if hasattr(policy, field)
    ]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Collection) and not isinstance(value, str):
        return f"{len(value)} of them"
    return str(value)
