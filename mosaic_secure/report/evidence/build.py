"""Build a pack: read the runs, write cards and index, sign, check what was made, and only then name it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_secure import __version__
from mosaic_secure.errors import UserError
from mosaic_secure.report.document import to_html, to_markdown
from mosaic_secure.report.evidence.archive import write_zip
from mosaic_secure.report.evidence.cards import model_card, synthetic_card
from mosaic_secure.report.evidence.check import check_pack
from mosaic_secure.report.evidence.comparison import comparison_page, comparison_record
from mosaic_secure.report.evidence.contents import METRICS, PackedRun, read_run
from mosaic_secure.report.evidence.curves import (
    RECORD,
    PackedCurve,
    Told,
    curve_problems,
    is_curve,
    read_curve,
)
from mosaic_secure.report.evidence.format import INDEX, KIND, SIGNATURE, describe_signer, sign_index
from mosaic_secure.report.evidence.front import front_page
from mosaic_secure.runs.encoding import json_document, sha256
from privacy.identity import SigningKey
from privacy.storage import make_private_directory, sync_directory, write_durably

__all__ = ["BuiltPack", "build_pack", "default_key_path", "default_pack_path"]

PAGE = "index.html"
CURVES = "curves"
NOT_IN_IT = (
    "weights, synthetic records, lists of members, pictures of who held what, message logs: they stay with "
    "the runs, and artefacts names each by its hash"
)


@dataclass(frozen=True)
class BuiltPack:
    """A finished pack: its folder, its zip, the index as written, and the signer's 32-byte public key."""

    folder: Path
    zip: Path
    index: dict[str, Any]
    public: bytes

    def to_dict(self) -> dict[str, Any]:
        """For JSON output."""
        return {
            "pack": str(self.folder),
            "zip": str(self.zip),
            "files": len(self.index["files"]) + 2,
            "runs": [run["run_id"] for run in self.index["runs"]],
            "curves": [curve["name"] for curve in self.index["curves"]],
            "audits": sum(len(run["audits"]) for run in self.index["runs"]),
            "signer": self.index["signer"],
        }


def default_pack_path(parent: str | Path = "evidence") -> Path:
    """A fresh name under `parent`, for folder and zip. Nothing is created."""
    while True:
        path = Path(parent) / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        if not path.exists() and not _zip_of(path).exists():
            return path


def default_key_path() -> Path:
    """The user's own signing key: ``mosaic-secure/evidence.key`` in ``$XDG_CONFIG_HOME`` or ``~/.config``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "mosaic-secure" / "evidence.key"


def build_pack(runs: Sequence[Path], out: Path | None = None, key: Path | None = None) -> BuiltPack:
    """Build, sign and check the pack of these runs, as the folder `out` and the file `out`.zip.

    The same runs and key give the same bytes. Nothing is left under the final names unless the whole pack
    verifies.

    Args:
        runs: run directories, each another run; or folders of sweeps, of which every run enters.
        out: the folder; it must not exist, nor its zip. A fresh one under evidence/ when None.
        key: file of the signing key, made on first use; the user's own when None.

    Raises:
        UserError: a run may not be packed, or a place cannot be written; one line says which and why.
        PrivacyError: the key cannot be used.
    """
    target, key = out or default_pack_path(), key or default_key_path()
    _check_places(target, key, runs)
    curves = [read_curve(path) for path in runs if is_curve(path)]
    own = [path for path in runs if not is_curve(path)]
    packed: list[PackedRun] = []
    for path in (*own, *(path for curve in curves for path in curve.runs)):
        run = read_run(path)
        twin = next((other for other in packed if other.id == run.id), None)
        if twin is not None:
            raise UserError(f"run {path}: is run {run.id}, as {twin.name} is; give each run once")
        packed.append(run)
    told = {
        run.id: Told.of(run.manifest, run.documents[METRICS], [audit.record for audit in run.audits])
        for run in packed
    }
    for curve in curves:
        wrong = curve_problems(curve.record, told)
        if wrong:
            raise UserError(f"curve {curve.name}: {RECORD} {wrong[0]}; ask for the curve again")
    try:
        signer = SigningKey.load_or_create(key)
    except OSError as error:
        raise UserError(
            f"cannot write the signing key {key}: {error.strerror}; name another by --key"
        ) from error
    files = _files(packed, len(own), curves, signer)
    data = json_document(_index(packed, curves, files, signer))
    index = json.loads(data)  # as a reader will find it: that is what is signed
    files |= {INDEX: data, SIGNATURE: sign_index(signer, index)}
    try:
        _write(target, f"evidence-{sha256(data)[:16]}", files)
    except OSError as error:
        raise UserError(f"cannot write the pack {target}: {error.strerror or error}") from error
    return BuiltPack(target, _zip_of(target), index, signer.public)


def _zip_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.zip")


def _check_places(target: Path, key: Path, runs: Sequence[Path]) -> None:
    if target.suffix == ".zip":
        raise UserError(f"--out {target}: name the folder; the zip is written beside it")
    for place in (target, _zip_of(target)):
        if place.exists() or place.is_symlink():
            raise UserError(f"--out {target}: {place} exists already; choose another name")
    inside = key.resolve().is_relative_to(target.resolve())
    if inside:
        raise UserError(f"--key {key}: lies in the pack; the key is secret, keep it elsewhere")
    for run in runs:
        for option, place in (("--out", target), ("--key", key)):
            if place.resolve().is_relative_to(run.resolve()):
                raise UserError(f"{option} {place}: lies in the run {run}, which does not change")


def _files(
    runs: Sequence[PackedRun], compared: int, curves: Sequence[PackedCurve], signer: SigningKey
) -> dict[str, bytes]:
    """All files but index and signature; the first `compared` runs were given one by one."""
    files: dict[str, bytes] = {}
    for number, curve in enumerate(curves, 1):
        files |= {f"{CURVES}/{number}/{name}": data for name, data in curve.files.items()}
    for run in runs:
        folder = f"runs/{run.id}"
        files |= {f"{folder}/{name}": data for name, data in run.documents.items()}
        for audit in run.audits:
            files |= {f"{folder}/audits/{audit.id}/{name}": data for name, data in audit.files.items()}
        cards = {"model-card": model_card(run)}
        if run.synthetic:
            cards["synthetic-data-card"] = synthetic_card(run)
        for name, card in cards.items():
            files[f"{folder}/{name}.html"] = to_html(card).encode()
            files[f"{folder}/{name}.md"] = to_markdown(card).encode()
    if compared > 1:
        record = comparison_record(runs[:compared])
        page = comparison_page(runs[:compared], record)
        files["comparison.html"] = to_html(page).encode()
        files["comparison.json"] = json_document(record)
    files[PAGE] = to_html(front_page(runs, compared, curves, signer.public)).encode()
    return files


def _index(
    runs: Sequence[PackedRun], curves: Sequence[PackedCurve], files: dict[str, bytes], signer: SigningKey
) -> dict[str, Any]:
    return {
        "kind": KIND,
        "mosaic_secure": __version__,
        "signer": describe_signer(signer.public),
        "runs": [_entry(run, files) for run in runs],
        "curves": [
            {"folder": f"{CURVES}/{number}", "name": curve.name} for number, curve in enumerate(curves, 1)
        ],
        "not_in_it": NOT_IN_IT,
        "files": {name: {"sha256": sha256(files[name]), "bytes": len(files[name])} for name in sorted(files)},
    }


def _entry(run: PackedRun, files: dict[str, bytes]) -> dict[str, Any]:
    accuracy = next((s.value for s in run.scores if (s.metric, s.of) == ("accuracy", "global")), None)
    return {
        "run_id": run.id,
        "name": run.name,
        "manifest_digest": run.manifest["digest"],
        "config_hash": run.manifest["config_hash"],
        "mosaic_secure": run.manifest.get("mosaic_secure"),
        "versions": run.manifest.get("versions", {}),
        "method": run.config["method"],
        "population": run.statement["population"],
        "epsilon": run.statement["epsilon"],
        "delta": run.statement["delta"],
        "trust": run.statement["trust"],
        "clients": run.statement["clients"],
        "accuracy": accuracy,
        "ledger_heads": {client: head.to_dict() for client, head in run.heads.items()},
        "audits": [{"id": audit.id, "verdict": audit.record["verdict"]} for audit in run.audits],
        "artefacts": {
            name: entry
            for name, entry in run.manifest["files"].items()
            if f"runs/{run.id}/{name}" not in files
        },
    }


def _write(target: Path, top: str, files: dict[str, bytes]) -> None:
    """Write folder and zip under hidden names, check both, and give them their names."""
    make_private_directory(target.parent)
    hidden = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
    hidden_zip = hidden.with_name(f"{hidden.name}.zip")
    named = False
    try:
        for name, data in files.items():
            write_durably(hidden / name, data)
        write_zip(hidden_zip, top, files)
        for made in (hidden, hidden_zip):
            problems = check_pack(made).problems
            if problems:
                raise UserError(f"the pack does not verify, and is not kept: {problems[0]}")
        os.link(hidden_zip, _zip_of(target))  # refuses to replace what came in between
        named = True
        os.rename(hidden, target)
        named = False
        sync_directory(target.parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        hidden_zip.unlink(missing_ok=True)
        if named:  # the zip has its name, and the folder did not get one
            _zip_of(target).unlink(missing_ok=True)
