"""Copies the rows of every table in batches by key, and computes checksums.

A batch is one transaction of the target and stores the progress too, so a killed run continues from there. The source
must accept no writes. A checksum does not depend on the order of rows, because the two databases sort texts
differently. Rows are hashed here, from the values of the drivers, so that both sides give equal sums.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Optional

from sqlalchemy import Column, LargeBinary, Select, String, Table, cast, func, insert, select, text, tuple_
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from webapp.admin.move import marker
from webapp.admin.move.databases import MoveError, Side, Tick
from webapp.core.storage import db_errors
from webapp.db import models
from webapp.db.engines import Base

models.load_all()

ROWS = 2000  # limit of one batch
BYTES = 8 * 1024**2  # limit of texts and outputs in one batch; a single row may be larger
_MODULUS = 2**128


def tables() -> list[Table]:
    """All copied tables; tables come after the tables that they refer to."""
    return list(Base.metadata.sorted_tables)


@dataclass
class Sum:
    """How many rows, and the sum of their hashes."""

    rows: int = 0
    value: int = 0

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        self.rows += len(rows)
        self.value = (self.value + sum(map(_hash, rows))) % _MODULUS


def _hash(row: Sequence[Any]) -> int:
    """Hash `ascii()` of the values, which is the same in every Python version, and bytes directly."""
    blobs = [value for value in row if type(value) is bytes]
    found = blake2b(digest_size=16)
    found.update(ascii([len(value) if type(value) is bytes else value for value in row]).encode())
    for blob in blobs:
        found.update(blob)
    return int.from_bytes(found.digest(), "big")


def copy(source: Side, target: Side, move_id: str, progress: Optional[str], tick: Tick) -> dict[str, Sum]:
    """Copy the missing rows into the target. Returns the sum of each table.

    `progress` is JSON from the target's record of the move: for each table the last copied key, the number of rows up
    to it, and the sum of their hashes. Raises MoveError if the target refuses a batch: a value does not fit, the disk
    is full.
    """
    parts = json.loads(progress or "{}")
    sums = {name: Sum(part["rows"], int(part["sum"], 16)) for name, part in parts.items()}
    for table in tables():
        found = sums.setdefault(table.name, Sum())
        tick(found.rows)
        for rows in pages(source, table, after=parts.get(table.name, {}).get("after")):
            found.add(rows)
            after = list(_key_of(table, rows[-1]))
            parts[table.name] = {"after": after, "rows": found.rows, "sum": f"{found.value:032x}"}
            with _explaining_errors(target, table), target.writing() as connection:
                _store(connection, table, rows)
                marker.update_move(connection, move_id, progress=json.dumps(parts))
            tick(len(rows))
    return sums


@contextmanager
def _explaining_errors(target: Side, table: Table) -> Iterator[None]:
    """Turn an error of SQLAlchemy or psycopg into a MoveError."""
    driver: tuple[type[BaseException], ...] = (DBAPIError,)
    if not target.is_sqlite:
        import psycopg

        driver = (DBAPIError, psycopg.Error)
    try:
        yield
    except driver as error:
        reason = db_errors.explain(error) or str(getattr(error, "orig", error)).strip().partition("\n")[0]
        raise MoveError(f"{target.address} refuses rows of {table.name}: {reason}.") from error


def sum_up(side: Side, table: Table, tick: Tick) -> Sum:
    """Read a whole table, page by page."""
    found = Sum()
    for rows in pages(side, table):
        found.add(rows)
        tick(len(rows))
    return found


def pages(
    side: Side, table: Table, columns: Optional[Sequence[Any]] = None, after: Optional[Sequence[Any]] = None
) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows of a table after a key, or all. `columns` replaces the table's columns and must start with the key."""
    last = False
    while not last:
        with side.reading() as connection:
            rows, last = _page(connection, table, after, columns)
        if rows:
            yield rows
            after = _key_of(table, rows[-1]) if columns is None else rows[-1][: len(table.primary_key)]


def _page(
    connection: Connection, table: Table, after: Optional[Sequence[Any]], columns: Optional[Sequence[Any]] = None
) -> tuple[Sequence[Sequence[Any]], bool]:
    """The rows after a key, as many as ROWS and BYTES allow, and whether they are the last.

    It reads the sizes first, because an output may be large.
    """
    sizes: Select[Any] = select(*_key(table), _size(connection, table))
    keys = connection.execute(_after(sizes, table, after).limit(ROWS)).all()
    if not keys:
        return [], True
    number, size = 0, 0
    for row in keys:
        size += row[-1]
        if number and size > BYTES:
            break
        number += 1
    wanted: Select[Any] = select(*(table.columns if columns is None else columns))
    rows = connection.execute(_after(wanted, table, after).limit(number)).all()
    return rows, number == len(keys) < ROWS


def _after(statement: Select[Any], table: Table, after: Optional[Sequence[Any]]) -> Select[Any]:
    key = _key(table)
    if after is not None:
        statement = statement.where(key[0] > after[0] if len(key) == 1 else tuple_(*key) > tuple_(*after))
    return statement.order_by(*key)


def _key(table: Table) -> list[Column[Any]]:
    return list(table.primary_key)


def _key_of(table: Table, row: Sequence[Any]) -> tuple[Any, ...]:
    places = {column: place for place, column in enumerate(table.columns)}
    return tuple(row[places[column]] for column in _key(table))


def _size(connection: Connection, table: Table) -> Any:
    """The bytes of a row's texts and blobs, which both databases know without reading a blob."""
    sqlite = connection.dialect.name == "sqlite"
    sizes = [
        func.coalesce(func.length(cast(column, LargeBinary)) if sqlite else func.octet_length(column), 0)
        for column in table.columns
        if isinstance(column.type, (String, LargeBinary))
    ]
    return sum(sizes[1:], sizes[0]) if sizes else text("0")


def _store(connection: Connection, table: Table, rows: Sequence[Sequence[Any]]) -> None:
    if connection.dialect.name == "sqlite":
        names = [column.name for column in table.columns]
        connection.execute(insert(table), [dict(zip(names, row)) for row in rows])
        return
    quote = connection.dialect.identifier_preparer.quote
    columns = ", ".join(quote(column.name) for column in table.columns)
    driver: Any = connection.connection.driver_connection
    # COPY is several times faster than INSERT.
    with driver.cursor() as cursor, cursor.copy(f"COPY {quote(table.name)} ({columns}) FROM STDIN") as into:
        for row in rows:
            into.write_row(row)


# --- counters --------------------------------------------------------------------------------------------------------


def counters(connection: Connection) -> dict[str, int]:
    """The last generated key of each table with a counter; its row may be deleted by now."""
    found = {}
    for table in tables():
        if not table.dialect_options["sqlite"]["autoincrement"]:
            continue
        if connection.dialect.name == "sqlite":
            statement = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
            found[table.name] = connection.execute(statement, {"name": table.name}).scalar() or 0
        else:
            statement = text(f"SELECT last_value, is_called FROM {_sequence(connection, table)}")  # noqa: S608
            last, called = connection.execute(statement).one()
            found[table.name] = last if called else last - 1
    return found


def set_counters(connection: Connection, wanted: Mapping[str, int]) -> None:
    """Continue each counter after these numbers."""
    for name, last in wanted.items():
        if connection.dialect.name == "sqlite":
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": name})
            if last:
                statement = text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)")
                connection.execute(statement, {"name": name, "last": last})
        else:
            sequence = _sequence(connection, Base.metadata.tables[name])
            connection.execute(
                text("SELECT setval(CAST(:name AS regclass), :last, :called)"),
                {"name": sequence, "last": max(last, 1), "called": last > 0},
            )


def _sequence(connection: Connection, table: Table) -> str:
    """The name of the sequence behind a table's key."""
    (key,) = table.primary_key
    statement = text("SELECT pg_get_serial_sequence(:table, :column)")
    return str(connection.execute(statement, {"table": table.name, "column": key.name}).scalar_one())
