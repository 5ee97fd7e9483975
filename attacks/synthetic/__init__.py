"""Membership inference on synthetic data: does it lie closer to its training records than to fresh ones?"""

from __future__ import annotations
