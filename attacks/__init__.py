"""Audits of any model or synthetic set: what an attacker could learn, and what the guarantee allows at most.

This package knows numbers and models, nothing of the federation. Importing it is cheap.
"""

from __future__ import annotations
