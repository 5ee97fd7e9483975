"""The membership attacks of an audit, in the groups and the order in which its page shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ILLUSTRATIONS", "AttackGroup", "attack_groups", "claim_was_tested", "drawn"]

ILLUSTRATIONS = ("nearness", "nearest-neighbour ratio")
"""What is often shown in place of an attack. Passing it proves nothing, so it enters no headline."""
MOST_DRAWN = 4

Attacks = Mapping[str, Any]


@dataclass(frozen=True)
class AttackGroup:
    """Attacks on one thing.

    Attributes:
        title: what was attacked. short: the same, for a legend. says: a sentence for below the title, or "".
        attacks: name -> summary, as it stands in audit.json.
    """

    title: str
    short: str
    says: str
    attacks: Attacks


def attack_groups(audit: Mapping[str, Any]) -> list[AttackGroup]:
    """Groups in order; one without attacks stands for what the run does not release.

    Args:
        audit: what audit.json holds.
    """
    shadows = audit["pipelines"]
    model, synthetic, said = dict(audit["membership"]), dict(audit["synthetic"]), ""
    if shadows is not None:
        said = (
            f"{shadows['pipelines']} whole federations like this one were trained, each with a random half "
            f"of {2 * shadows['judged']} judged records, to learn what a record's presence changes."
        )
        model |= {f"{name} (shadow federations)": found for name, found in shadows["membership"].items()}
        synthetic |= shadows["synthetic"]
    groups = [
        AttackGroup("The global model", "model", said, model),
        AttackGroup("The synthetic records", "synthetic", "", synthetic),
    ]
    if audit["classifiers"]:
        strongest = {}
        for client, found in audit["classifiers"].items():
            name = max(found["attacks"], key=lambda attack: found["attacks"][attack]["area"])
            strongest[f"{client} ({found['architecture']}): {name}"] = found["attacks"][name]
        first = next(iter(audit["classifiers"].values()))
        groups.append(
            AttackGroup(
                "The clients' classifiers",
                "classifier",
                f"Of each client the attack with the largest area of {len(first['attacks'])}, which is above "
                "one half by chance alone; all of them stand in audit.json. Each classifier was held against "
                f"{first['models']} shadow models, trained as it was on random halves of its records and as "
                "many others.",
                strongest,
            )
        )
    return groups


def claim_was_tested(audit: Mapping[str, Any]) -> bool:
    """Whether canaries could have refuted the claim itself."""
    claim = audit["epsilon_claimed"]
    of_claim = (t for t in audit["canaries"] if t["epsilon"] is not None and t["epsilon"] >= claim)
    return any(test["counts"] for test in of_claim)


def drawn(groups: list[AttackGroup]) -> dict[str, Any]:
    """A few attacks for the picture: of each group the first one, then those of the largest area."""
    attacks = {
        f"{group.short}: {name}": found
        for group in groups
        for name, found in group.attacks.items()
        if name not in ILLUSTRATIONS
    }
    firsts = [
        next((name for name in attacks if name.startswith(f"{group.short}: ")), None) for group in groups
    ]
    chosen = [name for name in firsts if name is not None]
    rest = sorted((name for name in attacks if name not in chosen), key=lambda n: -attacks[n]["area"])
    chosen = (chosen + rest)[:MOST_DRAWN]
    return {name: found for name, found in attacks.items() if name in chosen}
