"""Settings of the whole suite: property tests repeat exactly and have no deadline on a busy machine.

Torch and its kin get one thread, here and in every process that a test starts: results repeat, and tests that
run side by side do not fight for the cores. The variable is read when torch is loaded, which not every test
needs.

A shell that starts the suite in the background has it ignore SIGINT, and what a test starts would inherit
that: tests that interrupt a process would wait in vain. So it is heeded again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from .mosaic_secure.tiny import Outcome

os.environ["OMP_NUM_THREADS"] = "1"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "repeatable", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def write_small_run() -> Callable[..., Path]:
    """A function that writes a sealed run with a real, untrained model (and two generators) in no time."""
    from mosaic_secure.models.registry import build_classifier, build_generator
    from mosaic_secure.runs import artefacts
    from mosaic_secure.runs.directory import RunDirectory

    def write(
        path: Path,
        *,
        architecture: str = "cnn",
        image_shape: tuple[int, int, int] = (1, 8, 8),
        class_names: tuple[str, ...] = ("cat", "dog", "owl"),
        generators: bool = False,
        **options: object,
    ) -> Path:
        classes = len(class_names)
        spec = artefacts.ModelSpec(
            architecture, image_shape, classes, seed=5, options=options, class_names=class_names
        )
        module = build_classifier(architecture, image_shape, classes, seed=6, **options)
        with RunDirectory.create(path) as run:
            artefacts.write_global_model(run, spec, module.state_dict())
            if generators:
                maker = artefacts.ModelSpec("dcgan", image_shape, classes, seed=7, class_names=class_names)
                members = [
                    artefacts.Member(
                        f"client-{client}",
                        maker,
                        build_generator("dcgan", image_shape, classes, seed=client).state_dict(),
                        weight=1.0 + client,
                        class_weights=(0.0, 1.0, 0.0) if client == 0 else (1.0, 1.0, 0.0),
                    )
                    for client in range(2)
                ]
                artefacts.write_collection(run, "generators", members)
            run.seal({"result": {"epsilon": 4.0}})
        return path

    return write


@pytest.fixture(scope="session")
def small_run(write_small_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed run of 1x8x8 images and three classes, without generators; do not change it."""
    return write_small_run(tmp_path_factory.mktemp("small") / "run")


@pytest.fixture(scope="module")
def quick_inversion() -> Iterator[None]:
    """A few steps of all that searches for pictures in an audit: enough for what is not about pictures."""
    from mosaic_secure.audit import evaluator, inversion

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "STEPS", 5)
        patch.setattr(inversion, "STEPS", 2)
        patch.setattr(inversion, "RESTARTS", 1)
        yield


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A tiny sweep of `mosaic-secure curve` that ended: its place and what was said; do not change it."""
    from .mosaic_secure.tiny import SWEEP, command, tiny_options

    place = tmp_path_factory.mktemp("sweep")
    places = ["--out", place / "it", "--ledger-dir", place / "ledgers"]
    outcome = command("curve", *SWEEP, "--max-epsilon", "2", *tiny_options(), *places, "--json")
    assert outcome.status == 0, outcome.err
    return place, outcome
