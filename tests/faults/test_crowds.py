"""Crowds, small enough for every run; the long run has the full numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import crowds
from tests.faults.rig import Rig
from webapp.config import Config
from webapp.core.storage import db_errors


@pytest.mark.full
def test_with_many_jobs_and_workers_no_job_starves_and_nothing_stays_locked(rig: Rig) -> None:
    crowds.crowd(rig, 400, 8)
    assert rig.judge() == []


@pytest.mark.full
def test_two_supervisors_and_two_consoles_coexist(rig: Rig) -> None:
    crowds.two_of_each(rig, 1)
    assert rig.judge() == []


def test_a_killed_backup_leaves_no_partial_copy_with_the_final_name(rig: Rig) -> None:
    crowds.kill_in_backup(rig, 4)
    assert rig.judge() == []


def test_a_huge_log_raises_an_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(home=tmp_path, database_url=None, public_url=None)
    assert db_errors.large_log(config) is None
    (tmp_path / "queue.db-wal").write_bytes(bytes(2000))
    assert db_errors.large_log(config) is None
    monkeypatch.setattr(db_errors, "LARGE_LOG", 1000)
    assert db_errors.large_log(config) == 2000
