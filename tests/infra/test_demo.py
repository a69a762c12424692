"""The demonstration is a test: real servers on PostgreSQL, a worker that is killed, nights, a champion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 600  # that it may take, also on a busy machine


@pytest.mark.slow
def test_everything_is_shown_on_real_servers() -> None:
    command = [sys.executable, str(ROOT / "infra" / "demo.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("All of it was shown, and was so.")
