"""Options that decide the plan of a run, shared by the commands that make one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mosaic_secure.config import RunConfig

PRIVACY, DATA, RUN = "Privacy", "Data and clients", "Run"
LEDGERS = "Where clients keep keys and ledgers; default: MOSAIC_LEDGER_DIR, or ./ledgers."

Epsilon = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|inf", help="Privacy bound of each client; inf for no noise.", rich_help_panel=PRIVACY
    ),
]
Delta = Annotated[
    str | None, typer.Option(metavar="NUMBER", help="Chance that the bound fails.", rich_help_panel=PRIVACY)
]
Trust = Annotated[
    str | None,
    typer.Option(
        metavar="local|distributed",
        help="Whose noise protects: each client's own, or that of a sum.",
        rich_help_panel=PRIVACY,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH", help="A ready run (see configs) or a TOML file.", show_default="digits"
    ),
]
DataRoot = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Where data sets lie; default: MOSAIC_DATA.", rich_help_panel=DATA),
]
Clients = Annotated[
    str | None, typer.Option(metavar="NUMBER", help="How many clients.", rich_help_panel=DATA)
]
Partition = Annotated[
    str | None,
    typer.Option(
        metavar="dirichlet|shards|given|iid", help="How records are dealt out.", rich_help_panel=DATA
    ),
]
Alpha = Annotated[
    str | None,
    typer.Option(metavar="NUMBER", help="Dirichlet parameter: smaller is more skewed.", rich_help_panel=DATA),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="mosaic|fedavg|fedprox|local|dense|central",
        help="How to learn: Mosaic, or a baseline under the same budget.",
        show_default="mosaic",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="accuracy|synthetic",
        help="What Mosaic aims at, where the configuration offers it.",
        show_default="accuracy",
    ),
]
Seed = Annotated[
    str | None, typer.Option(metavar="NUMBER", help="Seed of all but the privacy noise.", show_default="0")
]
Device = Annotated[
    str | None, typer.Option(metavar="auto|cpu|cuda", help="Where the server computes.", rich_help_panel=RUN)
]
Engine = Annotated[
    str | None,
    typer.Option(metavar="inprocess|simulation", help="What runs the clients.", rich_help_panel=RUN),
]
Log = Annotated[
    str | None,
    typer.Option(
        "--log",
        metavar="tensorboard|mlflow",
        help="Also tell a tracker, or both with a comma; only what is released.",
        rich_help_panel=RUN,
    ),
]
LogDir = Annotated[
    Path,
    typer.Option(metavar="DIR", help="Where TensorBoard's files go.", rich_help_panel=RUN),
]
LOG_DIR = Path("logs")
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other field of the configuration; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="End standard output with one JSON object.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", show_default=False)]


def overrides(settings: list[str] | None, **named: str | None) -> dict[str, Any]:
    """Dotted configuration fields from named options (``privacy__epsilon="4"``) and ``KEY=VALUE`` texts.

    Raises:
        UserError: a text without a key or an equals sign, or a field that is given twice.
    """
    from mosaic_secure.errors import UserError

    fields: dict[str, Any] = {
        name.replace("__", "."): value for name, value in named.items() if value is not None
    }
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        key = key.strip()
        if not key or not equals:
            raise UserError(f"--set {setting}: expected KEY=VALUE, such as --set privacy.epsilon=4")
        if key in fields:
            raise UserError(f"--set {key}: given twice; give each field once")
        fields[key] = value
    return fields


def configuration(name: str | None, fields: Mapping[str, Any]) -> RunConfig:
    """The configuration of that name or path with fields laid over it; warns when it does not protect."""
    from mosaic_secure.config import load_config

    return warned(load_config(name or "digits", fields))


def warned(config: RunConfig) -> RunConfig:
    """Print a warning for a configuration that gives up protection, and return it."""
    from cli.output import warn

    if config.no_noise:
        warn("epsilon is inf: no noise is added and nothing is protected")
    if config.privacy.insecure_reproducible_noise:
        warn("insecure_reproducible_noise: the noise follows from the seed and protects nobody")
    return config
