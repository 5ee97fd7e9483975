"""The first page of a pack: what is in it, how to check it, and what it cannot show."""

from __future__ import annotations

from collections.abc import Sequence

from mosaic_secure import __version__
from mosaic_secure.report.audit_page import VERDICTS
from mosaic_secure.report.document import Box, Bullets, Document, Facts, Link, Section, Table
from mosaic_secure.report.evidence.contents import PackedRun
from mosaic_secure.report.evidence.curves import PAGE, PackedCurve
from mosaic_secure.report.evidence.format import describe_signer
from mosaic_secure.report.pages import short, upper

__all__ = ["front_page"]


def front_page(
    runs: Sequence[PackedRun], compared: int, curves: Sequence[PackedCurve], public: bytes
) -> Document:
    """What the pack holds, who signed it (a 32-byte key), how to check it, and what it cannot show.

    Args:
        compared: how many runs stand on the page of comparison. curves: as they are numbered in the pack.
    """
    described = describe_signer(public)
    rows = tuple(
        (
            run.name,
            str(run.config["method"]),
            upper(run.statement["epsilon"]),
            short(run.statement["delta"]),
            Link("model", f"runs/{run.id}/model-card.html"),
            Link("synthetic data", f"runs/{run.id}/synthetic-data-card.html") if run.synthetic else "-",
            "; ".join(VERDICTS[audit.record["verdict"]] for audit in run.audits) or "-",
        )
        for run in runs
    )
    whose = "these runs" if compared == len(runs) else f"the first {compared} runs"
    links = [Link(f"Comparison of {whose}", "comparison.html")] if compared > 1 else []
    links += [
        Link(f"Accuracy over epsilon: {curve.name}", f"curves/{number}/{PAGE}")
        for number, curve in enumerate(curves, 1)
    ]
    more = (Bullets(tuple(links)),) if links else ()
    return Document(
        f"Evidence of {len(runs)} run{'s' if len(runs) > 1 else ''}",
        f"Made by mosaic-secure {__version__}",
        Box(
            "none",
            "To be checked before it is read",
            (
                "mosaic-secure verify PACK, on this folder or its zip, checks every file, the signature and "
                "the clients' signed ledgers without a network, and names what does not fit.",
            ),
        ),
        (
            Section(
                "The runs",
                (
                    Table(
                        ("run", "method", "epsilon", "delta", "model card", "synthetic-data card", "audits"),
                        rows,
                        numbers=frozenset({2, 3}),
                    ),
                    *more,
                ),
            ),
            Section(
                "Who signed",
                (
                    Facts(tuple((name.replace("_", " "), said) for name, said in described.items())),
                    "The signature shows that nothing was changed since. Who holds the key it cannot show: "
                    "compare the key above with one that you were given by other means, or name that one by "
                    "mosaic-secure verify PACK --signer KEY.",
                ),
            ),
            Section(
                "What is in it",
                (
                    Facts(
                        (
                            (
                                "manifest.json",
                                "configuration, versions, and the hash of every file of the run",
                            ),
                            ("privacy.json", "the guarantee: mechanism by mechanism, coalition by coalition"),
                            (
                                "ledgers.json",
                                "what each client's ledger says of the run, signed by the client",
                            ),
                            ("metrics.jsonl", "scores on public test records, or none"),
                            ("model.json", "what the global model is built of"),
                            *(
                                (("curves", "accuracy, attacks and budgets over epsilon, of the runs here"),)
                                if curves
                                else ()
                            ),
                            ("audits", "what attacks found, where it may be shared"),
                            ("index.json, signature.json", "the hash of every file here, and the signature"),
                        )
                    ),
                    "Not in it: weights, synthetic records, lists of members, pictures of who held what, and "
                    "the message log. They stay with the runs; index.json names each by its hash. Paths of "
                    "data stand in manifest.json as they were configured.",
                ),
            ),
            Section(
                "What it cannot show",
                (
                    Bullets(
                        (
                            "That the runs were made as they say: that rests on the code, and on clients "
                            "that signed their own ledgers.",
                            "Whose the keys of clients and key authority are: they stand in the excerpts "
                            "themselves.",
                            "That there were no other runs on the same records: those stand in the clients' "
                            "ledgers, of which this is an excerpt.",
                        )
                    ),
                ),
            ),
        ),
    )
