"""What leaves a client was made by the mechanisms of the plan, and its ledger was charged for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic_secure.client import training
from mosaic_secure.client.answers import trained
from mosaic_secure.client.session import ClientHome, Session, enrol
from mosaic_secure.engine.parties import provision
from mosaic_secure.plan import build_plan
from mosaic_secure.protocol.messages import LocalTrainingRequest
from privacy.canonical import canonical_json
from privacy.randomness import NoiseSource

from ..tiny import tiny_config

RUN = "run-1"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """The first of three clients, enrolled in a run with epsilon 4."""
    config = tiny_config()
    plan, federation = build_plan(config), provision(config, tmp_path)
    home = ClientHome(federation.home / "client-0", "client-0")
    texts = [canonical_json(part.to_dict()).decode() for part in (plan.config, plan.budget)]
    enrol(home, RUN, *texts, {name: key for name, key in federation.roster.items() if name != "authority"})
    return Session(home, RUN, 0)


def charged(session: Session) -> dict[str, int]:
    """Releases by name that the client's ledger has paid for."""
    with session.home.ledger() as ledger:
        return {name: made for name, made in ledger.run(RUN).releases.items() if made}


def test_the_generator_is_told_the_counts_that_were_released_and_not_the_true_ones(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    """That all ten counts come out true within 0.1, a false alarm, takes noise rarer than one in 10^9."""
    told = []
    real = training.train_local_generator

    def listen(session: Session, model: Any, broadcast: Any, own_counts: np.ndarray, noise: Any) -> Any:
        told.append(own_counts)
        return real(session, model, broadcast, own_counts, noise)

    monkeypatch.setattr(training, "train_local_generator", listen)
    assert trained(session, LocalTrainingRequest(run_id=RUN, round=0)).code == "ok"
    assert charged(session) == {"counts": 1, "classifier": 1, "generator": 1}
    released = (session.home.path / "releases" / RUN / "counts-0.bin").read_bytes()
    counts = session.plan.counts.decode(np.frombuffer(released, dtype="<i8").astype(np.int64))["counts"]
    np.testing.assert_array_equal(told, [counts])
    assert np.abs(counts - np.bincount(session.data.labels, minlength=10)).max() > 0.1


def test_the_weights_that_a_client_uploads_carry_the_planned_noise(session: Session):
    """They have moved from their start at least as far as noise alone moves them, less 8 %.

    These lengths are over 4,810 weights, and their ratio has a standard deviation of 1.3 % over secrets, so
    that one secret in a hundred million, or fewer, gives a false alarm. Without noise it is a tenth, or less.
    """
    data, plan = session.data, session.plan
    settings = plan.dpsgd("classifier", data.declared_records, session.architecture)
    start = training.initial_classifier(
        session.config, session.architecture, plan.image_shape, plan.num_classes
    )
    before = training.weights_of(start)
    nobody = torch.from_numpy(data.images[:0]), torch.from_numpy(data.labels[:0])
    training.train_classifier(start, *nobody, settings, NoiseSource(bytes(32), "noise alone"))
    sent = trained(session, LocalTrainingRequest(run_id=RUN, round=0)).classifier
    assert moved(before, sent) > 0.92 * moved(before, training.weights_of(start))


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> float:
    """Length of the difference of two networks' weights."""
    return float(np.sqrt(sum(np.square(after[name] - value).sum() for name, value in before.items())))
