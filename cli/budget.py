"""`mosaic-secure budget`: the privacy plan of a run, without touching data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli import options
from cli.output import print_facts, print_json, print_table

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig

EXAMPLE = "Example: mosaic-secure budget --epsilon 4 --trust distributed"


def budget(
    epsilon: options.Epsilon = None,
    delta: options.Delta = None,
    config: options.Config = None,
    data_root: options.DataRoot = None,
    clients: options.Clients = None,
    partition: options.Partition = None,
    alpha: options.Alpha = None,
    trust: options.Trust = None,
    method: options.Method = None,
    preset: options.Preset = None,
    seed: options.Seed = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Print noise multipliers, sampling rates, steps and shares of a run; no record is read."""
    fields = options.overrides(
        settings,
        privacy__epsilon=epsilon,
        privacy__delta=delta,
        privacy__trust=trust,
        data__root=data_root,
        clients__count=clients,
        partition__kind=partition,
        partition__alpha=alpha,
        method=method,
        preset=preset,
        seed=seed,
    )
    show_plan(options.configuration(config, fields), json)


def show_plan(config: RunConfig, json: bool) -> None:
    """Print the plan of a configuration and what it costs."""
    from mosaic_secure.plan import build_plan

    plan = build_plan(config, config.data.root)
    facts = {
        "epsilon": plan.budget.epsilon,
        "target_epsilon": plan.budget.target_epsilon,
        "delta": plan.budget.delta,
        "trust": config.privacy.trust,
        "clients": config.clients.count,
        "min_contributors": config.min_contributors,
    }
    rows, cost = plan.describe(), dict(plan.cost())
    print_table(rows)
    print()
    print_facts(facts | cost)
    if json:
        print_json(facts | {"releases": rows, "cost": cost})
