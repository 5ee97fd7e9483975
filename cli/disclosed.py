"""How a client's disclosure is printed: what would leave it in a run, and what its own rules say to that."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cli.output import print_facts, print_json, print_table

if TYPE_CHECKING:
    from mosaic_secure.client.disclosure import Disclosure
    from mosaic_secure.client.leaving import LeavingMessage

__all__ = ["show_disclosure"]


def show_disclosure(disclosure: Disclosure, json: bool = False) -> None:
    """Print a disclosure as tables and lines, and with `json` as one object at the end."""
    found = disclosure
    print_facts(
        {
            "client": found.party,
            "population": f"{found.population} ({found.visibility})",
            "data set": found.dataset,
            "configuration": found.config_hash,
            "trust": found.trust,
        }
    )
    print("\nwhat would leave this client, in order:")
    print_table(list(_rows(found.messages)))
    print(f"together at most {found.bytes} bytes; asked for again, the same bytes leave again")
    print("\nwhat is in them (control: identifiers and fixed codes; signature: digests and signatures):")
    print_table(list(_fields(found.messages)))
    print("\nhow each release is protected:")
    print_table([_mechanism(vars(item)) for item in found.mechanisms])
    print()
    spent = found.spending
    print_facts(
        {
            "epsilon": found.epsilon,
            "delta": found.delta,
            "ledger's epsilon": _change(spent.epsilon_before, spent.epsilon_after, spent.max_epsilon),
            "ledger's delta": _change(spent.delta_before, spent.delta_after, spent.max_delta),
            "or one of": ", ".join(found.codes),
        }
    )
    print("\nwhat never leaves:")
    for line in found.never:
        print(f"  {line}")
    verdict = "this client would accept the run" if found.accepted else f"refused: {found.refusal}"
    print(f"\n{verdict}")
    if json:
        print_json(found.to_dict())


def _rows(messages: tuple[LeavingMessage, ...]) -> Iterator[dict[str, Any]]:
    """One row for the messages of one kind that follow each other, with stages such as "gradient-0 to 15"."""
    for (_, name), group in groupby(messages, key=lambda item: (_kind(item.stage), item.message)):
        own = list(group)
        first, last = own[0].stage, own[-1].stage
        total, at_most = sum(item.bytes for item in own), any(item.is_bound for item in own)
        yield {
            "stage": first if len(own) == 1 else f"{first} to {last.rpartition('-')[2]}",
            "message": name,
            "times": len(own),
            "bytes": f"at most {total}" if at_most else total,
            "about": own[0].about,
        }


def _fields(messages: tuple[LeavingMessage, ...]) -> Iterator[dict[str, Any]]:
    """One row for each field that differs in what it carries, with its size in one message."""
    seen: dict[tuple[str, str, str | None], list[tuple[int, bool]]] = {}
    classes: dict[tuple[str, str], str] = {}
    for item in messages:
        for field in item.fields:
            seen.setdefault((item.message, field.name, field.release), []).append(
                (field.bytes, field.is_bound)
            )
            classes[item.message, field.name] = field.field_class
    for (message, name, release), sizes in seen.items():
        low, high = min(size for size, _ in sizes), max(size for size, _ in sizes)
        shown = str(high) if low == high else f"{low} to {high}"
        yield {
            "message": message,
            "field": name,
            "class": classes[message, name],
            "release": release,
            "bytes": f"at most {high}" if any(bound for _, bound in sizes) else shown,
        }


def _kind(stage: str) -> str:
    head, dash, number = stage.rpartition("-")
    return head if dash and number.isdigit() else stage


def _mechanism(item: dict[str, Any]) -> dict[str, Any]:
    names = {"own_noise_multiplier": "own_noise"}
    return {names.get(name, name): value for name, value in item.items()}


def _change(before: float, after: float, most: float) -> str:
    return f"{before:.4g} now, {after:.4g} afterwards, of {most:.4g}"
