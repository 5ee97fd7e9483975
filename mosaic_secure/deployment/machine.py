"""What the processes of all parties need of their machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["flower_environment", "free_port"]


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of Flower's processes: its own files under `home`, and nothing is sent to anybody else."""
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_LOG_LEVEL": os.environ.get("FLWR_LOG_LEVEL", "WARNING"),
    }


def free_port() -> int:
    """A TCP port of this machine's own address that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
