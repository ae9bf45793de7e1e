"""Full, read-only, missing and damaged disks: one clear line, and no acknowledged data is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import disks, machine
from tests.faults.conftest import SEED
from tests.faults.rig import Rig


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Rig]:
    """A rig with its home on a disk that can be filled."""
    try:
        with machine.small_disk(tmp_path / "disk", 48) as disk:
            (tmp_path / "rig").mkdir()
            one = Rig(tmp_path / "rig", SEED, disk / "home")
            yield one
            one.close()
            print(one.said()[-20_000:])  # noqa: T201  shown where the test failed
    except machine.Impossible as reason:
        pytest.skip(str(reason))


def test_a_full_disk_is_reported_loses_nothing_and_work_continues_with_space(small: Rig) -> None:
    disks.fill_the_disk(small, 1)
    assert small.judge() == []


@pytest.mark.full
def test_an_unwritable_database_or_folder_is_one_clear_line(rig: Rig) -> None:
    try:
        disks.read_only_database(rig, 1)
    except machine.Impossible as reason:
        pytest.skip(str(reason))
    assert rig.judge() == []


@pytest.mark.full
def test_a_disk_that_becomes_read_only_loses_nothing_and_work_continues_afterwards(
    rig: Rig,
) -> None:
    try:
        disks.turn_read_only(rig, 1)
    except machine.Impossible as reason:
        pytest.skip(str(reason))
    assert rig.judge() == []
    assert rig.losses() == 0


@pytest.mark.full
def test_a_home_that_vanishes_stops_work_until_it_is_back(rig: Rig) -> None:
    disks.take_the_home_away(rig, 1)
    assert rig.judge() == []


@pytest.mark.full
def test_a_damaged_database_is_not_recreated_and_the_remedy_is_named(rig: Rig) -> None:
    disks.damage(rig, 2)
    assert rig.judge() == []
