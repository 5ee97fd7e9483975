"""Several runs beside each other: what changed in configuration, guarantee, accuracy and attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mosaic_secure import __version__
from mosaic_secure.report.document import Block, Box, Document, Link, Section, Table
from mosaic_secure.report.evidence.attacks import found_by, tested
from mosaic_secure.report.evidence.contents import PackedRun
from mosaic_secure.report.pages import upper
from mosaic_secure.runs.manifest import flat
from mosaic_secure.runs.resume import PLACES

__all__ = ["comparison_page", "comparison_record"]

Rows = dict[str, list[Any]]
_EVERYTHING = ("model", "synthetic", "classifier")


def comparison_record(runs: Sequence[PackedRun]) -> dict[str, Any]:
    """For programs: field -> one value for each run, in their order; None where a run has none."""
    return {
        "runs": [{"run_id": run.id, "name": run.name} for run in runs],
        "config": _config(runs),
        "guarantee": _guarantee(runs),
        "scores": _aligned(runs, lambda run: {f"{s.metric} of {s.of}": s.value for s in run.scores}),
        "attacks": _attacks(runs),
    }


def comparison_page(runs: Sequence[PackedRun], record: Mapping[str, Any]) -> Document:
    """The same for people; `record` is what :func:`comparison_record` made of these runs."""
    scores = {name: row for name, row in record["scores"].items() if "/" not in name}
    changed = ", ".join(list(record["config"])[:6]) + (", ..." if len(record["config"]) > 6 else "")
    said = [f"Fields of the configuration that differ: {changed or 'none'}."]
    told = [row for name, row in scores.items() if name == "accuracy of global"]
    for row in told:
        shown = ", ".join("-" if value is None else f"{value:.4f}" for value in row)
        said.append(f"Accuracy of the global model, in the order of the runs: {shown}.")
    said.append(f"Epsilon: {', '.join(upper(run.statement['epsilon']) for run in runs)}.")
    if len({(run.config["data"]["dataset"], run.statement["population"]["name"]) for run in runs}) > 1:
        said.append("The runs are of different data: their accuracies do not compare.")
    return Document(
        f"Comparison of {len(runs)} runs",
        f"Evidence by mosaic-secure {__version__}",
        Box("none", "What changed", tuple(said)),
        (
            Section("The runs", (_runs(runs),)),
            Section(
                "Configuration", _table(runs, record["config"], "Nothing differs.", "Fields that differ.")
            ),
            Section(
                "Guarantee",
                (
                    *_table(runs, record["guarantee"], "", "Differences are marked by *."),
                    "One run on its own keeps its guarantee. Runs on the same records add up: the clients' "
                    "ledgers sum epsilons and deltas.",
                ),
            ),
            Section("Accuracy", _table(runs, scores, "No run tells one.", "On public test records.")),
            Section(
                "Attacks",
                (
                    *_table(
                        runs,
                        record["attacks"],
                        "No audit is in this pack.",
                        "Of the first audit that failed, else the last.",
                    ),
                    "Two runs of one configuration differ by their noise alone. Differences inside the "
                    "intervals say nothing.",
                ),
            ),
        ),
    )


def _config(runs: Sequence[PackedRun]) -> Rows:
    """Fields that differ; not those that say where data lie or workers run, which change no result."""
    fields = _aligned(runs, lambda run: flat(run.config))
    return {name: row for name, row in fields.items() if name not in PLACES and _differs(row)}


def _guarantee(runs: Sequence[PackedRun]) -> Rows:
    def facts(run: PackedRun) -> dict[str, Any]:
        stated = run.statement
        found = {
            name: stated[name] for name in ("epsilon", "delta", "unit", "neighbours", "trust", "clients")
        }
        found["secure noise"] = stated["randomness"]["secure"]
        found["visibility of the data"] = stated["population"]["visibility"]
        for row in stated["records_of_one_person"][1:]:
            found[f"epsilon for {row['records']} records of one person"] = row["epsilon"]
        for row in stated["coalitions"]:
            found[f"epsilon against {row['who']}"] = row["epsilon"]
        for row in stated["mechanisms"]:
            found[f"noise multiplier of {row['name']}"] = row["noise_multiplier"]
            found[f"times {row['name']} is released"] = row["rounds"]
        return found

    return _aligned(runs, facts)


def _attacks(runs: Sequence[PackedRun]) -> Rows:
    def facts(run: PackedRun) -> dict[str, Any]:
        if not run.audits:
            return {}
        audit = next((one for one in run.audits if one.record["verdict"] == "fail"), run.audits[-1])
        found: dict[str, Any] = {"audit": f"{audit.id}, {audit.record['when']}", **tested(audit)}
        del found["in words"]
        for name, row in found_by(audit, _EVERYTHING).items():
            found[f"{name}, area"] = row["area"]
            found[f"{name}, caught at 1 % false alarms"] = row["caught"]
        return found

    return _aligned(runs, facts)


def _aligned(runs: Sequence[PackedRun], facts: Callable[[PackedRun], Mapping[str, Any]]) -> Rows:
    told = [facts(run) for run in runs]
    names = dict.fromkeys(name for found in told for name in found)
    return {name: [found.get(name) for found in told] for name in names}


def _differs(row: Sequence[Any]) -> bool:
    return any(value != row[0] for value in row)


def _runs(runs: Sequence[PackedRun]) -> Table:
    return Table(
        ("run", "method", "model card", "run id", "made with"),
        tuple(
            (
                run.name,
                str(run.config["method"]),
                Link("model card", f"runs/{run.id}/model-card.html"),
                run.id,
                f"mosaic-secure {run.manifest.get('mosaic_secure', '-')}",
            )
            for run in runs
        ),
    )


def _table(runs: Sequence[PackedRun], rows: Rows, nothing: str, caption: str) -> tuple[Block, ...]:
    if not rows:
        return (nothing,)
    marked = "marked by *" in caption
    return (
        Table(
            ("", *(run.name for run in runs)),
            tuple(
                (f"{name} *" if marked and _differs(row) else name, *map(_shown, row))
                for name, row in rows.items()
            ),
            caption,
        ),
    )


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
