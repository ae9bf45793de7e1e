"""Each fire has one row and one job, whatever is killed and however long the database is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import schedules
from tests.faults.conftest import SEED, closed_afterwards
from tests.faults.rig import Rig
from webapp.config import Config

pytestmark = pytest.mark.usefixtures("app")


@pytest.fixture
def shared(config: Config, tmp_path: Path) -> Iterator[Rig]:
    """A rig on the database of this run."""

    def make() -> Rig:
        (tmp_path / "rig").mkdir()
        rig = Rig(tmp_path / "rig", SEED, config.home)
        if config.database_url is not None:
            rig.environment["QUEUECTL_DATABASE_URL"] = config.database_url
        return rig

    yield from closed_afterwards(make)


@pytest.mark.postgresql
@pytest.mark.parametrize("kills", [6, pytest.param(80, marks=pytest.mark.full)])
def test_each_fire_is_decided_once_although_deciders_are_killed(shared: Rig, kills: int) -> None:
    schedules.add()
    schedules.kill_deciders(shared, kills)
    assert schedules.violations() == []


@pytest.mark.parametrize("seconds", [3, pytest.param(75, marks=pytest.mark.full)])
def test_fires_of_the_time_without_a_database_are_decided_when_it_is_back(
    shared: Rig, config: Config, seconds: float
) -> None:
    schedules.add()
    schedules.stay_away(shared, config, seconds)
    assert schedules.violations() == []
