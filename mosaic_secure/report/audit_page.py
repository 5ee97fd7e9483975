"""The page of an audit: one file that needs nothing else, for a privacy officer to read and print."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from attacks.statistics import tpr_ceiling
from attacks.summary import FALSE_ALARMS
from mosaic_secure.report.attack_tables import ILLUSTRATIONS, attack_groups, claim_was_tested, drawn
from mosaic_secure.report.drawings import draw_curves, draw_sandwich
from mosaic_secure.report.pages import percent, render, short

__all__ = ["TRUST", "VERDICTS", "audit_page"]

VERDICTS: Mapping[str, str] = {
    "pass": "Tested, and the claim stands",
    "fail": "Failed",
    "none": "Described, not tested",
}
_MARKS = {True: ("holds", "holds"), False: ("broken", "BROKEN"), None: ("soft", "not applicable")}
TRUST: Mapping[str, str] = {
    "local": "Each client's own noise suffices, even if the server, the key authority and all other clients "
    "work together against it.",
    "distributed": "The noise of a sum is shared by the clients: the guarantee needs the stated number of "
    "honest ones, and a key authority that does not collude with the server.",
}
_KINDS = {
    "control": "what the protocol itself needs",
    "public": "what everybody may know",
    "signature": "signatures",
    "dp_release": "releases with noise of the client's own",
    "ciphertext": "encrypted contributions",
    "sum": "decrypted sums",
}


def audit_page(audit: Mapping[str, Any], statement: Mapping[str, Any], inversion: Mapping[str, Any]) -> str:
    """HTML of one audit.

    Args:
        audit: what audit.json holds. statement: what the run's privacy.json holds.
        inversion: what `mosaic_secure.report.pictures.inversion_context` makes of the pictures.
    """
    from markupsafe import Markup

    groups = attack_groups(audit)
    attacks = {
        f"{group.short}: {name}": found
        for group in groups
        for name, found in group.attacks.items()
        if name not in ILLUSTRATIONS
    }
    epsilon, delta = float(audit["epsilon_of_the_run"]), float(audit["delta"])
    ceiling = None if math.isinf(epsilon) else lambda fpr: tpr_ceiling(epsilon, delta, fpr)
    strongest = _strongest(attacks, audit["request"]["fpr"])
    sound = audit["verdict"] != "fail" and statement["randomness"]["secure"]
    lower = audit["epsilon_lower_bound"]
    return render(
        "audit.html",
        audit=audit,
        statement=statement,
        inversion=inversion,
        title=f"{statement['population']['name']}, {statement['clients']} clients, epsilon {short(epsilon)}",
        words=VERDICTS,
        marks=_MARKS,
        trust=TRUST,
        kinds=_KINDS,
        claim_tested=claim_was_tested(audit),
        illustrations=ILLUSTRATIONS,
        groups=groups,
        claim=short(audit["epsilon_claimed"]),
        epsilon=short(epsilon),
        infinite=math.isinf(epsilon),
        factor=short(math.exp(min(700.0, epsilon))),
        confidence=percent(audit["confidence"]),
        error=percent(audit["family_wise_error"]),
        delta=short(delta),
        headline=_headline(strongest, len(attacks), sound, statement["trust"]),
        sandwich=Markup(draw_sandwich(audit["epsilon_claimed"], lower, audit["epsilon_provable_at_most"])),
        below=_below(audit),
        curves=Markup(draw_curves({name: found["curve"] for name, found in drawn(groups).items()}, ceiling)),
        curve_says=_curve_says(attacks),
        fprs=FALSE_ALARMS,
        priors=_priors(strongest),
        command=_command(audit),
    )


def _strongest(attacks: Mapping[str, Any], wanted: float | None) -> tuple[str, Mapping[str, Any]] | None:
    """The attack that catches most at the wanted rate of false alarms, else at 1 % or another."""
    for fpr in (wanted, 0.01, 0.1, 0.001):
        rows = [
            (name, row)
            for name, found in attacks.items()
            for row in found["caught"]
            if row["fpr"] == fpr and row["rate"] is not None
        ]
        if rows:
            return max(rows, key=lambda pair: pair[1]["rate"]["value"])
    return None


def _headline(strongest: tuple[str, Mapping[str, Any]] | None, attacks: int, sound: bool, trust: str) -> str:
    if strongest is None:
        return ""
    _, row = strongest
    rate, interval = row["rate"], row["rate"]["interval"]
    bound = f"no attack can catch more than {percent(row['at_most'])} of members"
    if trust == "distributed":
        bound += ", if its trust assumptions hold"
    if not sound:
        bound = f"no attack could catch more than {percent(row['at_most'])} of members if the guarantee held"
    if row["at_most"] >= 1:
        bound = "nothing limits what an attack may catch"
    ours = "ours" if attacks == 1 else f"the best of our {attacks}"
    return (
        f"At {percent(row['fpr'])} false alarms {bound}; {ours} caught {percent(rate['value'])} "
        f"[{percent(interval['low'])} to {percent(interval['high'])}]."
    )


def _below(audit: Mapping[str, Any]) -> str:
    if not audit["canaries"]:
        return "nothing was tested; a fresh run with canaries would show a lower bound."
    least = f"with {percent(audit['confidence'])} confidence at least {short(audit['epsilon_lower_bound'])}"
    if audit["epsilon_lower_bound"] > audit["epsilon_claimed"]:
        return f"{least}, which is above the claim."
    return (
        f"{least}. The gap between the two holds what better attacks might find, and what only mathematics "
        "accounts for."
    )


def _curve_says(attacks: Mapping[str, Any]) -> str:
    if not attacks:
        return "There was nothing to attack."
    name, found = max(attacks.items(), key=lambda pair: pair[1]["area"])
    low, high = found["area_interval"]["low"], found["area_interval"]["high"]
    if low <= 0.5 <= high:
        return "No attack of this audit is told from guessing by its area."
    return f"The largest area is that of {name}: {found['area']:.3f} ({low:.3f} to {high:.3f})."


def _priors(strongest: tuple[str, Mapping[str, Any]] | None) -> dict[str, Any] | None:
    if strongest is None:
        return None
    name, row = strongest
    rows = [(float(prior), value) for prior, value in row["precision"].items()]
    return {"attack": name, "fpr": row["fpr"], "rows": rows}


def _command(audit: Mapping[str, Any]) -> str:
    request = audit["request"]
    words = ["mosaic-secure", "audit", audit["run"]]
    if request["claim"] is not None:
        words += ["--claim", repr(request["claim"])]
    if request["fpr"] is not None:
        words += ["--fpr", f"{request['fpr']:g}"]
    if request["retrain"]:
        words += ["--retrain", "--canaries", str(request["canaries"])]
    if request["classifiers"]:
        words += ["--classifiers", "--shadows", str(request["shadows"])]
    if request["pipelines"]:
        words += ["--pipelines", str(request["pipelines"])]
    for name in ("data_root", "data", "client", "others", "out", "ledger_dir"):
        if request.get(name):
            words += [f"--{name.replace('_', '-')}", request[name]]
    if request["pdf"]:
        words.append("--pdf")
    return shlex.join([*words, "--seed", str(request["seed"])])
