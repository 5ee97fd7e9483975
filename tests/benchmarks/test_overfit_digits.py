"""The measurement of overfitted classifiers: what it keeps, with few shadow models."""

from __future__ import annotations

import json
from pathlib import Path


def test_both_kinds_are_measured_and_kept(load, tmp_path: Path) -> None:
    tool = load("overfit_digits")
    few = ["--shadows", "8", "--classifiers", "2", "--views", "2", "--results", str(tmp_path)]
    assert tool.main(few) == 0
    record = json.loads((tmp_path / "overfit_digits.json").read_text(encoding="utf-8"))
    by_heart, private = record["kinds"]["by heart"], record["kinds"]["private"]
    assert by_heart["recipe"]["clip"] is None and private["recipe"]["noise_multiplier"] > 1
    for kind in (by_heart, private):
        assert len(kind["classifiers"]) == 2
        assert {"LiRA, online, one spread", "RMIA", "loss threshold"} <= set(kind["means"])
    assert all(row["accuracy_on_members"] == 1.0 for row in by_heart["classifiers"])
    assert by_heart["at_most"] == {"0.01": 1.0, "0.1": 1.0} and 0.5 < private["at_most"]["0.01"] < 0.6
    assert by_heart["means"]["LiRA, online, one spread"]["area"] > 0.58
