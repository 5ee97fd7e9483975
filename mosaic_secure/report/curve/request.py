"""What a privacy-utility curve is asked for: budgets, a number of seeds, and what to choose by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mosaic_secure.config import RunConfig
from mosaic_secure.errors import UserError
from mosaic_secure.report.comparison_request import REFERENCE, Cell, Request, known_methods

__all__ = ["BASELINES", "MOST_SEEDS", "CurveRequest", "Wanted"]

BASELINES = ("central", "local")
"""What a curve on public data stands beside: all records in one place, and every client alone."""
MOST_SEEDS = 1000
_NONE = "none"
_CHOSEN = {
    "privacy.epsilon": "--epsilons",
    "privacy.trust": "--trust",
    "method": "--baselines",
    "preset": "--preset",
    "seed": "--seeds",
    "partition.alpha": "--alpha",
}


@dataclass(frozen=True)
class Wanted:
    """By what one epsilon is to be chosen; None where nothing is asked.

    Attributes:
        min_accuracy: in (0, 1]; the whole interval must lie there.
        max_epsilon: > 0. max_tpr: in [0, 1], at 1 % false alarms.
    """

    min_accuracy: float | None = None
    max_epsilon: float | None = None
    max_tpr: float | None = None

    @property
    def anything(self) -> bool:
        """Whether an epsilon is to be chosen at all."""
        return (self.min_accuracy, self.max_epsilon, self.max_tpr) != (None, None, None)

    def check(self, seeds: int) -> None:
        """Refuse what no sweep can answer.

        Raises:
            UserError: one line that names the option.
        """
        if self.min_accuracy is not None and not 0 < self.min_accuracy <= 1:
            raise UserError(
                f"--min-accuracy {self.min_accuracy:g}: must be a share above 0 and up to 1, such as 0.9"
            )
        if self.max_epsilon is not None and not self.max_epsilon > 0:
            raise UserError(f"--max-epsilon {self.max_epsilon:g}: must be above 0")
        if self.max_tpr is not None and not 0 <= self.max_tpr <= 1:
            raise UserError(f"--max-tpr {self.max_tpr:g}: must be a share from 0 to 1, such as 0.05")
        if self.min_accuracy is not None and seeds < 2:
            raise UserError(
                "--min-accuracy: one run has no interval that could meet it; use --seeds 2 or more"
            )


@dataclass(frozen=True)
class CurveRequest:
    """The grid of a curve.

    Attributes:
        epsilons: text as the command line gives it, ``1,4,inf``. seeds: how many; 0 to seeds - 1.
        baselines: text ``central,local``, or ``none``; None for both on public data, none on private data.
        trust, alpha, preset: of Mosaic; None for what the configuration says.
    """

    epsilons: str
    seeds: int = 3
    baselines: str | None = None
    trust: str | None = None
    alpha: str | None = None
    preset: str | None = None
    wanted: Wanted = Wanted()

    def cells(
        self, load: Callable[[Mapping[str, Any]], RunConfig], settings: Mapping[str, Any]
    ) -> tuple[Cell, ...]:
        """The runs in the order in which they are made: all of one seed before the next.

        On public data Mosaic is also run without noise, as the ceiling of all else.

        Raises:
            UserError: an empty grid, an option out of range, or what the configuration refuses.
        """
        if not self.epsilons.strip(" ,"):
            raise UserError("--epsilons: names no budget; give one or more, such as --epsilons 1,4,inf")
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise UserError(f"--seeds {self.seeds}: must be a number of runs from 1 to {MOST_SEEDS}")
        self.wanted.check(self.seeds)
        for name in settings:
            if name in _CHOSEN:
                raise UserError(f"--set {name}: a curve sets this field; use {_CHOSEN[name]}")
        cells = self._request([(REFERENCE, self.preset)], self.epsilons).cells(load, settings)
        first = cells[0].config
        self._check_measurable(first)
        if first.is_public:
            cells += self._request([(REFERENCE, self.preset)], "inf").cells(load, settings)
        others = self._others(first.is_public)
        if others:
            cells += self._request(others, self.epsilons).cells(load, settings)
        unique = {cell.slug: cell for cell in cells}
        return tuple(sorted(unique.values(), key=lambda cell: cell.seed))

    def _request(self, methods: list[tuple[str, str | None]], epsilons: str) -> Request:
        seeds = ",".join(map(str, range(self.seeds)))
        request = Request.parse(epsilons=epsilons, seeds=seeds, trusts=self.trust, alphas=self.alpha)
        for option, values in (("--trust", request.trusts), ("--alpha", request.alphas)):
            if len(values) > 1:
                raise UserError(f"{option}: a curve takes one value; use compare for several")
        return Request(tuple(methods), request.epsilons, request.seeds, request.trusts, request.alphas)

    def _others(self, public: bool) -> list[tuple[str, str | None]]:
        if self.baselines is None:
            return [(name, None) for name in BASELINES] if public else []
        names = [name.strip() for name in self.baselines.split(",")]
        if names == [_NONE]:
            return []
        others = [name for name in known_methods() if name != REFERENCE]
        for name in names:
            if name not in others:
                raise UserError(
                    f"--baselines {self.baselines}: {name!r} is no baseline; choose from "
                    f"{', '.join(others)}, or {_NONE}"
                )
        return [(name, None) for name in dict.fromkeys(names)]

    def _check_measurable(self, config: RunConfig) -> None:
        if self.wanted.anything and not (config.is_public or config.data.test_visibility == "public"):
            raise UserError(
                "--min-accuracy, --max-epsilon, --max-tpr: runs on private data report no accuracy to choose "
                "by; leave them out, or name a public test part by --set data.test_path=DIR and --set "
                "data.test_visibility=public"
            )
