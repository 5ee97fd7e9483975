"""What the audits of a run found, as its cards and a comparison tell it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mosaic_secure.report.attack_tables import ILLUSTRATIONS, attack_groups, claim_was_tested
from mosaic_secure.report.audit_page import VERDICTS
from mosaic_secure.report.document import Block, Facts, Link, Section, Table
from mosaic_secure.report.evidence.contents import PackedAudit, PackedRun
from mosaic_secure.report.pages import percent, short, upper

__all__ = ["attacks_section", "found_by", "tested"]

FPR = 0.01


def attacks_section(run: PackedRun, kinds: Collection[str]) -> Section:
    """Every audit in the pack: its verdict, and the attacks on `kinds` (model, classifier, synthetic)."""
    if not run.audits:
        said = (
            "No audit is in this pack: none was made of this run, or none for others to see."
            if run.public
            else "No audit is in this pack: what attacks find on private records is for those who hold them."
        )
        return Section("What attacks found", (said,))
    blocks: list[Block] = []
    for audit in run.audits:
        blocks += _audit(audit, kinds)
    blocks.append(
        "Attacks on a finished run describe and are no verdict: its members were not drawn by lot. Canaries "
        "alone test a claim. Passing says that these attacks found nothing wrong."
    )
    return Section("What attacks found", tuple(blocks))


def found_by(audit: PackedAudit, kinds: Collection[str]) -> dict[str, dict[str, str]]:
    """Attack -> area with its interval, and what was caught at 1 % false alarms beside the ceiling."""
    rows = {}
    for group in attack_groups(audit.record):
        if group.short not in kinds:
            continue
        for name, found in group.attacks.items():
            told = f"{group.short}: {name}" + (" (an illustration)" if name in ILLUSTRATIONS else "")
            low, high = found["area_interval"]["low"], found["area_interval"]["high"]
            caught = next((row for row in found["caught"] if row["fpr"] == FPR), None)
            rows[told] = {
                "area": f"{found['area']:.3f} ({low:.3f} to {high:.3f})",
                "caught": "too few others to tell" if not caught or not caught["rate"] else _caught(caught),
                "at most": "-" if not caught else percent(caught["at_most"]),
            }
    return rows


def tested(audit: PackedAudit) -> dict[str, str]:
    """What the audit says of the claim."""
    record = audit.record
    lower = record["epsilon_lower_bound"]
    return {
        "verdict": VERDICTS[record["verdict"]],
        "in words": record["sentence"],
        "epsilon tested": upper(record["epsilon_claimed"]) if claim_was_tested(record) else "none was",
        "epsilon shown at least": "-" if lower is None else short(lower),
        "at most to be shown": "-"
        if record["epsilon_provable_at_most"] is None
        else short(record["epsilon_provable_at_most"]),
    }


def _audit(audit: PackedAudit, kinds: Collection[str]) -> list[Block]:
    facts = [("Audit", f"{audit.id}, {audit.record['when']}"), *tested(audit).items()]
    blocks: list[Block] = [Facts(tuple(facts))]
    rows = found_by(audit, kinds)
    if rows:
        blocks.append(
            Table(
                ("attack", "area under the curve", f"caught at {percent(FPR)} false alarms", "at most"),
                tuple((name, row["area"], row["caught"], row["at most"]) for name, row in rows.items()),
                "With 95 % intervals. One half is guessing; the last column is what the guarantee allows.",
            )
        )
    else:
        blocks.append("This audit has not attacked what this card is about.")
    pages = tuple((Link(name, f"audits/{audit.id}/{name}"),) for name in sorted(audit.files))
    blocks.append(Table(("of this audit, in this pack",), pages))
    return blocks


def _caught(row: Mapping[str, Any]) -> str:
    rate = row["rate"]
    low, high = rate["interval"]["low"], rate["interval"]["high"]
    return f"{percent(rate['value'])} ({percent(low)} to {percent(high)})"
