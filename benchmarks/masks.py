"""What pairwise masks cost: bytes, seconds and precision.

    python benchmarks/masks.py           # digits with 5 clients, and synthetic vectors with 10 and 50

Digits: the same run with and without masks, one after the other, with bytes from its message log, and for
each release what the smaller range of sums does to grid and noise. Vectors: every step of the masks among
clients on one machine, seconds of one client or of the server. Kept in `benchmarks/results/masks.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from curve_cost import places, timed  # noqa: E402  (scripts beside this one)
from measure import RESULTS, hardware, versions, write_result  # noqa: E402

from mosaic_secure.config import load_config  # noqa: E402
from mosaic_secure.plan import build_plan  # noqa: E402
from privacy.identity import SigningKey  # noqa: E402
from privacy.secagg.ciphertexts import generate_keys  # noqa: E402
from privacy.secagg.mask_book import MaskBook  # noqa: E402
from privacy.secagg.mask_terms import MaskTerms, largest_modulus, open_bundle  # noqa: E402
from privacy.secagg.masks import unmask  # noqa: E402
from privacy.secagg.packing import encrypt_integers  # noqa: E402
from privacy.secagg.parameters import CkksParameters  # noqa: E402
from privacy.secagg.quorum import fewest_contributors, honest_in_a_sum  # noqa: E402
from privacy.secagg.shamir import SHARE_BYTES  # noqa: E402

FILE = RESULTS / "masks.json"
MASKS = ("--set", "privacy.pairwise_masks=true")
MASK_MESSAGES = ("MaskSharesRequest", "MaskSharesReply", "MaskViewRequest", "MaskViewReply")
UNMASK_MESSAGES = ("UnmaskRequest", "UnmaskReply")
LENGTH, ROUNDS = 20_000, 18

T = TypeVar("T")


def precision(config: str = "digits", **changes: Any) -> list[dict[str, Any]]:
    """Of each release of a run: grid, and noise in the sum as a multiple of what is planned for it."""
    rows: dict[str, dict[str, Any]] = {}
    for name, masked in (("plain", False), ("masked", True)):
        plan = build_plan(load_config(config, {**changes, "privacy.pairwise_masks": masked}))
        for wanted in plan.rounds:
            made = wanted.mechanism
            ideal = made.noise_multiplier * made.sensitivity * made.grid
            row = rows.setdefault(wanted.release, {"release": wanted.release, "integers": made.length})
            row[name] = {
                "grid": made.grid,
                "noise_over_ideal": made.target_std / ideal,
                "ciphertext_bytes": plan.ckks.ciphertexts_for(made.length) * plan.ckks.ciphertext_bytes,
            }
    return list(rows.values())


def more_precision() -> list[dict[str, Any]]:
    """The same of larger runs; epsilon 1 is the more demanding one, for it has more noise to hold."""
    wanted = [("fashion_mnist", 10), ("fashion_mnist", 50), ("mnist", 50)]
    return [
        {
            "config": config,
            "clients": clients,
            "epsilon": 1.0,
            "releases": precision(config, **{"clients.count": clients, "privacy.epsilon": 1.0}),
        }
        for config, clients in wanted
    ]


def of_log(run: Path) -> dict[str, Any]:
    """Messages and bytes of a run, those of masks apart."""
    total, masks, unmasks = 0, 0, 0
    for line in (run / "messages.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "message" not in entry:
            continue
        size = sum(field["bytes"] for field in entry["fields"])
        total += size
        masks += size * (entry["message"] in MASK_MESSAGES)
        unmasks += size * (entry["message"] in UNMASK_MESSAGES)
    return {"bytes": total, "bytes_to_agree": masks, "bytes_to_unmask": unmasks}


def digits(scratch: Path) -> dict[str, Any]:
    """One run with masks and one without, of the same seed; their noise differs."""
    found: dict[str, Any] = {"precision": precision()}
    for name, options in (("plain", ()), ("masked", MASKS)):
        words = ["train", "--epsilon", "4", *options]
        wall, spent, out = timed([*words, *places(scratch, name), "--json"])
        result = json.loads(out.rstrip("\n").rsplit("\n", 1)[-1])
        found[name] = {
            "command": " ".join(words),
            "wall_seconds": wall,
            "processor_seconds": spent,
            "accuracy": result["accuracy"],
            **of_log(scratch / name),
        }
    return found


def clocked(do: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    made = do()
    return time.perf_counter() - started, made


def vectors(scratch: Path, clients: int) -> dict[str, Any]:
    """Seconds and bytes of each step, with nobody missing and with as many as the plan allows."""
    params, least = CkksParameters(), fewest_contributors(clients, 1)
    names = [f"client-{number:02d}" for number in range(clients)]
    keys = {name: SigningKey.create(scratch / name / "identity.key") for name in names}
    rounds = {f"round-{number}": LENGTH for number in range(ROUNDS)}
    roster = {name: key.public for name, key in keys.items()}
    terms = MaskTerms("run", "a0" * 32, roster, rounds, least, largest_modulus(params, clients))
    books = {name: MaskBook(scratch / name, name, keys[name], terms) for name in names}
    draw, _ = clocked(books[names[0]].bundle)
    offered = [books[name].bundle() for name in names]
    texts, signatures = [text for text, _ in offered], [signature for _, signature in offered]
    deal, _ = clocked(lambda: books[names[0]].deal(texts, signatures))
    dealt = {name: dict(zip(*books[name].deal(texts, signatures), strict=True)) for name in names}
    boxes = {name: [dealt[sender][name] for sender in names] for name in names}
    join, _ = clocked(lambda: books[names[0]].join(names, boxes[names[0]]))
    for name in names:
        books[name].join(names, boxes[name])
    members = {name: open_bundle(*offered[place], terms) for place, name in enumerate(names)}
    values = np.arange(LENGTH) - LENGTH // 2
    public, _ = generate_keys(params)
    mask, first = clocked(lambda: books[names[0]].mask("round-0", values))
    encrypt, _ = clocked(lambda: encrypt_integers(public, params, first))
    row: dict[str, Any] = {
        "clients": clients,
        "threshold": least,
        "honest_in_a_sum": honest_in_a_sum(clients, 1, least),
        "rounds": ROUNDS,
        "integers": LENGTH,
        "modulus": terms.modulus,
        "client_bytes_once": {
            "sent": len(texts[0]) + clients * terms.box_bytes,
            "received": clients * (len(texts[0]) + 64 + terms.box_bytes),
        },
        "client_bytes_each_round": {"sent": clients * SHARE_BYTES, "received": least * 64},
        "client_seconds_once": {"draw": draw, "deal": deal, "join": join},
        "client_seconds_each_round": {"mask": mask, "encrypt_for_comparison": encrypt},
    }
    for round_id, missing in (("round-0", 0), ("round-1", clients - least)):
        present = names[missing:]
        total = sum(books[name].mask(round_id, values) for name in present)
        helpers = {name: books[name].reveal(round_id, present, True) for name in present[1:]}
        reveal, helpers[present[0]] = clocked(lambda: books[present[0]].reveal(round_id, present, True))  # noqa: B023
        server, found = clocked(lambda: unmask(terms, round_id, total, present, members, helpers))  # noqa: B023
        if (found != len(present) * values).any():
            raise SystemExit(f"{clients} clients, {missing} missing: the sum is wrong")
        row[f"missing_{missing}"] = {"client_reveal_seconds": reveal, "server_unmask_seconds": server}
    return row


def main(argv: Sequence[str] | None = None) -> int:
    """Measure everything and keep it."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="mosaic-masks-") as scratch:
        measured = {
            "vectors": [vectors(Path(scratch) / str(clients), clients) for clients in (10, 50)],
            "digits": digits(Path(scratch)),
            "precision": more_precision(),
        }
    date = datetime.now(UTC).date().isoformat()
    kept = {"schema_version": 1, "date": date, "hardware": hardware(), "versions": versions(), **measured}
    write_result(FILE, kept)
    print(json.dumps(measured, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
