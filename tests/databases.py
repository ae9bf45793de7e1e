"""PostgreSQL databases for tests: temporary ones, and one that is emptied for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

from sqlalchemy import Connection, Engine, MetaData, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool

DATABASES = ("sqlite", "postgresql")

# What a test may change besides rows. A database of another shape is made anew for the next test.
_SHAPE = """
SELECT md5(string_agg(thing, ',' ORDER BY thing)) FROM (
    SELECT concat_ws(' ', relname, reloptions, attname, atttypid, attnotnull) FROM pg_attribute
    JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND NOT attisdropped
    UNION ALL SELECT concat_ws(' ', tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT version_num FROM alembic_version
    UNION ALL SELECT setconfig::text FROM pg_db_role_setting
) AS things (thing)
"""
# What a test used: a table that was empty from start to end has no pages, and no statistics.
_USED = """
SELECT relname, reltuples < 0 AND pg_relation_size(oid) <= 8192 FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname <> 'alembic_version'
AND (pg_relation_size(oid) > 0 OR reltuples >= 0)
"""
# TRUNCATE leaves them, and they change the plans of the next test.
_FORGET_STATISTICS = """
DELETE FROM pg_statistic USING pg_class WHERE starelid = pg_class.oid AND relnamespace = 'public'::regnamespace
"""
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def execute(server: URL, *statements: str) -> None:
    """Execute statements on the server, outside of any transaction."""
    with _engine(server).connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


@contextmanager
def postgresql_database(server: URL, template: str = "template1") -> Iterator[URL]:
    """A new database for as long as the block lasts, a copy of the template."""
    name = f"test_{uuid.uuid4().hex}"
    execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.set(database=name)
    execute(server, f"DROP DATABASE {name} WITH (FORCE)")


class MigratedDatabase:
    """A database that each test gets as the migrations left it. Rows are removed, which costs less than a new one."""

    def __init__(self, server: URL, migrate: Callable[[URL], None]) -> None:
        self.template = f"template_{uuid.uuid4().hex}"
        self._server = server
        self._url = server.set(database=f"test_{uuid.uuid4().hex}")
        execute(server, f"CREATE DATABASE {self.template}")
        migrate(server.set(database=self.template))
        self._create()
        with _engine(self._url).connect() as connection:
            self._shape = self._current_shape(connection)
            tables = MetaData()
            tables.reflect(connection)
            self._tables = [table for table in tables.sorted_tables if table.name != "alembic_version"]
            self._rows = {table: self._rows_of(connection, table) for table in self._tables}

    def emptied(self) -> URL:
        """End the sessions of the test before, undo what it did, and return the URL."""
        engine = _engine(self._url)
        with engine.connect() as connection:
            connection.execute(text(_END_OTHERS))
            as_it_was = self._current_shape(connection) == self._shape
            if as_it_was:
                self._empty(connection)
        if not as_it_was:
            self._drop(self._url.database)
            self._create()
        return self._url

    def drop(self) -> None:
        self._drop(self._url.database)
        self._drop(self.template)

    def _create(self) -> None:
        execute(self._server, f"CREATE DATABASE {self._url.database} TEMPLATE {self.template}")

    def _drop(self, name: object) -> None:
        execute(self._server, f"DROP DATABASE {name} WITH (FORCE)")

    def _empty(self, connection: Connection) -> None:
        connection.execute(text("SET session_replication_role = replica"))  # the guards of the audit trail rest
        used = {str(name): bool(is_small) for name, is_small in connection.execute(text(_USED))}
        connection.execute(text(_FORGET_STATISTICS))
        # To truncate a table costs more than to delete a few rows, and cascades to the tables that refer to it.
        kept = [table for table, rows in self._rows.items() if rows]
        small = {table.name for table in kept if used.get(table.name)}
        if used.keys() > small:
            names = ", ".join(f'"{name}"' for name in used.keys() - small)
            connection.execute(text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
        for table in kept:
            connection.execute(table.delete())
            connection.execute(table.insert(), self._rows[table])

    @staticmethod
    def _current_shape(connection: Connection) -> object:
        return connection.execute(text(_SHAPE)).scalar_one()

    @staticmethod
    def _rows_of(connection: Connection, table: Any) -> list[dict[str, Any]]:
        return [dict(row) for row in connection.execute(table.select()).mappings()]


def _engine(url: URL) -> Engine:
    return create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
