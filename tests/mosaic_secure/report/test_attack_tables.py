"""Which attacks a page shows, in which groups, and which of them it draws."""

from __future__ import annotations

from typing import Any

from mosaic_secure.report.attack_tables import attack_groups, drawn


def found(area: float) -> dict[str, Any]:
    return {"area": area}


def audit(**changes: Any) -> dict[str, Any]:
    plain = {"membership": {"confidence": found(0.5)}, "synthetic": {}, "pipelines": None, "classifiers": {}}
    return plain | changes


def test_without_shadows_there_are_two_groups_and_one_may_be_empty():
    model, synthetic = attack_groups(audit())
    assert list(model.attacks) == ["confidence"] and not model.says and not synthetic.attacks
    assert list(drawn([model, synthetic])) == ["model: confidence"]


def test_shadow_federations_stand_beside_what_needs_none():
    pipelines = {
        "pipelines": 8,
        "judged": 90,
        "membership": {"LiRA": found(0.6)},
        "synthetic": {"density": found(0.5)},
    }
    model, synthetic = attack_groups(audit(pipelines=pipelines, synthetic={"nearness": found(0.9)}))
    assert list(model.attacks) == ["confidence", "LiRA (shadow federations)"]
    assert "8 whole federations" in model.says and "180 judged records" in model.says
    assert list(synthetic.attacks) == ["nearness", "density"]
    # nearness is an illustration, and is not drawn whatever its area
    assert list(drawn([model, synthetic])) == [
        "model: confidence",
        "model: LiRA (shadow federations)",
        "synthetic: density",
    ]


def test_of_each_client_the_strongest_attack_is_shown_and_few_are_drawn():
    attacks = {"LiRA": found(0.55), "RMIA": found(0.57)}
    clients = {
        f"client-{n}": {"architecture": "mlp", "models": 64, "pool": 80, "attacks": attacks} for n in range(6)
    }
    groups = attack_groups(audit(classifiers=clients))
    assert list(groups[2].attacks) == [f"client-{n} (mlp): RMIA" for n in range(6)]
    assert "largest area of 2" in groups[2].says and "64 shadow models" in groups[2].says
    assert len(drawn(groups)) == 4 and "model: confidence" in drawn(groups)
