"""How long a test waits before it says that something hangs. No test asserts how fast anything is.

The time grows with the slowness of the machine, which is measured once a run: processes of the run inherit it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

_SLOWNESS = "TESTS_SLOWNESS"
_SPAWNS = 5
_USUAL_SPAWN = 0.03  # seconds that an idle machine of 2026 takes to start and end one Python


def _slowness() -> float:
    """How many times slower than an idle machine this one starts processes; at least 1."""
    known = os.environ.get(_SLOWNESS)
    if known:
        return float(known)
    started = time.monotonic()
    for _ in range(_SPAWNS):
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
    factor = max(1.0, (time.monotonic() - started) / _SPAWNS / _USUAL_SPAWN)
    os.environ[_SLOWNESS] = f"{factor:.1f}"
    return factor


SLOWNESS = _slowness()
DEADLINE = 120 * SLOWNESS  # seconds for one wait
LIMIT = 10 * DEADLINE  # seconds for one test
