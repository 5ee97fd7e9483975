"""The guarantee of a run as its cards tell it: in a sentence, and in full with the clients' ledger heads."""

from __future__ import annotations

import math

from mosaic_secure.report.audit_page import TRUST
from mosaic_secure.report.document import Box, Facts, Section, Table
from mosaic_secure.report.evidence.contents import PackedRun
from mosaic_secure.report.pages import short, upper

__all__ = ["guarantee_box", "guarantee_section", "run_title"]


def run_title(run: PackedRun) -> str:
    """What a run is called on pages."""
    population, clients = run.statement["population"]["name"], run.statement["clients"]
    return f"{population}, {clients} clients, epsilon {upper(run.statement['epsilon'])} ({run.name})"


def guarantee_box(run: PackedRun) -> Box:
    """The guarantee in one sentence, unless an audit in the pack says otherwise."""
    for audit in run.audits:
        if audit.record["verdict"] == "fail":
            return Box("fail", "An audit says that this guarantee does not hold", (audit.record["sentence"],))
    if math.isinf(run.epsilon):
        return Box("fail", "No guarantee", (run.statement["guarantee"],))
    if not run.statement["randomness"]["secure"]:
        return Box("fail", "No guarantee", (run.statement["randomness"]["text"],))
    word = f"epsilon {upper(run.statement['epsilon'])} at delta {short(run.statement['delta'])}"
    return Box("none", word, (run.statement["guarantee"],))


def guarantee_section(run: PackedRun) -> Section:
    """Unit, accountant, trust, coalitions, mechanisms and ledger heads."""
    stated = run.statement
    mechanisms = tuple(
        (
            row["name"],
            row["noise"] + (f", {row['steps']} steps at rate {row['sample_rate']}" if row["steps"] else ""),
            short(row["noise_multiplier"]),
            str(row["rounds"]),
            upper(row["own_epsilon"]),
            row["seen_in_the_clear_by"],
        )
        for row in stated["mechanisms"]
    )
    return Section(
        "The guarantee, in full",
        (
            stated["guarantee"],
            Facts(
                (
                    ("Unit of privacy, and what is compared", f"{stated['unit']}; {stated['neighbours']}."),
                    ("What it covers", f"{stated['claim']}."),
                    ("Accountant", f"{stated['accountant']}."),
                    ("Randomness", stated["randomness"]["text"]),
                    ("Trust", TRUST[stated["trust"]]),
                )
            ),
            Table(
                ("records of one person", "epsilon", "delta"),
                tuple(
                    (str(row["records"]), upper(row["epsilon"]), short(row["delta"]))
                    for row in stated["records_of_one_person"]
                ),
                "A person with several records at one client has a weaker guarantee.",
                frozenset({0, 1, 2}),
            ),
            Table(
                ("who colludes", "epsilon", "why"),
                tuple((row["who"], upper(row["epsilon"]), row["why"]) for row in stated["coalitions"]),
                "Epsilon against each coalition.",
                frozenset({1}),
            ),
            Table(
                ("release", "noise", "noise multiplier", "times", "epsilon alone", "seen by"),
                mechanisms,
                "All that left each client.",
                frozenset({2, 3, 4}),
            ),
            Table(
                ("client", "ledger head", "entry", "epsilon of what was done"),
                _heads(run),
                f"Ledgers of {len(run.heads)} of {stated['clients']} clients, signed by them; whole digests "
                "and excerpts are in ledgers.json.",
                frozenset({2, 3}),
            ),
        ),
    )


def _heads(run: PackedRun) -> tuple[tuple[str, ...], ...]:
    spent = run.statement["spent"]
    return tuple(
        (client, f"{head.digest[:16]}...", str(head.sequence), upper(spent[client]))
        for client, head in run.heads.items()
    )
