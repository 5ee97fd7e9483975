"""Who pays for privacy: a run's accuracy by class and by client, and how well it knows what it knows.

Only what may be reported: from the sealed run's global model and the public test part. What each client holds
enters for public data alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaic_secure.config import RunConfig
from mosaic_secure.data.clients import label_counts, load_public_test
from mosaic_secure.errors import UserError
from mosaic_secure.report.comparison import RUNS
from mosaic_secure.report.comparison_request import Cell
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.encoding import json_document, parse_json
from privacy.storage import make_private_directory, write_durably

__all__ = ["BINS", "RunScores", "calibration_error", "score_run", "scores_of"]

BINS = 15
_KEPT = "scores"


@dataclass(frozen=True)
class RunScores:
    """What the global model of one run does on the public test part.

    Attributes:
        by_class: share recognised of the records of each class, in [0, 1]; None for a class without any.
        by_client: the same, weighted by the records of each class that a client holds: what it may expect on
            records like its own. Empty for private data, where nobody may know what a client holds.
        holds: number of records of each class at each client, for the same clients.
        ece: expected calibration error, in [0, 1].
    """

    by_class: Mapping[str, float | None]
    by_client: Mapping[str, float]
    holds: Mapping[str, tuple[int, ...]]
    ece: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "holds": {name: list(counts) for name, counts in self.holds.items()}}


def scores_of(folder: Path, cell: Cell) -> RunScores | None:
    """The scores of a sealed run of a sweep, worked out once and kept in ``FOLDER/scores``.

    None where there is no public test part or no global model.

    Raises:
        UserError: the run is damaged.
    """
    run = RunDirectory.open(folder / RUNS / cell.slug)
    file, digest = folder / _KEPT / f"{cell.slug}.json", run.manifest["digest"]
    try:
        kept = parse_json(file.read_bytes(), str(file))
        if kept["of"] == digest:
            return _from_dict(kept["scores"])
    except (OSError, UserError, KeyError, TypeError):
        pass  # not there, or not whole: it is made anew
    found = score_run(run, cell.config)
    make_private_directory(file.parent)
    write_durably(file, json_document({"of": digest, "scores": None if found is None else found.to_dict()}))
    return found


def score_run(run: RunDirectory, config: RunConfig) -> RunScores | None:
    """Score the global model of a sealed run on the public test part, see `scores_of`."""
    test = load_public_test(config, config.data.root)
    if test is None or config.method == "local":
        return None
    from mosaic_secure.runs.predictor import load

    model = load(run)
    chances = model.predict_proba(test[0])
    found = chances.argmax(1) == test[1]
    shares = [
        float(found[test[1] == k].mean()) if (test[1] == k).any() else None for k in range(model.num_classes)
    ]
    counts = label_counts(config, config.data.root) if config.is_public else np.zeros((0, model.num_classes))
    own = dict(zip(config.client_ids, counts, strict=False))
    by_client = {client: _weighted(shares, held) for client, held in own.items()}
    return RunScores(
        by_class=dict(zip(model.class_names, shares, strict=True)),
        by_client={client: value for client, value in by_client.items() if value is not None},
        holds={client: tuple(int(count) for count in held) for client, held in own.items()},
        ece=calibration_error(chances, test[1]),
    )


def calibration_error(chances: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: how far confidence and accuracy lie apart in the mean, in [0, 1].

    Records are put into equally wide bins of the probability of their likeliest class; the distances of mean
    confidence and accuracy are weighted by the records of each bin. Guo, Pleiss, Sun and Weinberger, "On
    calibration of modern neural networks" (ICML 2017), equation 3. On few records chance alone makes it
    larger than 0.

    Args:
        chances: probabilities, [N, K]. labels: [N] in [0, K); N at least 1.
    """
    sure = chances.max(1).astype(np.float64)
    right = chances.argmax(1) == np.asarray(labels)
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs(float(right[place == b].mean()) - float(sure[place == b].mean())) for b in np.unique(place)]
    return float(np.dot(gaps, np.unique(place, return_counts=True)[1]) / len(sure))


def _weighted(shares: list[float | None], held: np.ndarray) -> float | None:
    """Mean of the classes' shares by how many records of each a client holds; None if that cannot be said."""
    known = [(share, float(count)) for share, count in zip(shares, held, strict=True) if share is not None]
    total = sum(count for _, count in known)
    return sum(share * count for share, count in known) / total if total else None


def _from_dict(content: Mapping[str, Any] | None) -> RunScores | None:
    if content is None:
        return None
    holds = {name: tuple(counts) for name, counts in content["holds"].items()}
    return RunScores(content["by_class"], content["by_client"], holds, float(content["ece"]))
