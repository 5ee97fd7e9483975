"""Parties on the disk: whose ledger pays for which records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mosaic_secure.client.session import POLICY
from mosaic_secure.config import RunConfig, load_config
from mosaic_secure.engine.parties import provision
from mosaic_secure.errors import UserError
from privacy.policy import ClientPolicy

PRIVATE = {
    "data.path": "/of/nobody",
    "data.class_names": "cat,dog",
    "data.image_size": 8,
    "data.channels": 1,
    "data.declared_records": 100,
    "data.population": "ward",
    "privacy.delta": 1e-5,
    "clients.count": 3,
    "clients.architectures": "mlp",
}


def private(**changes: Any) -> RunConfig:
    return load_config("folder", {**PRIVATE, **{k.replace("__", "."): v for k, v in changes.items()}})


@pytest.mark.parametrize(
    "change",
    [
        {"data__clients_from": "subfolder", "partition__kind": "given"},
        {"seed": 1},
        {"partition__alpha": 7.0},
        {"partition__kind": "iid"},
        {"clients__count": 4},
    ],
)
def test_private_records_are_not_dealt_anew_to_ledgers_that_do_not_know_them(tmp_path: Path, change):
    dealt = {"data__clients_from": "partition", "partition__kind": "dirichlet", "partition__alpha": 1.0}
    provision(private(**dealt), tmp_path)
    provision(private(**dealt), tmp_path)
    with pytest.raises(UserError, match="population ward were dealt"):
        provision(private(**{**dealt, **change}), tmp_path)
    kept = {**dealt, "seed": 1, "partition__seed": 0}
    provision(private(**kept), tmp_path)


def test_public_records_may_be_dealt_anew(tmp_path: Path):
    first = provision(load_config("digits", {"seed": 0}), tmp_path)
    assert provision(load_config("digits", {"seed": 1}), tmp_path).roster == first.roster


@pytest.mark.parametrize(("trust", "weakest"), [("local", "local"), ("distributed", "distributed")])
def test_the_policy_of_a_private_client_relies_on_no_more_than_was_asked_for(tmp_path, trust, weakest):
    federation = provision(private(privacy__trust=trust), tmp_path)
    policy = ClientPolicy.load(federation.home / "client-0" / POLICY)
    assert (policy.visibility, policy.trust, policy.population) == ("private", weakest, "ward")
    assert policy.min_contributors == private(privacy__trust=trust).min_contributors
    assert policy.max_epsilon_lifetime == 10.0 and not policy.allow_insecure_noise
