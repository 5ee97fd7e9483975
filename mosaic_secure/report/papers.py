"""What a run tells in words and tables: the guarantee, the ledgers, and for public data who held what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from attacks.statistics import tpr_ceiling
from mosaic_secure.masking import largest_sum
from mosaic_secure.plan import ENCRYPTED
from mosaic_secure.protocol.trust import trust_table
from privacy.statement import build_statement

if TYPE_CHECKING:
    from mosaic_secure.plan import RunPlan
    from mosaic_secure.runs.directory import RunDirectory

__all__ = ["write_papers"]


def write_papers(
    run: RunDirectory, plan: RunPlan, ended: Mapping[str, Any], done: Mapping[str, float]
) -> None:
    """Write privacy.json, ledgers.json and, for public data that the server has too, membership.npz and
    partition.png."""
    config = plan.config
    statement = build_statement(
        plan.budget,
        trust=config.privacy.trust,
        clients=config.clients.count,
        honest_clients=config.honest_clients if config.privacy.trust == "distributed" else None,
        colluding=config.privacy.colluding_clients,
        min_contributors=config.min_contributors,
        population={"name": config.data.population_id, "visibility": plan.info.visibility},
        secure_noise=not config.privacy.insecure_reproducible_noise,
        encrypted_releases=tuple(r.name for r in plan.budget.releases if r.name in ENCRYPTED),
        anchored=bool(ended["anchors"]),
        masked_honest=config.honest_in_a_sum if plan.is_masked else None,
    )
    statement["spent"] = dict(done)
    statement["encryption"] = _encryption(plan)
    statement["method"] = config.method
    statement["trust_map"] = trust_table(bool(plan.rounds), plan.is_masked)["roles"]
    statement["attack_ceiling"] = [
        {"fpr": fpr, "tpr_at_most": tpr_ceiling(plan.budget.epsilon, plan.budget.delta, fpr)}
        for fpr in (0.001, 0.01, 0.1)
    ]
    run.write_json("privacy.json", statement)
    run.write_json("ledgers.json", {"excerpts": ended["excerpts"], "anchors": ended["anchors"]})
    if config.is_public and config.data.clients_from != "own":
        _write_public(run, plan)


def _encryption(plan: RunPlan) -> dict[str, Any] | None:
    """Scheme, security level, precision and life of the key of the encrypted sums; None without any."""
    if not plan.rounds:
        return None
    ckks, clients = plan.ckks, plan.config.clients.count
    return {
        "scheme": "CKKS, additions only",
        "parameters": ckks.to_dict(),
        "security_bits": ckks.security_bits,
        "largest_sum": ckks.max_sum,
        "rounding_step": ckks.rounding_step,
        "decoding_error_at_most": ckks.decode_error(clients),
        "key_lifetime": "one run; the key authority destroys the secret key when the run is sealed",
        "not_a_proof": "rounding decrypted sums far above their error is a mitigation of key recovery from "
        "shared decryptions (Li and Micciancio, 2020/1533); a recovered key "
        + ("opens masked contributions" if plan.is_masked else "breaks trust 'distributed', never 'local'"),
        "pairwise_masks": _masks(plan) if plan.is_masked else None,
    }


def _masks(plan: RunPlan) -> dict[str, Any]:
    """Thresholds and ranges of the pairwise masks."""
    config = plan.config
    return {
        "scheme": "double masking with Shamir shares (Bonawitz et al., CCS 2017): X25519, HKDF, ChaCha20",
        "modulus": 2 * (largest_sum(plan) + 1),
        "threshold": config.min_contributors,
        "colluding_clients": config.privacy.colluding_clients,
        "honest_clients_in_a_sum_at_least": config.honest_in_a_sum,
        "holds": "server and key authority together, with that many clients on their side, open nothing but "
        "one sum a round over at least that many honest clients, as long as the roster is honest",
        "key_lifetime": "keys and seeds of one round each; clients remove them when the run is sealed",
    }


def _write_public(run: RunDirectory, plan: RunPlan) -> None:
    import io

    from mosaic_secure.data import load_partition
    from mosaic_secure.report.partition_plot import partition_picture

    parts = load_partition(plan.config, plan.config.data.root)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(zip(plan.config.client_ids, parts, strict=True)))
    run.write_bytes("membership.npz", buffer.getvalue())
    run.write_bytes("partition.png", partition_picture(plan.config, plan.config.data.root))
