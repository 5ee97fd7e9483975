"""Run directories: written by a run, sealed at its end, and what can be done with a sealed one."""

from __future__ import annotations
