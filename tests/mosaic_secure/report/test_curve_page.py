"""The page of a curve, from numbers made by hand: what it says, and that it needs nothing else."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mosaic_secure.config import load_config
from mosaic_secure.report.comparison_table import Row, mean_interval
from mosaic_secure.report.curve.ablation import Ablation
from mosaic_secure.report.curve.audits import Attacked, Audited
from mosaic_secure.report.curve.choice import Choice
from mosaic_secure.report.curve.cost import Looking
from mosaic_secure.report.curve.drawings import Mark, Scale, Series, draw_bars, draw_over_epsilon
from mosaic_secure.report.curve.files import write_files
from mosaic_secure.report.curve.gather import Curve
from mosaic_secure.report.curve.page import curve_page
from mosaic_secure.report.curve.point import Point
from mosaic_secure.report.curve.request import Wanted
from mosaic_secure.report.curve.scores import RunScores

from .reading import BROWSER, read, shown_without_overflow, words

COMMAND = "mosaic-secure curve --epsilons 1,4 --out <here>"
PARTS = (
    {"without": "(everything on)", "teacher": 0.9, "global_model": 0.91, "fresh_cnn": None, "worth": None},
    {"without": "gate", "teacher": 0.8, "global_model": 0.89, "fresh_cnn": None, "worth": 0.02},
    {"without": "sampler", "teacher": 0.9, "global_model": 0.92, "fresh_cnn": None, "worth": -0.01},
)
MECHANISM = {
    "name": "gradient",
    "share_of_mu_squared": 0.6,
    "noise_multiplier": 5.53,
    "rounds": 16,
    "own_epsilon": 2.9,
    "seen_in_the_clear_by": "server and key authority, as a sum over clients",
}
LOOKING = Looking(public=True, runs=8, releasing=4, epsilon=10.0, delta=4e-4)


def statement(epsilon: float, *mechanisms: dict[str, Any]) -> dict[str, Any]:
    """What a page reads of a privacy.json."""
    return {
        "unit": "one record of one client",
        "neighbours": "add or remove one record",
        "guarantee": f"For each client, all that leaves it is ({epsilon:g}, 0.0001)-differentially private.",
        "target_epsilon": epsilon,
        "delta": 1e-4,
        "records_of_one_person": [
            {"records": 1, "epsilon": epsilon},
            {"records": 5, "epsilon": 5.5 * epsilon},
        ],
        "mechanisms": list(mechanisms),
    }


def row(method: str, epsilon: float, values: tuple[float, ...]) -> Row:
    mean, low, high = mean_interval(values) if values else (None, None, None)
    by_seed = dict(enumerate(values))
    return Row(
        method=method,
        preset="accuracy" if method == "mosaic" else None,
        trust="local",
        alpha=0.1,
        epsilon_target=epsilon,
        epsilon_spent=0.999 * epsilon,
        delta=1e-4,
        accuracy=mean,
        low=low,
        high=high,
        seeds=(0, 1),
        teacher_accuracy=None,
        seconds=1.0,
        score="global",
        by_seed=by_seed,
    )


def scores(worst: float) -> RunScores:
    by_class = {"zero": worst, "one": 0.97}
    by_client = {"client-0": 0.5 * (worst + 0.97), "client-1": 0.97}
    return RunScores(by_class, by_client, {"client-0": (20, 20), "client-1": (0, 47)}, ece=0.05)


def audited(verdict: str = "pass", lower: float | None = 0.3) -> Audited:
    attacks = {
        "model: confidence": Attacked(0.012, 0.004, 0.03),
        "synthetic: density": Attacked(0.0, 0.0, 0.02),
    }
    return Audited(attacks, verdict, "The claim was tested.", lower, 4.5, "runs/x/audits/1")


def curve(**changes: Any) -> Curve:
    points = tuple(
        Point(
            row=row("mosaic", epsilon, (mean - 0.01, mean + 0.01)),
            ceiling=ceiling,
            scores={0: scores(worst), 1: scores(worst)},
            statement=statement(
                epsilon, MECHANISM, {**MECHANISM, "name": "counts", "share_of_mu_squared": 0.4}
            ),
        )
        for epsilon, mean, ceiling, worst in (
            (1.0, 0.81, 0.027, 0.41),
            (4.0, 0.93, 0.544, 0.83),
            (math.inf, 0.98, 1.0, 0.95),
        )
    )
    central = tuple(Point(row=row("central", e, (0.9, 0.92)), ceiling=1.0) for e in (1.0, 4.0))
    fields: dict[str, Any] = {
        "title": "mnist, 10 clients, Dirichlet(0.1)",
        "config": load_config("mnist", {}),
        "points": points,
        "baselines": {"central": central},
        "failed": (),
        "ended": 10,
        "planned": 10,
        "choice": Choice(4.0, "Epsilon 4 is the smallest."),
        "wanted": Wanted(min_accuracy=0.9),
        "looking": LOOKING,
        "notes": ("a note of the table",),
    }
    return Curve(**{**fields, **changes})


def attacked(verdict: str = "pass") -> Curve:
    plain = curve(taken_apart=Ablation("0123456789abcdef", PARTS))
    points = [
        dataclasses.replace(
            p, audits={seed: audited(verdict, 0.3 if p.promises else None) for seed in (0, 1)}
        )
        for p in plain.points
    ]
    return dataclasses.replace(plain, points=tuple(points))


def private() -> Curve:
    points = tuple(
        Point(row=row("mosaic", e, ()), ceiling=0.1, statement=statement(e, MECHANISM)) for e in (1.0, 2.0)
    )
    looking = Looking(public=False, runs=4, releasing=4, epsilon=6.0, delta=4e-5)
    note = "no accuracy: these data have no public test part, so no run reports one"
    return curve(points=points, baselines={}, choice=None, looking=looking, notes=(note,))


def page(made: Curve) -> str:
    return curve_page(made, COMMAND, "2025-01-01 00:00 UTC")


@pytest.mark.parametrize("make", [curve, attacked, private], ids=["plain", "attacked", "private"])
def test_the_page_is_whole_and_needs_nothing_else(make):
    text = page(make())
    reader = read(text)
    assert not reader.fetched and "script" not in reader.tags and "link" not in reader.tags
    assert "url(" not in text and "@import" not in text and reader.tags.count("h1") == 1
    assert reader.tags.count("figure") == reader.tags.count("svg") > 0
    assert reader.tags.count("table") > reader.tags.count("figure")  # every picture has one, and more
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    assert "<here>" not in text and "&lt;here&gt;" in text


def test_every_point_tells_its_runs_to_pointer_keyboard_and_screen_reader():
    text = page(curve())
    (picture,) = re.findall(r'<svg[^>]*aria-label="Accuracy over epsilon.*?</svg>', text)
    marks = re.findall(r'<g class="mark" tabindex="0" role="img" aria-label="([^"]+)">', picture)
    assert len(marks) == 3 + 2 + 2  # mosaic, central, and what is published for MNIST
    assert "mosaic, epsilon 4; 93\N{NO-BREAK SPACE}% [" in marks[1] and "seed 0: 92" in marks[1]
    assert marks[2].startswith("mosaic, no noise; ")
    assert ".mark:focus .told" in text and ".mark:hover .told" in text


def test_it_says_what_an_officer_must_know():
    said = words(read(page(attacked())))
    for phrase in (
        "Epsilon 4 is the smallest.",
        "costs nobody's privacy",
        "Tramèr and Boneh",
        "None of these was measured in the setting of this page",
        "describes and is no verdict",
        "model: confidence: 1.2 %",
        "could have shown",
        "+2.0 points",
        "-1.0 points",
        "server and key authority, as a sum over clients",
        "A note of the table.",
        "was chosen by looking",
        "client-1 47 one",
    ):
        assert phrase in said, phrase
    assert "At epsilon 4 Mosaic reaches 93" in said and "without noise, 98" in said


def test_without_audit_or_ablation_it_says_how_to_have_them():
    said = words(read(page(curve())))
    for option in ("--audit", "--audit --retrain", "--ablate"):
        assert option in said
    assert "not attacked" in said and "Not measured" in said


def test_every_picture_has_a_sentence_of_its_own_numbers():
    said = words(read(page(attacked())))
    for phrase in (
        "without noise, privacy costs 17.0 points at epsilon 1, 5.0 points at epsilon 4.",
        "At epsilon 4 no attack can pass 54.4 %; the best of ours (",
        "The most that was shown is 0.3, where epsilon 1 is claimed.",
        "Between the best and the worst class lie ",
        "Confidence and accuracy lie furthest apart at epsilon ",
        "Most of it, 60 %, goes to gradient.",
        "Without gate the global model loses most: 2.0 points.",
    ):
        assert phrase in said, phrase


def test_a_refuted_claim_stands_first():
    text = page(attacked("fail"))
    assert 'class="verdict fail"' in text
    assert "An audit refutes a claim of this sweep" in words(read(text))


def test_on_private_data_nothing_but_the_cost_and_the_guarantee_is_told():
    said = words(read(page(private())))
    assert "every point of a sweep is a release" in said and "No run reports an accuracy" in said
    assert "Who pays" not in said and "calibration error" not in said and "What the budget buys" in said


def test_on_private_data_a_ceiling_is_that_of_one_run_and_the_whole_sweep_has_its_own():
    made = private()
    said = words(read(page(made)))
    assert "no attack that sees one run alone can pass 10" in said
    assert made.looking.ceiling > 0.99 and "whoever saw the whole sweep is limited to 99.8" in said
    exposed = dataclasses.replace(made.points[0], exposed=made.looking.ceiling)
    assert exposed.candidate.tpr == exposed.candidate.guaranteed == made.looking.ceiling


def test_what_stands_behind_an_epsilon_is_on_the_page():
    said = words(read(page(curve())))
    for phrase in (
        "(4, 0.0001)-differentially private",
        "0.0001",
        "trust local",
        "22 for 5",
        "preset accuracy",
    ):
        assert phrase in said, phrase
    config = load_config("mnist", {"privacy.trust": "distributed", "privacy.honest_clients": 8})
    said = words(read(page(curve(config=config))))
    assert "distributed; baselines: local" in said and "anybody can conclude" not in said


def test_noise_from_a_seed_is_told_first_and_promises_nothing():
    looking = dataclasses.replace(LOOKING, insecure=True)
    text = page(curve(looking=looking))
    assert 'class="verdict fail"' in text and "Nothing is protected" in words(read(text))
    assert "protects nobody" in looking.sentence


def test_what_data_are_called_cannot_become_markup():
    text = page(curve(title="<script>alert(1)</script>"))
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_pictures_keep_within_their_frame():
    marks = [
        Mark(e, v, (0.0, 1.0), ("a line that is rather long, of one run",) * 6)
        for e, v in ((0.5, 1.0), (8, 0))
    ]
    series = [Series(f"series {n}", [*marks, Mark(math.inf, 0.5, None, ("x",))]) for n in range(5)]
    for drawing in (
        draw_over_epsilon(
            "It", Scale.percent("accuracy", [0.0, 1.0]), series, {"line": [(0.5, 0.1), (8, 1)]}
        ),
        draw_bars("It", [("a", 0.4, "40 %"), ("b", -0.1, "-10 %"), ("c", 0.0, "0")]),
        draw_bars("It", [("a", 0.0, "0")]),
    ):
        wide, high = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', drawing).groups())
        corners = [
            tuple(map(float, p.split(",")))
            for line in re.findall(r'points="([^"]+)"', drawing)
            for p in line.split()
        ]
        for x, y, w, h in re.findall(r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', drawing):
            corners += [(float(x), float(y)), (float(x) + float(w), float(y) + float(h))]
        assert corners and all(0 <= x <= wide and 0 <= y <= high for x, y in corners)


def test_files_beside_the_page(tmp_path: Path):
    written = write_files(tmp_path, attacked(), COMMAND)
    assert [path.name for path in written] == [
        "curve.html",
        "curve.svg",
        "curve.png",
        "curve.json",
        "curve.csv",
    ]
    assert Image.open(tmp_path / "curve.png").size[0] == 1200
    assert (tmp_path / "curve.svg").read_text().count("<svg") == 1
    names = {path.name for path in write_files(tmp_path / "private", private(), COMMAND)}
    assert names == {"curve.html", "curve.json", "curve.csv"}


def test_a_point_tells_the_strongest_attack_and_a_choice_its_upper_end():
    point = attacked().points[1]
    assert point.strongest[0] == "model: confidence" and point.to_dict()["attack_tpr_at_fpr_0.01"] == 0.012
    assert point.candidate.audited and point.candidate.tpr == 0.03  # two runs alike make an audit no surer
    assert point.to_dict()["epsilon_lower_bound"] == 0.3
    alone = dataclasses.replace(point, audits={0: audited()})
    assert alone.candidate.tpr == 0.03  # the interval of the audit itself
    one_has_more = {**audited().attacks, "model: another": Attacked(0.2, 0.1, 0.3)}
    more = {0: audited(), 1: dataclasses.replace(audited(), attacks=one_has_more)}
    assert dataclasses.replace(point, audits=more).candidate.tpr == 0.3
    assert curve().points[1].candidate.tpr == 0.544  # the ceiling of the guarantee


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_real_browser_shows_it_without_overflow_or_error(tmp_path: Path, width: int):
    shown_without_overflow(page(attacked()), tmp_path, width)
