"""A rig for each test, closed with it; faults need Linux and the tools that a job of the ledger uses."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, TypeVar

import pytest

from tests.faults.rig import Rig

R = TypeVar("R", bound=Rig)
SEED = 3  # of the fast part: it is to do the same thing each time


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    yield from closed_afterwards(lambda: Rig(tmp_path, SEED))


def closed_afterwards(make: Callable[[], R]) -> Iterator[R]:
    if not sys.platform.startswith("linux") or shutil.which("flock") is None:
        pytest.skip("the rig needs Linux with flock(1)")
    one = make()
    yield one
    one.close()
    sys.stdout.write(one.said()[-20_000:])  # shown where the test failed
