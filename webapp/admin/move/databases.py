"""The two databases of a move, each with an application of its own, and the interface for progress messages."""

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
from webapp.core.storage import db_errors
from webapp.core.storage.locks import try_alone
from webapp.db import engines as db
from webapp.db.application import create_core
from webapp.lib.system.private_files import open_private


class MoveError(Exception):
    """The move cannot start or continue; the message says why and what to do."""


Tick = Callable[[int], None]  # takes the number of further rows that are done


class Reporter(Protocol):
    """Shows messages and progress to the user."""

    def say(self, message: str) -> None: ...

    def stage(self, name: str, rows: int) -> Tick:
        """Start a stage that processes so many rows."""


class Side:
    """One of the two databases. `address` shows no password."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.config: Config = app.extensions["queuectl_config"]
        self.address = configuration.address(self.config)
        self.is_sqlite = self.config.is_sqlite
        self.kind = "SQLite" if self.is_sqlite else "PostgreSQL"

    @staticmethod
    def here() -> Side:
        """The database of the current application."""
        return Side(current_app._get_current_object())  # type: ignore[attr-defined]

    @staticmethod
    @contextmanager
    def at(config: Config) -> Iterator[Side]:
        """The database at another address, without migrations, for the duration of the block. Raises MoveError."""
        if config.is_sqlite and not config.sqlite_path.parent.is_dir():
            raise MoveError(f"the folder {config.sqlite_path.parent} does not exist. Create it first.")
        app = create_core(config, migrate=False)
        try:
            yield Side(app)
        finally:
            with app.app_context():
                db.disconnect()
                if db.database().in_use >= 0:
                    os.close(db.database().in_use)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view. Keep it short: on SQLite an open reader pins the WAL."""
        with self.app.app_context(), db.reading() as session:
            yield session.connection()

    @contextmanager
    def reached(self) -> Iterator[Connection]:
        """The same as `reading`. Raises MoveError if the database cannot be read."""
        try:
            with self.reading() as connection:
                yield connection
        except DBAPIError as error:
            reason = db_errors.explain(error, self.config) or str(error.orig).strip().partition("\n")[0]
            raise MoveError(f"{self.address} cannot be read: {reason}.") from None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A durable transaction. Never nest the two sides: SQLite files in one folder share a lock."""
        with self.app.app_context(), db.writing() as session:
            yield session.connection()


@contextmanager
def move_lock(config: Config) -> Iterator[None]:
    """Allow one move per home folder for the duration of the block. Raises MoveError if another one runs."""
    descriptor = open_private(config.home / "move.lock", os.O_RDWR)
    try:
        if not try_alone(descriptor):
            raise MoveError("another `db move` is running. Wait until it ends, or stop it, then run this again.")
        yield
    finally:
        os.close(descriptor)
