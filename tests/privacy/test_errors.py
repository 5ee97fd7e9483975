from __future__ import annotations

import pickle

import pytest

from privacy import errors


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_a_privacy_error(name):
    assert issubclass(getattr(errors, name), errors.PrivacyError)
    assert issubclass(errors.PrivacyError, ValueError)


def test_ledger_errors_share_a_base():
    for kind in (errors.LedgerDamaged, errors.LedgerRollback, errors.ReleaseConflict):
        assert issubclass(kind, errors.LedgerError)


def test_contribution_error_names_code_and_client():
    error = errors.ContributionError("bad-signature", "client-3")
    assert (error.code, error.client) == ("bad-signature", "client-3")
    assert "client-3" in str(error) and "bad-signature" in str(error)
    assert "\n" not in str(error)


def test_errors_with_fields_survive_a_process_boundary():
    error = pickle.loads(pickle.dumps(errors.ContributionError("too-long", None, "limit 10 bytes")))
    assert (error.code, error.client, error.detail) == ("too-long", None, "limit 10 bytes")
    model = pickle.loads(pickle.dumps(errors.UnsafeModelError(["bn1: use GroupNorm", "bn2: use GroupNorm"])))
    assert model.problems == ["bn1: use GroupNorm", "bn2: use GroupNorm"]
    assert "bn1" in str(model) and "bn2" in str(model)
