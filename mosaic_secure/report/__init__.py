"""The pages and pictures that people read."""

from __future__ import annotations
