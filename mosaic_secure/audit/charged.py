"""That a fresh run on private data is paid for by the very ledgers that paid for the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mosaic_secure.client.session import IDENTITY, ClientHome, ledger_population
from mosaic_secure.errors import UserError
from privacy.errors import PrivacyError

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig
    from mosaic_secure.runs.directory import RunDirectory

__all__ = ["check_ledgers"]


def check_ledgers(run: RunDirectory, config: RunConfig, ledger_dir: str) -> None:
    """Refuse any ledgers but those of the run: others know nothing of what was spent on these records.

    Raises:
        UserError: a client of the run has no home there, another key, or a ledger without this run.
    """
    excerpts = run.read_json("ledgers.json")["excerpts"]
    for client in config.client_ids:
        home = ClientHome(Path(ledger_dir) / ledger_population(config) / client, client)
        problem = _problem(home, run.run_id, excerpts.get(client, {}).get("public"))
        if problem:
            raise UserError(
                f"--ledger-dir {ledger_dir}: {problem}; name the ledgers that were charged for this run, "
                "since a fresh run must be charged to them too"
            )


def _problem(home: ClientHome, run_id: str, public: str | None) -> str:
    if not (home.path / IDENTITY).is_file():
        return f"has no {home.party} of this population"
    try:
        if home.key.public.hex() != public:
            return f"{home.party} has another key than in the run"
        with home.ledger() as ledger:
            ledger.run(run_id)
    except (OSError, PrivacyError, KeyError):
        return f"{home.party} has a ledger that does not know run {run_id}"
    return ""
