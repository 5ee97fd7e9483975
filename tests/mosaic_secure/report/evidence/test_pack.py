"""What goes into a pack, what is refused, and that what is changed in it is named."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mosaic_secure.report.evidence import build
from mosaic_secure.report.evidence.format import sign_index
from mosaic_secure.report.pdf import find_browser
from mosaic_secure.runs import manifest
from mosaic_secure.runs.directory import RunDirectory
from mosaic_secure.runs.encoding import json_document, sha256
from privacy.identity import SigningKey

from ...tiny import command, tiny_train


def run_id(run: Path) -> str:
    return json.loads((run / "manifest.json").read_bytes())["run_id"]


def problems(pack: Path, *options: object) -> list[str]:
    outcome = command("verify", pack, *options, "--json")
    assert outcome.status == (3 if outcome.json["problems"] else 0), outcome.err
    return outcome.json["problems"]


def sign_again(pack: Path, key: SigningKey) -> None:
    """What somebody does who changed the files of a pack and holds a key."""
    index = json.loads((pack / "index.json").read_bytes())
    files = {p.relative_to(pack).as_posix(): p.read_bytes() for p in pack.rglob("*") if p.is_file()}
    index["files"] = {
        name: {"sha256": sha256(data), "bytes": len(data)}
        for name, data in sorted(files.items())
        if name not in ("index.json", "signature.json")
    }
    signature = json.loads(sign_index(key, {}))
    index["signer"] = {name: signature[name] for name in ("algorithm", "public_key", "fingerprint")}
    for entry in index["runs"]:
        entry["manifest_digest"] = json.loads(files[f"runs/{entry['run_id']}/manifest.json"])["digest"]
    (pack / "index.json").write_bytes(json_document(index))
    (pack / "signature.json").write_bytes(sign_index(key, index))


def test_what_is_in_it(made):
    audit = next((made.runs[1] / "audits").iterdir()).name
    documents = {"manifest.json", "privacy.json", "ledgers.json", "metrics.jsonl", "model.json"}
    cards = {f"{card}.{form}" for card in ("model-card", "synthetic-data-card") for form in ("html", "md")}
    audits = {f"audits/{audit}/{name}" for name in ("audit.json", "report.html", "manifest.json")}
    first, second = (f"runs/{run_id(run)}" for run in made.runs)
    front = {"index.html", "index.json", "signature.json", "comparison.html", "comparison.json"}
    wanted = front | {f"{first}/{name}" for name in documents | cards}
    wanted |= {f"{second}/{name}" for name in documents | cards | audits}
    assert set(made.names) == wanted
    for folder, run in zip((first, second), made.runs, strict=True):
        for name in documents:
            assert (made.folder / folder / name).read_bytes() == (run / name).read_bytes()
    with zipfile.ZipFile(made.zip) as archive:
        (top,) = {name.split("/")[0] for name in archive.namelist()}
        assert {name.removeprefix(f"{top}/") for name in archive.namelist()} == wanted
        for name in wanted:
            assert archive.read(f"{top}/{name}") == (made.folder / name).read_bytes()


def test_weights_and_members_stay_with_the_run_and_are_named_by_their_hash(made):
    entry = made.index["runs"][0]
    listed = json.loads((made.runs[0] / "manifest.json").read_bytes())["files"]
    for name in ("global_model.safetensors", "membership.npz", "partition.png", "messages.jsonl"):
        assert entry["artefacts"][name] == listed[name]
    assert not [name for name in made.names if name.endswith((".safetensors", ".npz", ".png"))]
    assert entry["population"] == {"name": "digits", "visibility": "public"} and entry["epsilon"] > 3.9
    assert set(entry["ledger_heads"]) == {"client-0", "client-1", "client-2"}


def test_the_signature_is_plain_ed25519_over_the_canonical_index(made):
    signature = json.loads((made.folder / "signature.json").read_bytes())
    message = json.dumps(
        {"index": made.index, "purpose": "mosaic-secure evidence index 1"},
        sort_keys=True,
        separators=(",", ":"),
    )
    public = bytes.fromhex(made.index["signer"]["public_key"])
    Ed25519PublicKey.from_public_bytes(public).verify(
        bytes.fromhex(signature["signature"]), message.encode("ascii")
    )
    assert made.outcome.json["signer"]["public_key"] == public.hex() == signature["public_key"]


def test_the_key_is_private_and_in_no_file(made):
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.key.parent.stat().st_mode) == 0o700
    secret = made.key.read_bytes()
    for name in made.names:
        data = (made.folder / name).read_bytes()
        assert secret not in data and secret.hex().encode() not in data


def test_it_verifies_as_folder_and_as_zip(made):
    public = made.index["signer"]["public_key"]
    for pack in (made.folder, made.zip):
        found = command("verify", pack, "--json")
        assert found.status == 0 and "integrity, not who signed" in found.out, found.err
        assert found.json["verdict"] == "pass" and found.json["signer"] == public
        assert (found.json["runs"], found.json["audits"], found.json["ledgers"]) == (2, 1, 6)
        assert found.json["files"] == len(made.names)
        pinned = command("verify", pack, "--signer", public)
        assert pinned.status == 0 and "integrity" not in pinned.out


def test_another_signer_is_told(made, tmp_path: Path):
    copy = made.copy(tmp_path)
    sign_again(copy, SigningKey.create(tmp_path / "key"))
    assert problems(copy) == []
    public = made.index["signer"]["public_key"]
    (problem,) = problems(copy, "--signer", public)
    assert problem.startswith("signature.json: signed by ") and problem.endswith(f"not by {public}")
    assert "--signer abc: expected the 64" in command("verify", copy, "--signer", "abc").refusal
    assert "is no evidence pack" in command("verify", made.runs[0], "--signer", public).refusal


def test_the_same_runs_and_key_give_the_same_bytes(made, tmp_path: Path):
    again = tmp_path / "another name"
    assert command("report", *made.runs, "--out", again, "--key", made.key).status == 0
    assert (tmp_path / "another name.zip").read_bytes() == made.zip.read_bytes()
    for name in made.names:
        assert (again / name).read_bytes() == (made.folder / name).read_bytes()


def test_a_change_of_any_file_is_named(made, tmp_path: Path):
    copy = made.copy(tmp_path)
    for name in made.names:
        data = (copy / name).read_bytes()
        for changed in (
            data + b"\n",
            data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :],
        ):
            (copy / name).write_bytes(changed)
            found = problems(copy)
            assert [p for p in found if p.startswith(f"{name}: ")], (name, found)
            signed = {"index.json", "signature.json"}  # of these nobody can tell which was changed
            assert {p.split(": ")[0] for p in found} <= (signed if name in signed else {name}), found
        (copy / name).write_bytes(data)
    assert problems(copy) == []


def test_a_missing_file_is_named(made, tmp_path: Path):
    copy = made.copy(tmp_path)
    for name in made.names:
        (copy / name).rename(tmp_path / "away")
        assert f"{name}: missing" in problems(copy)
        (tmp_path / "away").rename(copy / name)


def test_what_does_not_belong_there_is_named(made, tmp_path: Path):
    copy = made.copy(tmp_path)
    (copy / "runs" / "more.txt").write_text("more")
    (copy / "link.html").symlink_to(copy / "index.html")
    (copy / "away").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(copy / "pipe")
    os.remove(copy / "index.html")
    (copy / "index.html").symlink_to(made.folder / "index.html")
    assert set(problems(copy)) == {
        "link.html: not a plain file",
        "away: not a plain file",
        "pipe: not a plain file",
        "index.html: not a plain file",
        "index.html: missing",
        "runs/more.txt: not in the index",
    }


def forge(pack: Path, run: str, name: str, change: dict[str, Any]) -> None:
    """Change a sealed document, and the manifest with it, so that only what signs for itself can tell."""
    folder = pack / "runs" / run
    content = {**json.loads((folder / name).read_bytes()), **change}
    (folder / name).write_bytes(json_document(content))
    sealed = json.loads((folder / "manifest.json").read_bytes())
    data = (folder / name).read_bytes()
    sealed["files"][name] = {"sha256": sha256(data), "bytes": len(data)}
    sealed["digest"] = manifest._digest(sealed)
    (folder / "manifest.json").write_bytes(json_document(sealed))


def test_a_forged_guarantee_falls_to_the_clients_ledgers(made, tmp_path: Path):
    copy, run = made.copy(tmp_path), run_id(made.runs[0])
    statement = json.loads((copy / "runs" / run / "privacy.json").read_bytes())
    forge(copy, run, "privacy.json", {"epsilon": 1.0, "spent": dict.fromkeys(statement["spent"], 1.0)})
    index = json.loads((copy / "index.json").read_bytes())
    index["runs"][0]["epsilon"] = 1.0
    (copy / "index.json").write_bytes(json_document(index))
    sign_again(copy, SigningKey.create(tmp_path / "key"))
    found = problems(copy)
    assert len(found) == 3, found
    assert all(f"runs/{run}/ledgers.json: client-" in p and "privacy.json claims 1" in p for p in found)


def test_a_ledger_of_another_run_is_named(made, tmp_path: Path):
    copy, (first, second) = made.copy(tmp_path), map(run_id, made.runs)
    ledgers = json.loads((copy / "runs" / second / "ledgers.json").read_bytes())
    forge(copy, first, "ledgers.json", ledgers)
    sign_again(copy, SigningKey.create(tmp_path / "key"))
    found = problems(copy)
    assert found and all(p.startswith(f"runs/{first}/ledgers.json: client-") for p in found), found


def test_a_changed_excerpt_is_named_by_its_client(made, tmp_path: Path):
    copy, run = made.copy(tmp_path), run_id(made.runs[0])
    ledgers = json.loads((copy / "runs" / run / "ledgers.json").read_bytes())
    ledgers["excerpts"]["client-1"]["releases"].pop()
    forge(copy, run, "ledgers.json", ledgers)
    sign_again(copy, SigningKey.create(tmp_path / "key"))
    assert problems(copy) == [
        f"runs/{run}/ledgers.json: client-1: the excerpt is not what its owner has signed"
    ]


def test_whoever_signs_a_confidential_audit_is_told(made, tmp_path: Path):
    copy, run = made.copy(tmp_path), run_id(made.runs[1])
    (folder,) = (copy / "runs" / run / "audits").iterdir()
    record = json.loads((folder / "audit.json").read_bytes())
    (folder / "audit.json").write_text(json.dumps({**record, "client_confidential": True}))
    sealed = manifest.read(folder)
    manifest.write(folder, {name: sealed[name] for name in ("sealed", "run_id", "request")})
    sign_again(copy, SigningKey.create(tmp_path / "key"))
    (problem,) = problems(copy)
    assert problem.endswith("audit.json: is client-confidential, and must not be in a pack")


@pytest.mark.parametrize(
    "change", [[], {"runs": [7]}, {"runs": [{"run_id": "../.."}]}, {"files": {"../x": {}}}]
)
def test_an_index_that_makes_no_sense_is_named(made, tmp_path: Path, change: Any):
    copy = made.copy(tmp_path)
    content = {**made.index, **change} if isinstance(change, dict) else change
    (copy / "index.json").write_text(json.dumps(content, indent=2) + "\n")
    assert [p for p in problems(copy) if p.startswith("index.json: ")]
    copy = made.copy(tmp_path / "newer")
    (copy / "index.json").write_bytes(json_document({**made.index, "schema_version": 2}))
    assert "index.json: schema_version 2; expected 1" in problems(copy)


def test_documents_that_make_no_sense_are_named(made, tmp_path: Path):
    copy, run = made.copy(tmp_path), run_id(made.runs[0])
    forge(copy, run, "ledgers.json", {"excerpts": [1], "anchors": None})
    forge(copy, run, "privacy.json", {"mechanisms": None})
    sign_again(copy, SigningKey.create(tmp_path / "key"))
    assert problems(copy)


# What is refused when a pack is made


def test_runs_that_are_no_evidence_are_refused_in_one_line(made, tmp_path: Path):
    out, first = tmp_path / "out", made.runs[0]

    def refused(*runs: object) -> str:
        said = command("report", *runs, "--out", out, "--key", tmp_path / "key").refusal
        assert not list(tmp_path.glob("*out*")) and not (tmp_path / "key").exists()
        return said

    assert "is not a directory" in refused(tmp_path / "nowhere")
    with RunDirectory.create(tmp_path / "open"):
        pass
    assert "is not sealed" in refused(first, tmp_path / "open")
    assert "give each run once" in refused(first, first)
    (audit,) = (made.runs[1] / "audits").iterdir()
    assert "is not a run of mosaic-secure train" in refused(audit)
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    (copy / "model.json").unlink()
    assert "is damaged, and no evidence: model.json: missing" in refused(copy)


def test_a_confidential_audit_is_refused(made, tmp_path: Path):
    copy = Path(shutil.copytree(made.runs[1], tmp_path / "copy"))
    (audit,) = (copy / "audits").iterdir()
    record = json.loads((audit / "audit.json").read_bytes())
    sealed = manifest.read(audit)
    for value in (True, None, 0):
        (audit / "audit.json").write_text(json.dumps({**record, "client_confidential": value}))
        manifest.write(audit, {name: sealed[name] for name in ("sealed", "run_id", "request")})
        said = command("report", copy, "--out", tmp_path / "out", "--key", tmp_path / "key").refusal
        assert f"audit {audit} is client-confidential" in said
    assert not list(tmp_path.glob("*out*"))


def test_places_that_will_not_do_are_refused_in_one_line(made, tmp_path: Path):
    first = made.runs[0]

    def refused(out: Path, key: Path) -> str:
        return command("report", first, "--out", out, "--key", key).refusal

    key = tmp_path / "key"
    assert "name the folder" in refused(tmp_path / "a.zip", key)
    assert "exists already" in refused(made.folder, key)
    (tmp_path / "b.zip").touch()
    assert "b.zip exists already" in refused(tmp_path / "b", key)
    assert "lies in the run" in refused(first / "pack", key)
    assert "lies in the run" in refused(tmp_path / "c", first / "key")
    assert "keep it elsewhere" in refused(tmp_path / "c", tmp_path / "c" / "key")
    assert "cannot write" in refused(Path("/proc/none/c"), key)
    key.write_bytes(b"0" * 32)
    key.chmod(0o644)
    assert "it must be 0600" in refused(tmp_path / "c", key)
    assert not list(tmp_path.glob("*c*")) and not (first / "key").exists()


def test_an_interrupted_report_leaves_nothing(made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "check_pack", stop)
    outcome = command("report", made.runs[0], "--out", tmp_path / "a" / "out", "--key", made.key)
    assert outcome.status == 130 and "nothing of this pack is kept" in outcome.err
    assert not list((tmp_path / "a").iterdir())


def test_the_key_of_ones_own_is_made_once_and_the_name_is_fresh(made, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    signers = set()
    for _ in range(2):
        outcome = command("report", made.runs[0], "--json")
        assert outcome.status == 0, outcome.err
        assert Path(outcome.json["pack"]).parent.name == "evidence" and Path(outcome.json["zip"]).is_file()
        signers.add(outcome.json["signer"]["public_key"])
    assert len(signers) == 1
    key = tmp_path / "config" / "mosaic-secure" / "evidence.key"
    assert SigningKey.load(key).public.hex() in signers
    assert not (Path(outcome.json["pack"]) / "comparison.html").exists()


@pytest.mark.slow
def test_other_kinds_of_runs(distributed, tmp_path: Path):
    for method in ("local", "fedavg"):
        assert tiny_train(tmp_path / method, "--epsilon", "4", "--method", method).status == 0
    runs = [distributed.path, tmp_path / "local" / "run", tmp_path / "fedavg" / "run"]
    outcome = command("report", *runs, "--out", tmp_path / "pack", "--key", tmp_path / "key", "--json")
    assert outcome.status == 0, outcome.err
    shared, local, fedavg = (tmp_path / "pack" / "runs" / run for run in outcome.json["runs"])
    assert "none that is global" in (local / "model-card.md").read_text()
    assert not (local / "model.json").exists() and not (fedavg / "synthetic-data-card.html").exists()
    card = (shared / "model-card.md").read_text()
    assert "server with key authority" in card and "1 rounds of fine-tuning" in card


# Pages


class Links(html.parser.HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.targets += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]


def test_pages_need_nothing_else_and_lead_only_into_the_pack(made):
    pages = [name for name in made.names if name.endswith(".html") and "/audits/" not in name]
    assert len(pages) == 6
    for name in pages:
        text = (made.folder / name).read_text()
        links = Links(text)
        assert not {"script", "link", "iframe"} & links.tags and "url(" not in text and "@import" not in text
        for target in links.targets:
            inside = (made.folder / name).parent / target
            assert target.startswith("data:image/png;base64,") or inside.is_file(), (name, target)


@pytest.mark.skipif(find_browser() is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_a_real_browser_shows_them_without_overflow_or_error(made, tmp_path: Path, width: int):
    """A line is added that asks the browser itself, and writes the answer where it can be read."""
    ask = """<pre id="answer"></pre><script>
        const page = document.documentElement, fetched = performance.getEntriesByType("resource").length;
        document.getElementById("answer").textContent =
            `wide ${page.scrollWidth} of ${page.clientWidth} fetched ${fetched}`;
        </script></body>"""
    folder = f"runs/{run_id(made.runs[1])}"
    for name in ("index.html", "comparison.html", f"{folder}/model-card.html"):
        place = tmp_path / "page.html"
        place.write_text((made.folder / name).read_text().replace("</body>", ask), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
        options += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
        shown = subprocess.run(
            [find_browser(), *options, place.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        found = re.search(r"wide (\d+) of (\d+) fetched (\d+)", shown.stdout)
        wide, room, fetched = map(int, found.groups())
        assert wide <= room and fetched == 0, name
        assert "CONSOLE" not in shown.stderr


def test_the_cards_say_what_an_officer_must_know(made):
    folder = made.folder / "runs" / run_id(made.runs[1])
    statement = json.loads((folder / "privacy.json").read_bytes())
    for form in ("md", "html"):
        model = (folder / f"model-card.{form}").read_text()
        for phrase in ("Intended use", "Not made for", "Limits", "mlp", "dealt evenly"):
            assert phrase in model, phrase
        assert "confidence of the global model" in model and "Described, not tested" in model
        synthetic = (folder / f"synthetic-data-card.{form}").read_text()
        assert "density ratio" in synthetic and "confidence of the global model" not in synthetic
        assert "generators, trained by DP-SGD" in synthetic
        assert "statistics of private" not in model
    text = (folder / "model-card.md").read_text()
    assert statement["guarantee"] in text
    for limit in statement["not_covered"]:
        assert limit.replace("_", r"\_") in text
    scores = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (accuracy,) = (s["value"] for s in scores if (s["metric"], s["of"]) == ("accuracy", "global"))
    assert f"{accuracy:.4f}" in text
    first = (made.folder / "runs" / run_id(made.runs[0]) / "model-card.md").read_text()
    assert "none was made of this run" in first


def test_an_audit_that_failed_stands_where_the_guarantee_would(made, tmp_path: Path):
    copy = Path(shutil.copytree(made.runs[1], tmp_path / "copy"))
    (audit,) = (copy / "audits").iterdir()
    record = json.loads((audit / "audit.json").read_bytes())
    changed = {**record, "verdict": "fail", "sentence": "The claim is refuted."}
    (audit / "audit.json").write_text(json.dumps(changed))
    sealed = manifest.read(audit)
    manifest.write(audit, {name: sealed[name] for name in ("sealed", "run_id", "request")})
    outcome = command("report", copy, "--out", tmp_path / "pack", "--key", tmp_path / "key")
    assert outcome.status == 0, outcome.err
    for card in (tmp_path / "pack").rglob("*card.md"):
        box = card.read_text().split("\n## ")[0]
        assert "does not hold" in box and "The claim is refuted." in box and "private" not in box
    assert ">Failed<" in (tmp_path / "pack" / "index.html").read_text()


def test_a_comparison_tells_what_changed(made):
    found = json.loads((made.folder / "comparison.json").read_bytes())
    assert [run["run_id"] for run in found["runs"]] == [run_id(run) for run in made.runs]
    assert found["config"] == {"privacy.epsilon": [4.0, 2.0], "distill.steps": [6, 7]}
    small, large = found["guarantee"]["epsilon"][1], found["guarantee"]["epsilon"][0]
    assert small <= 2 < large <= 4 and found["guarantee"]["trust"] == ["local", "local"]
    assert (
        len(found["scores"]["accuracy of global"]) == 2 and None not in found["scores"]["accuracy of global"]
    )
    assert found["attacks"]["verdict"] == [None, "Described, not tested"]
    page = (made.folder / "comparison.html").read_text()
    for phrase in (
        "privacy.epsilon",
        "distill.steps",
        "epsilon *",
        "accuracy of global",
        "Described, not tested",
    ):
        assert phrase in page, phrase
    assert "prototypes.dim" not in page


def test_what_a_run_is_called_cannot_become_markup(finished, tmp_path: Path):
    name = "<b>bold [x](y)| `z`"
    copy = Path(shutil.copytree(finished.path, tmp_path / name))
    outcome = command("report", copy, "--out", tmp_path / "pack", "--key", tmp_path / "key", "--json")
    assert outcome.status == 0, outcome.err
    folder = tmp_path / "pack" / "runs" / outcome.json["runs"][0]
    assert "<b>" not in (folder / "model-card.html").read_text()
    title = (folder / "model-card.md").read_text().splitlines()[0]
    assert r"(\<b\>bold \[x\](y)\| \`z\`)" in title
