"""A client on a machine of its own finds its records where it says, whatever the server's plan says."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mosaic_secure import __version__
from mosaic_secure.client.own_data import Places, check_own_data
from mosaic_secure.client.session import Session
from mosaic_secure.config import RunConfig, config_hash, load_config
from mosaic_secure.data import ClientDataError, check_available, load_client, load_partition
from mosaic_secure.engine.discovery import discover
from mosaic_secure.engine.inprocess import FIRST_NODE_ID, InProcessGrid
from mosaic_secure.engine.local import Venue, train
from mosaic_secure.engine.parties import provision
from mosaic_secure.errors import UserError
from mosaic_secure.plan import build_plan
from mosaic_secure.protocol.messages import LocalTrainingRequest

from ..tiny import TINY, command, tiny_config
from .answering import APP, RUN, Client, client

OWN = {
    "data.clients_from": "own",
    "data.class_names": "cat,dog",
    "data.image_size": 8,
    "data.channels": 1,
    "data.declared_records": 20,
    "data.population": "ward",
    "prototypes.encoder": "fourier",
    "partition.kind": "given",
    "privacy.delta": 1e-5,
}
NO_LIMIT = {name: value for name, value in TINY.items() if name != "data.limit"}


def own_config(**changes: Any) -> RunConfig:
    more = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config("folder", {**NO_LIMIT, **OWN, **more})


def images(folder: Path, *classes: str, each: int = 6) -> Path:
    stream = np.random.default_rng(len(str(folder)))
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(each):
            picture = Image.fromarray(stream.integers(0, 256, (8, 8), dtype=np.uint8))
            picture.save(folder / name / f"{index}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return images(tmp_path / "mine", "cat", "dog")


def deployed(place: Path, config: RunConfig, **node: Any) -> Client:
    return client(place / "ledgers", config, deployed=True, **node)


def log(made: Client) -> str:
    return (made.home.path / "failures.log").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data__path": "/of/somebody"}, "data.path is set"),
        ({"data__class_names": "none", "data__visibility": "public"}, "data.class_names must be declared"),
        ({"data__declared_records": "none", "data__visibility": "public"}, "data.declared_records must be"),
        ({"data__limit": 5, "data__visibility": "public"}, "data.limit cuts"),
        ({"data__test_fraction": 0.1, "data__visibility": "public"}, "data.test_fraction cuts"),
        ({"data__csv": "table.csv"}, "data.csv is set"),
        ({"partition__kind": "iid"}, "already gives each client its records"),
    ],
)
def test_what_nobody_but_a_client_can_see_is_declared_and_not_looked_up(change, words):
    with pytest.raises(UserError, match=words):
        own_config(**change)


def test_public_or_private_but_images_of_ones_own():
    assert not own_config().is_public and own_config(data__visibility="public").is_public
    with pytest.raises(UserError, match="data.clients_from = 'own' is only for"):
        tiny_config(data__clients_from="own")


def test_a_simulation_has_no_clients_elsewhere(tmp_path: Path):
    given = [text for name, value in {**NO_LIMIT, **OWN}.items() for text in ("--set", f"{name}={value}")]
    places = ["--out", tmp_path / "run", "--ledger-dir", tmp_path / "ledgers"]
    line = command("train", "--config", "folder", *given, *places).refusal
    assert line == (
        "error: data.clients_from = 'own' is for a deployed federation; in a simulation use 'subfolder'"
    )
    assert not list(tmp_path.iterdir())


def test_the_server_needs_none_of_it_and_can_read_none_of_it(tmp_path: Path):
    config = own_config(data__visibility="public")
    check_available(config.data)
    assert build_plan(config).info.class_names == ("cat", "dog")
    for read in (lambda: load_client(config, 0), lambda: load_partition(config)):
        with pytest.raises(UserError, match="client"):
            read()


def test_a_client_answers_about_its_own_folder_and_of_no_other(tmp_path: Path, folder: Path):
    made = deployed(tmp_path, own_config(), data=str(folder))
    assert made.enrol().code == "ok"
    assert made.ask(LocalTrainingRequest(run_id=RUN, round=0)).code == "ok"
    session = Session(made.home, RUN, 0, Places.of(made.node))
    assert len(session.data.labels) == 12 and set(session.data.labels) == {0, 1}
    assert session.data.declared_records == 20


def test_paths_of_the_server_are_replaced_or_removed_and_hashes_stay(tmp_path: Path, folder: Path):
    config = own_config(data__test_path="/of/the/server/test", data__test_visibility="public")
    config = config.model_copy(update={"data": config.data.model_copy(update={"root": "/of/the/server"})})
    made = deployed(tmp_path, config, data=str(folder))
    assert made.enrol().code == "ok"
    session = Session(made.home, RUN, 0, Places.of(made.node))
    found = session.config.data
    assert (found.root, found.path, found.csv, found.test_path) == (None, str(folder), None, None)
    assert session.config.partition.path is None and not found.download
    assert session.plan.config_hash == config_hash(config)
    assert session.plan.agreement == made.plan.agreement
    assert len(session.data.labels) == 12
    simulated = Session(made.home, RUN, 0)
    assert simulated.config.data.test_path == "/of/the/server/test"  # there the paths are the user's own


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"data__clients_from": "subfolder"}, "answers about its own folder"),
        ({"data__clients_from": "csv", "data__csv": "t.csv"}, "answers about its own folder"),
        ({"data__clients_from": "partition", "partition__kind": "iid"}, "answers about its own folder"),
    ],
)
def test_a_plan_that_needs_a_folder_of_the_server_is_refused_and_the_folder_not_opened(
    tmp_path: Path, folder: Path, change, line
):
    """It is even there, on this machine: a server that guesses a path gets nothing of it."""
    images(tmp_path / "theirs" / "site-0", "cat", "dog")
    config = own_config(**{"data__path": str(tmp_path / "theirs"), **change})
    made = deployed(tmp_path, config, data=str(folder))
    assert made.enrol().code == "refused"
    assert line in log(made) and not (made.home.path / "runs").exists()


def test_a_partition_by_a_file_of_the_server_is_refused(tmp_path: Path):
    (tmp_path / "parts.json").write_text(json.dumps({f"client-{i}": [i] for i in range(3)}))
    config = tiny_config(partition__kind="given", partition__path=str(tmp_path / "parts.json"))
    made = deployed(tmp_path, config)
    assert made.enrol().code == "refused" and "partition.kind = 'given'" in log(made)


def test_public_benchmarks_are_looked_for_under_the_clients_own_root(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("MOSAIC_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    config = load_config("fashion_mnist", {"data.root": str(tmp_path), "clients.count": 3})
    made = deployed(tmp_path, config, data_root=str(tmp_path / "empty"))
    assert made.enrol().code == "refused" and f"{tmp_path / 'empty'} does not hold" in log(made)
    digits = deployed(tmp_path, tiny_config())
    assert digits.enrol().code == "ok"  # they come with a library


@pytest.mark.parametrize("spoil", ["none", "gone", "file", "closed", "relative"])
def test_a_client_without_its_folder_notices_before_it_enrols(tmp_path: Path, folder: Path, spoil: str):
    data = {"none": "", "relative": "mine"}.get(spoil, str(folder))
    if spoil in ("gone", "file"):
        shutil.rmtree(folder)
    if spoil == "file":
        folder.write_text("no folder")
    if spoil == "closed":
        if os.geteuid() == 0:
            pytest.skip("nothing is closed to root")
        folder.chmod(0)
    made = deployed(tmp_path, own_config(), data=data)
    with pytest.raises(ClientDataError, match="data"):
        check_own_data(Places.of(made.node))
    assert made.enrol().code == "refused"
    assert not (made.home.path / "ledger.jsonl").exists()


def test_a_folder_that_goes_away_later_is_told_in_one_word(tmp_path: Path, folder: Path):
    made = deployed(tmp_path, own_config(), data=str(folder))
    assert made.enrol().code == "ok"
    folder.rename(tmp_path / "moved")
    assert made.ask(LocalTrainingRequest(run_id=RUN, round=0)).code == "refused"
    assert made.charged == 0


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda f: shutil.rmtree(f / "cat") or shutil.rmtree(f / "dog"), "no image in it"),
        (lambda f: (f / "cat" / "0.png").write_bytes(b"no picture"), "not a readable image"),
        (lambda f: images(f, "rare"), "rare: no class of this run"),
    ],
)
def test_what_is_wrong_with_the_records_is_told_to_their_owner_beforehand(tmp_path, folder, spoil, line):
    spoil(folder)
    places = Places(data=str(folder), deployed=True)
    config = None if "no image" in line else own_config(partition__min_records=2)
    with pytest.raises(ClientDataError, match=line):
        check_own_data(places, config)
    if "class" in line:
        check_own_data(places)  # without a plan, no class is wrong


def test_good_records_pass_with_a_plan_and_without(folder: Path):
    places = Places(data=str(folder), deployed=True)
    check_own_data(places)
    check_own_data(places, own_config(partition__min_records=12))
    with pytest.raises(ClientDataError, match="has 12 records"):
        check_own_data(places, own_config(partition__min_records=13))


def test_a_server_cannot_guess_the_classes_of_a_client(tmp_path: Path, folder: Path):
    """One class that the run does not know, or none: the answers are the same, their sizes too."""
    images(folder, "rare")
    plain = images(tmp_path / "plain", "cat", "dog")
    answers = []
    for place, data in (("a", folder), ("b", plain), ("c", images(tmp_path / "others", "rare"))):
        made = deployed(tmp_path / place, own_config(partition__min_records=10), data=str(data))
        enrolled, trained = made.enrol(), made.ask(LocalTrainingRequest(run_id=RUN, round=0))
        answers.append((enrolled.code, trained.code, len(trained.data)))
        assert ("rare: no class of this run" in log(made)) if place != "b" else True
    assert len(set(answers)) == 1 and answers[0][:2] == ("ok", "ok")


@pytest.mark.parametrize("value", ["false", "no", 0, 1, "true", True])
def test_only_false_is_false(value: object):
    assert Places.of({"deployed": value}).deployed
    assert not Places.of({"deployed": False}).deployed and not Places.of({}).deployed


@pytest.mark.parametrize("visibility", ["private", "public"])
def test_a_federation_of_clients_with_folders_of_their_own_runs_to_its_end(tmp_path: Path, visibility: str):
    config = own_config(data__visibility=visibility, engine__name="deployed")
    federation = provision(config, tmp_path / "ledgers")
    nodes = federation.node_configs(None)
    for index, node in enumerate(nodes[:-1]):
        # The first private client has no record of the run's classes, and takes part like all others.
        held = ("cat", "dog") if index or config.is_public else ("rare",)
        node |= {"deployed": True, "data": str(images(tmp_path / f"machine-{index}", *held, each=8))}
    table = {FIRST_NODE_ID + index: node for index, node in enumerate(nodes)}
    path = tmp_path / "run"
    with InProcessGrid(table, APP, workers=0) as grid:
        parties = len(federation.roster)
        find = partial(discover, grid, parties, version=__version__)
        result = train(config, out=path, venue=Venue(grid, federation.roster, find, 60.0))
    assert 0.99 * 4 <= result.epsilon <= 4 and result.accuracy is None
    assert set(json.loads((path / "ledgers.json").read_bytes())["excerpts"]) == set(config.client_ids)
    assert not (path / "membership.npz").exists()  # the server has no records to list
    assert command("verify", path).status == 0
    for file in path.rglob("*"):
        assert not file.is_file() or b"machine-" not in file.read_bytes(), file
