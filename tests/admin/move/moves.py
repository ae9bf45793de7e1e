"""Helpers that run a move, an undo or a dry run, and interrupt a move."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from tests import full_database
from tests.conftest import opened
from webapp.admin import move as moving
from webapp.admin.move import Side, copying
from webapp.config import Config
from webapp.db import engines
from webapp.db.application import create_core
from worker.maintenance import process as maintenance


class Lines:
    """Collects the messages for the user."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def stage(self, name: str, rows: int) -> Callable[[int], None]:
        return lambda _: None


def go(target: Config, **options: Any) -> None:
    with Side.at(target) as side:
        moving.move(
            side, "person:ana", Lines(), look_after=maintenance.without_supervisor(engines.database()), **options
        )


def back(target: Config, *, force: bool = False) -> None:
    with Side.at(target) as side:
        moving.undo(side, "person:ana", Lines(), force=force)


def examine(target: Config) -> moving.Report:
    with Side.at(target) as side:
        return moving.examine(side, Lines())


def contents_of(config: Config) -> dict[str, list[tuple[Any, ...]]]:
    for _ in opened(create_core(config)):
        return full_database.contents()
    raise AssertionError


class Interrupted(Exception):
    """The move ends here."""


def stop_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    stored = copying._store

    def stop(connection: Any, table: Any, rows: Any) -> None:
        if table.name == name:
            raise Interrupted
        stored(connection, table, rows)

    monkeypatch.setattr(copying, "_store", stop)
