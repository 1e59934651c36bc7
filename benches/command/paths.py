"""Paths of the project."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PEERS = ROOT / "benches" / "peers"
TARGET = ROOT / "target" / "bench"
ENVIRONMENTS = ROOT / "target" / "python"
BINARIES = TARGET / "cargo" / "release"
LOGS = TARGET / "logs"
