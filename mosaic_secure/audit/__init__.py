"""What the attacks need from a run: its records, its releases, and canaries put into them by fair coins."""

from __future__ import annotations
