"""The table of broken steps fits the code, and the tool that writes it believes only a real failure."""

from __future__ import annotations

from pathlib import Path

import pytest

STEP = "def noise(x):\n    return x + 1\n"
TEST = """
import pytest
from step import noise

@pytest.mark.parametrize("x", [-1, 2])
def test_noise(x):
    assert noise(x) != x
"""


@pytest.fixture(scope="module")
def tool(load):
    return load("mutations")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    (tmp_path / "step.py").write_text(STEP)
    (tmp_path / "tests" / "test_step.py").write_text(TEST)
    return tmp_path


def mutation(tool, new: str, old: str = "x + 1"):
    return tool.Mutation("m", "why.", "step.py", old, new, ("tests/test_step.py::test_noise",))


def test_the_table_lists_the_mutations_and_each_has_its_place_in_the_code(tool, capsys):
    assert tool.main(["--check"]) == 0, capsys.readouterr().err
    names = [made.name for made in tool.read(tool.HOUSE)]
    assert len(names) == 12


@pytest.mark.parametrize(
    ("new", "problem"),
    [
        ("x", None),
        ("abs(x)", None),  # one of two cases is enough
        ("x - 1", "survived tests/test_step.py::test_noise"),
        ("missing", "failed by something else: NameError"),
        ("x +", "is no Python"),
    ],
)
def test_only_a_failed_assertion_counts(tool, house: Path, new: str, problem: str | None):
    found, _ = tool.break_one(house, mutation(tool, new), 60)
    assert found is None if problem is None else problem in found
    assert (house / "step.py").read_text() == STEP


def test_a_test_that_cannot_even_start_does_not_count(tool, house: Path):
    found, _ = tool.break_one(house, mutation(tool, "def other", old="def noise"), 60)
    assert found.startswith("did not get as far as a test")


def test_a_test_that_hangs_is_ended(tool, house: Path):
    found, seconds = tool.break_one(house, mutation(tool, "__import__('time').sleep(60)"), 3)
    assert found == "ran out of time" and seconds < 30


def test_tests_that_fail_unbroken_prove_nothing(tool, house: Path):
    tool.check_unbroken(house, [mutation(tool, "x")], 60)
    (house / "step.py").write_text(STEP.replace("1", "0"))
    with pytest.raises(tool.Unfit, match="unbroken, a test does not pass: tests/test_step.py::test_noise"):
        tool.check_unbroken(house, [mutation(tool, "x")], 60)


@pytest.mark.parametrize(("old", "times"), [("x + 2", 0), ("x", 2)])
def test_a_place_that_is_not_found_once_is_refused(tool, house: Path, old: str, times: int):
    with pytest.raises(tool.Unfit, match=f"occurs {times} times in step.py"):
        mutation(tool, "", old).broken(house)


def test_a_table_that_lists_others_is_refused(tool, house: Path):
    (house / "docs").mkdir()
    made = mutation(tool, "x")
    with pytest.raises(tool.Unfit, match="is missing"):
        tool.check(house, [made])
    (house / "docs" / "mutations.md").write_text(tool.page([made], [1.0]))
    tool.check(house, [made])
    for others in (
        [],
        [made, mutation(tool, "x", old="y")],
        [tool.Mutation("n", *list(vars(made).values())[1:])],
    ):
        with pytest.raises(tool.Unfit, match="mutations.md"):
            tool.check(house, others)
