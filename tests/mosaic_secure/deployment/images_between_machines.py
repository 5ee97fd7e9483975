"""What test_namespaces.py runs in namespaces of its own: clients with images, and users without rights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..tiny import PRIVATE
from .carried_out import CLIENTS, NAMES, CarriedOut, tiny_run
from .machines import Machines, environment
from .manual import block

USER = 10001
JOIN = "each client, with images of its own; here client-0"


def test_images_that_each_client_has_to_itself(tmp_path: Path) -> None:
    """All commands run without a capability, and write to their own folder and /tmp alone."""
    machines = Machines(tmp_path, NAMES, environment(), USER)
    try:
        for index, name in enumerate(CLIENTS):
            _images(machines.folder(name) / "scans", index)
        tiny = {name: value for name, value in PRIVATE.items() if not name.startswith("data.")}
        made = CarriedOut(machines, tiny_run("own images", **tiny), JOIN)
        probe = machines.run("client-0", ["touch", "/usr/probe", "../client-1/probe", "/tmp/probe", "probe"])
        assert probe.returncode != 0 and probe.stderr.count("Read-only file system") == 2, probe.stderr
        made.follow(block("server", 3), "server")
        manifest = json.loads((machines.folder("server") / "runs/first/manifest.json").read_bytes())
        assert manifest["result"]["accuracy"] is None
        assert made.contributors("runs/first") == list(CLIENTS)
        left = {path.name for path in machines.folder("client-1").iterdir()}
        assert left == {"federation.json", "kit", "policy.toml", "run.toml", "scans"}, (
            "join writes to its kit"
        )
    finally:
        machines.close()


def _images(place: Path, seed: int) -> None:
    stream = np.random.default_rng(seed)
    for name in ("well", "ill"):
        (place / name).mkdir(parents=True)
        for index in range(20):
            pixels = stream.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{index}.png")
