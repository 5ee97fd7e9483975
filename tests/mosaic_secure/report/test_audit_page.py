"""The page of an audit: what it says, that it needs nothing else, and how it lies in a real browser."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.rates import Rate
from mosaic_secure.audit.inversion import Inversion, Inverted
from mosaic_secure.report.audit_page import audit_page
from mosaic_secure.report.drawings import draw_curves, draw_sandwich
from mosaic_secure.report.pictures import inversion_context

from ..tiny import command, tiny_train
from .reading import BROWSER, read, shown_without_overflow, words

pytestmark = pytest.mark.usefixtures("quick_inversion")


def canaries(name: str, made: int, correct: int, **changes: Any) -> dict[str, Any]:
    guesses = {"canaries": 500, "made": made, "correct": correct}
    row = {"name": name, "guesses": guesses, "epsilon": 4.0, "counts": True, "lower_bound": 0.27}
    return row | {"provable": 4.75, "lower_bound_95": 0.4, "who": "Somebody."} | changes


TESTED = {
    "canaries": [
        canaries("canaries in the prototype sums", 400, 231),
        canaries(
            "canaries against the planned noise of the sums",
            124,
            80,
            epsilon=None,
            lower_bound=None,
            provable=None,
            lower_bound_95=None,
        ),
        canaries("canaries in the final model", 90, 51, counts=False),
    ],
    "sums_seen": 18,
    "epsilon_lower_bound": 0.27,
    "epsilon_provable_at_most": 4.75,
    "p_values": {"canaries in the prototype sums": 1.0},
    "verdict": "pass",
    "sentence": "The claim of epsilon 4 was tested, and stands.",
}
REFUTED = {**TESTED, "verdict": "fail", "epsilon_lower_bound": 4.75, "sentence": "The claim is refuted."}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """audit.json and privacy.json of a tiny run."""
    place = tmp_path_factory.mktemp("page")
    assert tiny_train(place, "--epsilon", "4").status == 0
    outcome = command("audit", place / "run", "--json")
    assert outcome.status == 0, outcome.err
    audit = json.loads(Path(outcome.json["report"]).with_name("audit.json").read_text())
    return audit, json.loads((place / "run" / "privacy.json").read_text())


def page(content: tuple[dict[str, Any], dict[str, Any]], **changes: Any) -> str:
    audit, statement = copy.deepcopy(content)
    return audit_page({**audit, **changes}, statement, PICTURES)


def inverted() -> dict[str, Any]:
    """One attack that found two pictures, as the page wants it."""
    pictures = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), dtype=np.uint8)
    far = np.array([0.4, 0.6])
    attack = Inverted(
        name="pixels",
        what="A search for pixels.",
        images=pictures,
        classes=np.array([0, 1]),
        sureness=far,
        recognised=Rate.of(1, 2),
        nearer=Rate.of(1, 2),
        chance=0.75,
        members=pictures,
        fresh=pictures,
        to_member=far,
        to_fresh=far[::-1],
    )
    left_out = ("Prototypes: the run keeps no expert that was made of them.",)
    return inversion_context(Inversion((attack,), Rate.of(9, 10), left_out, ("zero", "one")), records=True)


PICTURES = inverted()


@pytest.mark.parametrize("changes", [{}, TESTED, REFUTED], ids=["described", "stands", "refuted"])
def test_the_page_is_whole_and_needs_nothing_else(content, changes: dict[str, Any]):
    reader = read(page(content, **changes))
    assert reader.fetched == ["img src"] and 'src="data:image/png;base64,' in page(content, **changes)
    assert "script" not in reader.tags and "link" not in reader.tags
    assert "url(" not in page(content, **changes) and "@import" not in page(content, **changes)
    assert reader.tags.count("h1") == 1 and reader.tags.count("svg") == 2


def test_it_says_what_an_officer_must_know(content):
    said = words(read(page(content)))
    for phrase in (
        "Described, not tested",
        "no attack can catch more than",
        "one record of one client; add or remove one record",
        "A person with several records at one client has a weaker guarantee",
        "describes, and is no verdict",
        "an illustration: passing it proves nothing",
        "too few others to tell",
        "Singling out",
        "Linkability",
        "Inference",
        "Not tested",
        "LiRA and RMIA with shadow models",
        "mosaic-secure audit",
    ):
        assert phrase in said, phrase
    audit, statement = content
    assert statement["guarantee"] in said and audit["config_hash"] in said
    for mechanism in statement["mechanisms"]:
        assert mechanism["name"] in said


def test_a_tested_claim_is_told_with_what_the_test_could_show(content):
    said = words(read(page(content, **TESTED)))
    assert "Tested, and the claim stands" in said and "231 of 400" in said
    assert "these canaries show at most: 4.75" in said and "shown at least: 0.27" in said


def test_what_could_not_refute_the_claim_is_not_called_a_test_of_it(content):
    rows = [{**row, "counts": row["epsilon"] is None} for row in TESTED["canaries"]]
    said = words(read(page(content, **{**TESTED, "canaries": rows, "verdict": "none"})))
    assert "so few canaries could not have refuted epsilon" in said and "Yes: by a fresh run" not in said
    assert "Yes: by a fresh run" in words(read(page(content, **TESTED)))


def test_a_method_without_canaries_is_not_told_to_use_them(content):
    said = words(read(page(content, can_retrain=False, sentence="No verdict.", not_tested=[])))
    assert "--retrain" not in said and "not for this run" in said


def test_a_refuted_claim_promises_nothing(content):
    said = words(read(page(content, **REFUTED)))
    assert "Failed" in said and "which is above the claim" in said
    assert "if the guarantee held" in said and "The run was planned so that" in said
    for promise in ("no attack can", "The model was trained so that"):
        assert promise not in said


def test_what_a_run_is_called_cannot_become_markup(content):
    text = page(content, run="<script>alert(1)</script>")
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_without_a_guarantee_no_ceiling_is_drawn(content):
    text = page(content, epsilon_of_the_run="inf", epsilon_claimed=4.0)
    assert "ceiling of the guarantee" not in text
    said = words(read(text))
    assert (
        "epsilon inf" in said
        and "made without noise" in said
        and "compares what the attacks find with a claim, here 4" in said
    )
    assert (
        "ceiling that the guarantee puts" not in said
        and "change by a factor of at most exp(epsilon), for" not in said
    )


def test_another_claim_than_the_runs_is_not_told_as_its_promise(content):
    said = words(read(page(content, epsilon_claimed=1.0)))
    assert "for this run exp(4) = 54" in said and "Tested was epsilon 1, which is not what the run" in said


def test_noise_that_follows_from_the_seed_is_told(content):
    audit, statement = copy.deepcopy(content)
    statement["randomness"] = {"secure": False, "text": "from the seed"}
    said = words(read(audit_page(audit, statement, PICTURES)))
    assert "protects nobody who knows it" in said and "no attack can catch" not in said


def test_drawings_keep_within_their_frame():
    curves = {f"attack {n}": [(0.0, 0.0), (1e-9, 0.2), (0.5, 1.0), (1.0, 1.0)] for n in range(5)}
    for drawing in (
        draw_curves(curves, lambda fpr: min(1.0, 5 * fpr)),
        draw_sandwich(4, 9, 2),
        draw_sandwich(1, None, None),
    ):
        wide, high = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', drawing).groups())
        points = [
            tuple(map(float, p.split(",")))
            for line in re.findall(r'points="([^"]+)"', drawing)
            for p in line.split()
        ]
        assert points and all(0 <= x <= wide and 0 <= y <= high for x, y in points)
        assert "<title>" in drawing and "<desc>" in drawing


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_real_browser_shows_it_without_overflow_or_error(content, tmp_path: Path, width: int):
    shown_without_overflow(page(content, **TESTED), tmp_path, width)
