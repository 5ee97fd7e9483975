"""The command line `mosaic-secure`: one file a command, no logic of their own."""

from __future__ import annotations
