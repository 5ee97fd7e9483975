"""The folder of an audit: found whole or not at all, and nothing but leftovers of audits is ever removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from mosaic_secure.audit.working_folder import SHADOWS, working_folder
from mosaic_secure.errors import UserError


def test_it_has_its_name_when_it_is_kept(tmp_path: Path):
    with working_folder(tmp_path / "audits") as folder:
        (folder.path / "audit.json").write_text("{}")
        assert not folder.final.exists()
        folder.keep()
    assert [path.name for path in folder.final.iterdir()] == ["audit.json"] and not folder.path.exists()


def test_without_being_kept_it_leaves_nothing(tmp_path: Path):
    with pytest.raises(ValueError), working_folder(tmp_path / "audits") as folder:
        (folder.path / "half").write_text("")
        raise ValueError
    assert not list(tmp_path.iterdir())


def test_what_lies_beside_is_not_its_own(tmp_path: Path):
    """A folder of the user's own may hold anything, hidden things above all."""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref")
    (tmp_path / ".bashrc").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".20260101-000000-abcd").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".20260101-000001-abcd").mkdir()  # a killed audit left this
    (tmp_path / SHADOWS).mkdir()
    with working_folder(tmp_path):
        names = {path.name for path in tmp_path.iterdir()}
    assert {".git", ".bashrc", "elsewhere", ".20260101-000000-abcd", SHADOWS} <= names
    assert ".20260101-000001-abcd" not in names
    assert (tmp_path / ".git" / "HEAD").read_text() == "ref"


def test_another_audit_at_work_is_left_alone(tmp_path: Path):
    with working_folder(tmp_path) as first, working_folder(tmp_path) as second:
        assert first.path.exists() and second.path.exists()


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path):
    (tmp_path / "audits").write_text("a file")
    with pytest.raises(UserError, match="cannot write in"), working_folder(tmp_path / "audits"):
        pass
