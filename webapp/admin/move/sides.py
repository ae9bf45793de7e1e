"""One of the two databases of a move, an application of its own on it, so that each has its engines and its lock; and
who is told how it goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, Protocol

from flask import Flask, current_app
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from webapp import config as configuration
from webapp.config import Config
from webapp.core.locks import try_alone
from webapp.db import engines as db
from webapp.db.application import create_core


class MoveError(Exception):
    """Something that a move cannot do, or not go on with; the message says why, and what to do."""


Tick = Callable[[int], None]  # is told how many rows more are done


class Teller(Protocol):
    """Tells a person how it goes on."""

    def say(self, message: str) -> None: ...

    def stage(self, name: str, rows: int) -> Tick:
        """A part begins that goes through so many rows."""


class Side:
    """`config` and `address` say where it is; the address shows no password."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.config: Config = app.extensions["queuectl_config"]
        self.address = configuration.address(self.config)

    @staticmethod
    def here() -> Side:
        """The database of the application whose context this is."""
        return Side(current_app._get_current_object())  # type: ignore[attr-defined]

    @staticmethod
    @contextmanager
    def at(config: Config) -> Iterator[Side]:
        """The database at another address, as it is, for as long as the block lasts. Raises MoveError."""
        if config.is_sqlite and not config.sqlite_path.parent.is_dir():
            raise MoveError(f"there is no folder {config.sqlite_path.parent}. Make it first.")
        app = create_core(config, migrate=False)
        try:
            yield Side(app)
        finally:
            with app.app_context():
                for engine in db.db.engines.values():
                    engine.dispose()
            if app.extensions.get("queuectl_use", -1) >= 0:
                os.close(app.extensions["queuectl_use"])

    @property
    def is_sqlite(self) -> bool:
        return self.config.is_sqlite

    @property
    def kind(self) -> str:
        return "SQLite" if self.is_sqlite else "PostgreSQL"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent view of it. Keep it short: on SQLite an open reader pins the WAL."""
        with self.app.app_context(), db.reading() as session:
            yield session.connection()

    @contextmanager
    def reached(self) -> Iterator[Connection]:
        """The same. Raises MoveError where the database cannot be read."""
        try:
            with self.reading() as connection:
                yield connection
        except DBAPIError as error:
            reason = str(error.orig).strip().partition("\n")[0]
            raise MoveError(f"{self.address} cannot be read: {reason}.") from None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One durable transaction. Never inside another side's: two SQLite files of one folder share their lock."""
        with self.app.app_context(), db.writing() as session:
            yield session.connection()


@contextmanager
def one_at_a_time(config: Config) -> Iterator[None]:
    """Keep a second move of this home away for as long as the block lasts. Raises MoveError where one is at it."""
    descriptor = os.open(config.home / "move.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not try_alone(descriptor):
            raise MoveError("another `db move` is at it. Wait for its end, or end it, and run this again.")
        yield
    finally:
        os.close(descriptor)
