"""Model inversion: pictures that a released model makes possible, and whether they show training records."""

from __future__ import annotations
