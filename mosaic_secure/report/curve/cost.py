"""The honest cost of looking: what a sweep charges, and whether the ledgers can pay before it begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.statistics import tpr_ceiling
from mosaic_secure.client.session import POLICY, ledger_population
from mosaic_secure.config import RunConfig
from mosaic_secure.plan import build_plan
from mosaic_secure.report.comparison import RUNS
from mosaic_secure.report.comparison_request import REFERENCE, Cell
from mosaic_secure.runs import manifest
from privacy.errors import BudgetError, LedgerDamaged
from privacy.ledger_check import LEDGER_FILE
from privacy.ledger_check import verify as read_ledger
from privacy.policy import ClientPolicy

__all__ = ["FALSE_ALARMS", "Looking", "check_payable", "cost_of_looking"]

FALSE_ALARMS = 0.01
_RELATIVE = 1e-9  # as a ledger compares its sums with its caps


@dataclass(frozen=True)
class Looking:
    """What a whole sweep costs each client that takes part.

    Attributes:
        public: whether the data are public, so that nobody pays.
        runs: of the sweep. releasing: those that count here: on private data all, on public data, where the
            rest stands beside them, Mosaic's with noise.
        epsilon, delta: what those charge together. Basic composition, as ledgers add up.
        insecure: the noise follows from the seed, and nothing is protected.
    """

    public: bool
    runs: int
    releasing: int
    epsilon: float
    delta: float
    insecure: bool = False

    @property
    def ceiling(self) -> float:
        """The most that whoever saw the whole sweep catches at 1 % false alarms; 1 if nothing limits it."""
        return tpr_ceiling(self.epsilon, min(1.0, self.delta), FALSE_ALARMS)

    @property
    def sentence(self) -> str:
        """For the terminal and for the page."""
        if self.insecure:
            return (
                f"The noise of these {self.runs} runs follows from the seed: it protects nobody, and no "
                "epsilon of this sweep is a guarantee."
            )
        sums = f"epsilon {self.epsilon:.4g} and delta {self.delta:.2g}"
        if self.public:
            return (
                "These data are public, so looking at many budgets costs nobody's privacy. On private data "
                f"every point is a release of its own: the {self.releasing} runs of Mosaic with noise would "
                f"charge each client {sums} in all, for the sake of one model."
            )
        return (
            f"These data are private, and every point of a sweep is a release: its {self.releasing} runs "
            f"charge each client {sums} in all (basic composition), whichever of them is used in the "
            f"end. Whoever saw all of them, as a server does, may catch {self._caught} of members at 1 % "
            "false alarms. Choosing among them costs nothing more: the choice follows from what is released."
        )

    @property
    def _caught(self) -> str:
        return "any share" if self.ceiling >= 1 else f"up to {100 * self.ceiling:.3g} %"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "sentence": self.sentence, "tpr_ceiling_at_fpr_0.01": self.ceiling}


def cost_of_looking(cells: Sequence[Cell]) -> Looking:
    """What a sweep costs. No record and no ledger is read."""
    costs = _costs(cells)
    public = cells[0].config.is_public
    own = [c for c in cells if c.method == REFERENCE and math.isfinite(c.epsilon)] if public else cells
    return Looking(
        public=public,
        runs=len(cells),
        releasing=len(own),
        epsilon=math.fsum(costs[cell.slug][0] for cell in own),
        delta=math.fsum(costs[cell.slug][1] for cell in own),
        insecure=cells[0].config.privacy.insecure_reproducible_noise,
    )


def check_payable(cells: Sequence[Cell], folder: Path | None, ledger_dir: Path) -> None:
    """Make sure that every client can pay for what is not yet charged of a sweep; nothing is charged.

    Nothing is set aside either: another run on the same ledgers may come between.

    Args:
        folder: of the sweep, whose runs may have been charged before; None for a new one.
        ledger_dir: where the parties live.

    Raises:
        BudgetError: a policy or a ledger would refuse a run of the sweep.
        LedgerDamaged: a ledger cannot be read.
    """
    costs = _costs(cells)
    homes: dict[str, list[Cell]] = {}
    for cell in cells:
        homes.setdefault(ledger_population(cell.config), []).append(cell)
    for population, own in homes.items():
        for client in own[0].config.client_ids:
            _check(ledger_dir / population / client, client, own, costs, folder)


def _costs(cells: Sequence[Cell]) -> dict[str, tuple[float, float]]:
    """(epsilon, delta) that each run is charged; a seed changes no plan."""
    planned: dict[tuple[Any, ...], tuple[float, float]] = {}
    costs = {}
    for cell in cells:
        same = cell.same_plan
        if same not in planned:
            budget = build_plan(cell.config, cell.config.data.root).budget
            insecure = cell.config.privacy.insecure_reproducible_noise
            planned[same] = (math.inf if insecure else budget.epsilon, budget.delta)
        costs[cell.slug] = planned[same]
    return costs


def _check(
    home: Path, client: str, cells: Sequence[Cell], costs: dict[str, tuple[float, float]], folder: Path | None
) -> None:
    per_run, cap, delta_cap = _caps(home, cells[0].config)
    charged, spent, spent_delta = _spent(home)
    rest = [cell for cell in cells if _run_id(folder, cell) not in charged]
    for cell in rest:
        if costs[cell.slug][0] > per_run * (1 + _RELATIVE):
            raise BudgetError(
                f"{client}: epsilon {cell.epsilon:g} of the sweep is above the policy's cap of {per_run:g} "
                "for one run; leave it out of --epsilons"
            )
    needs, needs_delta = (math.fsum(costs[cell.slug][part] for cell in rest) for part in (0, 1))
    for name, need, used, most in (
        ("epsilon", needs, spent, cap),
        ("delta", needs_delta, spent_delta, delta_cap),
    ):
        if rest and used + need > most * (1 + _RELATIVE):
            mend = "for smaller budgets" if name == "epsilon" else "for a smaller privacy.delta"
            raise BudgetError(
                f"{client}: the sweep of {len(rest)} runs needs {name} {need:.4g}, and the ledger has "
                f"{used:.4g} of {most:.4g} spent; every point is a release: ask for fewer --epsilons or "
                f"--seeds, or {mend}"
            )


def _caps(home: Path, config: RunConfig) -> tuple[float, float, float]:
    """Epsilon for one run, then both for a lifetime: by the client's policy, or the one it will get."""
    if (home / POLICY).exists():
        policy = ClientPolicy.load(home / POLICY)
        return policy.max_epsilon_per_run, policy.max_epsilon_lifetime, policy.max_delta_lifetime
    return config.max_epsilon_per_run, config.max_epsilon_lifetime, config.max_delta_lifetime


def _spent(home: Path) -> tuple[set[str], float, float]:
    """Runs that are charged already, and what they add up to."""
    if not (home / LEDGER_FILE).exists():
        return set(), 0.0, 0.0
    report = read_ledger(home)
    if report.problems:
        raise LedgerDamaged(f"ledger {home / LEDGER_FILE}: {report.problems[0]}")
    charged = {run.run_id for run in report.runs if run.is_charged}
    return charged, report.lifetime_epsilon, report.lifetime_delta


def _run_id(folder: Path | None, cell: Cell) -> str | None:
    path = None if folder is None else folder / RUNS / cell.slug
    if path is None or not (path / manifest.MANIFEST).exists():
        return None
    return manifest.read(path).get("run_id")
