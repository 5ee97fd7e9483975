"""Zips that were made to harm: nothing is unpacked, nothing outside is touched, every oddity is named."""

from __future__ import annotations

import stat
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ...tiny import command

Entries = dict[zipfile.ZipInfo, bytes]


def rewritten(made, place: Path, change: Callable[[Entries, str], None]) -> list[str]:
    """What is said of the pack's zip after its entries were changed."""
    with zipfile.ZipFile(made.zip) as archive:
        entries = {entry: archive.read(entry) for entry in archive.infolist()}
    top = next(iter(entries)).filename.split("/")[0]
    change(entries, top)
    with zipfile.ZipFile(place / "bad.zip", "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    before = sorted(place.rglob("*"))
    outcome = command("verify", place / "bad.zip", "--json")
    assert sorted(place.rglob("*")) == before
    assert outcome.status == (3 if outcome.json["problems"] else 0), outcome.err
    return outcome.json["problems"]


def named(entries: Entries, name: str) -> zipfile.ZipInfo:
    return next(entry for entry in entries if entry.filename.endswith(name))


def test_a_zip_made_by_another_program_passes(made, tmp_path: Path):
    def order(entries: Entries, top: str) -> None:
        for entry in list(entries):
            other = zipfile.ZipInfo(entry.filename, (2020, 2, 3, 4, 5, 6))
            entries[other] = entries.pop(entry)

    assert rewritten(made, tmp_path, order) == []


def test_changed_missing_and_extra_files_of_a_zip_are_named(made, tmp_path: Path):
    def change(entries: Entries, top: str) -> None:
        entries[named(entries, "comparison.json")] = b"{}"
        page = named(entries, "comparison.html")
        entries[page] = entries[page][:-1] + b" "
        del entries[named(entries, f"{top}/index.html")]
        entries[zipfile.ZipInfo(f"{top}/more.txt")] = b"more"
        entries[zipfile.ZipInfo("beside.txt")] = b"more"

    found = rewritten(made, tmp_path, change)
    assert {problem.split(": ")[0] for problem in found} == {
        "comparison.json",
        "comparison.html",
        "index.html",
        "more.txt",
        "beside.txt",
    }
    assert "index.html: missing" in found and "more.txt: not in the index" in found


def test_a_zip_without_its_index_is_named(made, tmp_path: Path):
    def change(entries: Entries, top: str) -> None:
        del entries[named(entries, f"{top}/index.json")]
        entries[zipfile.ZipInfo("beside.txt")] = b"more"

    assert "index.json: missing" in rewritten(made, tmp_path, change)


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/outside", "runs/../../outside", "C:\\outside", "a\nb", ".hidden", "x/" * 20 + "y"],
)
def test_names_that_lead_out_are_named_and_go_nowhere(made, tmp_path: Path, name: str):
    def change(entries: Entries, top: str) -> None:
        entries[zipfile.ZipInfo(name)] = b"x"

    (problem,) = rewritten(made, tmp_path, change)
    assert problem.endswith(": a name that no pack has") and "\n" not in problem


def test_links_twins_and_encrypted_entries_are_named(made, tmp_path: Path):
    def change(entries: Entries, top: str) -> None:
        link = zipfile.ZipInfo(f"{top}/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        entries[link] = b"/etc/passwd"
        entries[zipfile.ZipInfo(f"{top}/index.html")] = b"twin"
        odd = zipfile.ZipInfo(f"{top}/odd")
        odd.compress_type = zipfile.ZIP_LZMA
        entries[odd] = b"x"

    with pytest.warns(UserWarning, match="Duplicate name"):
        found = rewritten(made, tmp_path, change)
    assert set(found) == {
        "link: not a plain file",
        "index.html: is there twice",
        "odd: is compressed in a way that no pack is",
    }


def test_a_bomb_is_not_inflated(made, tmp_path: Path):
    def change(entries: Entries, top: str) -> None:
        zeros = bytes(200 << 20)
        for name in ("comparison.json", "index.html"):
            entries[named(entries, f"{top}/{name}")] = zeros
        bomb = zipfile.ZipInfo(f"{top}/bomb")
        bomb.compress_type = zipfile.ZIP_DEFLATED
        entries[bomb] = zeros

    found = rewritten(made, tmp_path, change)
    assert {problem.split(": ")[0] for problem in found} == {"comparison.json", "index.html", "bomb"}
    assert (tmp_path / "bad.zip").stat().st_size < 3 << 20
    tracemalloc.start()
    assert command("verify", tmp_path / "bad.zip").status == 3
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 32 << 20


def test_an_index_as_large_as_a_bomb_is_not_read(made, tmp_path: Path):
    def change(entries: Entries, top: str) -> None:
        entries[named(entries, f"{top}/index.json")] = bytes(100 << 20)

    assert "index.json: cannot be read, or is far too large" in rewritten(made, tmp_path, change)


def test_an_entry_that_lies_about_its_size_is_named(made, tmp_path: Path):
    """The table of contents says what the index says; the bytes behind it are others."""
    data = bytearray(made.zip.read_bytes())
    with zipfile.ZipFile(made.zip) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("/comparison.html"))
        at = entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2
    data[at] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(data)
    outcome = command("verify", tmp_path / "bad.zip", "--json")
    assert outcome.status == 3
    assert [p.split(": ")[0] for p in outcome.json["problems"]] == ["comparison.html"]


def test_what_is_no_pack_is_one_line(made, tmp_path: Path):
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "empty.zip").touch()
    whole = made.zip.read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-50])
    (tmp_path / "more.zip").write_bytes(whole + b"more")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "no pack")
    end = bytearray(whole)
    end[-10:-6] = (64 << 20).to_bytes(4, "little")  # a table of contents of 64 MB
    (tmp_path / "large.zip").write_bytes(end)
    for name in ("text", "empty", "cut", "more", "other", "large"):
        line = command("verify", tmp_path / f"{name}.zip").refusal
        assert f"{name}.zip is no evidence pack" in line, line
    assert str(tmp_path) in command("verify", tmp_path).refusal
    assert "nowhere" in command("verify", tmp_path / "nowhere").refusal
