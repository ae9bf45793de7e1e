"""The audit trail after a move: the same entries, the same guard, and retention continues."""

from __future__ import annotations

import pytest
from flask import Flask
from sqlalchemy.exc import DBAPIError

from tests.accounts.test_audit_log import WORDS, delete, lines, prune, write_lines
from tests.admin.move.moves import go
from tests.conftest import opened
from webapp.config import Config
from webapp.db.application import create_core
from webapp.jobs import settings


def test_a_moved_queue_has_its_audit_trail_setting_and_guard(app: Flask, target: Config) -> None:
    old, kept = write_lines(400, 200)
    settings.set_setting("keep_audit", 300, "rule:test", confirmed=True)
    go(target)
    for _ in opened(create_core(target)):
        with pytest.raises(DBAPIError, match=WORDS):
            delete(f"id = {old}")
        prune()
        assert [line.verb for line in lines()][-2:] == ["move", "prune"]
        assert lines()[0].id == kept
