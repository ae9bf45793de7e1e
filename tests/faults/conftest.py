"""A rig for each test. Faults need Linux and the tools that jobs of the ledger use."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, TypeVar

import pytest

from tests.faults.rig import Rig

R = TypeVar("R", bound=Rig)
SEED = 3  # of the fast part, which must do the same each time


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
