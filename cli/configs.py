"""`mosaic-secure configs`: the ready-made runs."""

from __future__ import annotations

from cli import options
from cli.output import print_json, print_table

EXAMPLE = "Example: mosaic-secure configs"


def configs(json: options.Json = False) -> None:
    """List the names that --config takes."""
    from mosaic_secure.config import config_folder, config_names

    rows = []
    for name in config_names():
        head = (config_folder() / f"{name}.toml").read_text("utf-8").split("\n", 1)[0]
        rows.append({"name": name, "about": head.removeprefix("#").strip()})
    print_table(rows)
    if json:
        print_json({"configs": rows})
