"""A queue that moves under load loses no acknowledged job and repeats none."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import URL

from tests.databases import postgresql_database
from tests.faults import moves
from tests.faults.rig import Rig
from webapp import config as configuration
from webapp.config import Config

pytestmark = pytest.mark.full


def test_a_queue_that_moves_under_load_and_back_loses_and_repeats_nothing(rig: Rig, postgresql_server: URL) -> None:
    with postgresql_database(postgresql_server) as url:
        there = configuration.address(Config(rig.home, url.render_as_string(hide_password=False), None))
        moves.move_while_all_write(rig, there)
    assert rig.judge() == []
    assert rig.losses() == 0
    assert len(rig.rows()) >= len(rig.acknowledged)
