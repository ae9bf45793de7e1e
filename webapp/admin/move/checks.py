"""What can be known before anything is changed: what there is to move, whether it fits, whether the target may have it.

Nothing here writes. The queue may be in full use meanwhile, so counts are of just now.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import BigInteger, Column, Float, LargeBinary, String, Table, cast, func, inspect, select, text
from sqlalchemy.engine import Connection

from webapp.admin.move import copying, marks
from webapp.admin.move.sides import MoveError, Side, Tick
from webapp.core import relocated, schema
from webapp.db.models import Queue
from webapp.lib import text as texts

OLDEST_POSTGRESQL = 13  # has pg_current_snapshot, and sorts by what an index has sorted already
GROWTH = 1.5  # of what the source takes, so much should be free where the target is a file
MADE_BY_ITSELF = ("control", "queues", "setup_links")  # an empty database may have rows of these

# What a target is: not there or empty of tables; as the migrations leave it; a copy that this queue has begun before.
NOTHING, FRESH, OURS = "nothing", "fresh", "ours"


@dataclass(frozen=True)
class Misfit:
    """A value that the target cannot hold. `key` is the row's, as people may look it up."""

    table: str
    key: str
    column: str
    why: str

    def __str__(self) -> str:
        return f"{self.table} {self.key}: {self.column} {self.why}"


# --- the source ------------------------------------------------------------------------------------------------------


def counts(side: Side) -> dict[str, int]:
    """The rows of each table."""
    with side.reading() as connection:
        return {table.name: _count(connection, table) for table in copying.tables()}


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def size(side: Side) -> int:
    """How much the queue takes on the disk, in bytes, indexes and all."""
    with side.reading() as connection:
        if side.is_sqlite:
            pages, free, each = (
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("page_count", "freelist_count", "page_size")
            )
            return int((pages - free) * each)
        names = [table.name for table in copying.tables()]
        statement = (
            "SELECT sum(pg_total_relation_size(CAST(name AS regclass))) FROM unnest(CAST(:names AS text[])) AS t(name)"
        )
        return int(connection.execute(text(statement), {"names": names}).scalar_one())


def misfits(source: Side, tick: Tick) -> Iterator[Misfit]:
    """Values of a SQLite queue that PostgreSQL cannot hold: a text with a NUL in it or that is no UTF-8, a number that
    is too large for its column. The other way round everything fits.
    """
    for table in copying.tables():
        key = list(table.primary_key)
        rest = [column for column in table.columns if not column.primary_key and not _is_blob(column)]
        # A text as bytes: the driver would decode it, and raise where it cannot.
        wanted = [*key, *(cast(one, LargeBinary) if isinstance(one.type, String) else one for one in (*key, *rest))]
        for rows in copying.pages(source, table, wanted):
            for row in rows:
                for column, value in zip((*key, *rest), row[len(key) :]):
                    why = _unfit(column, value)
                    if why is not None:
                        yield Misfit(table.name, "/".join(map(str, row[: len(key)])), column.name, why)
            tick(len(rows))


def _is_blob(column: Column[Any]) -> bool:
    return isinstance(column.type, LargeBinary)


def _unfit(column: Column[Any], value: Any) -> Optional[str]:
    if value is None:
        return None
    if isinstance(column.type, String):
        if b"\0" in value:
            return "has a NUL in its text, which PostgreSQL does not take"
        try:
            value.decode()
        except UnicodeDecodeError:
            return "is no UTF-8 text"
        return None
    if isinstance(column.type, Float):
        return None if isinstance(value, (int, float)) else f"is {value!r:.40}, not a number"
    if not isinstance(value, int):
        return f"is {value!r:.40}, not a whole number"
    bits = 64 if isinstance(column.type, BigInteger) else 32
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        return f"is {value}, more than PostgreSQL's column holds"
    return None


# --- the target ------------------------------------------------------------------------------------------------------


def standing(target: Side, known: Collection[str]) -> str:
    """NOTHING, FRESH or OURS; `known` are the moves that the source has begun. Raises MoveError where it is neither."""
    if target.is_sqlite and not target.config.sqlite_path.exists():
        return NOTHING
    with target.reached() as connection:
        return standing_of(connection, target.address, known)


def standing_of(connection: Connection, address: str, known: Collection[str]) -> str:
    there = set(inspect(connection).get_table_names())
    ours = [table for table in copying.tables() if table.name in there]
    if "alembic_version" not in there:
        if ours:
            raise MoveError(f"{address} has a table {ours[0].name} that is not queuectl's. Name an empty database.")
        return NOTHING
    revision = connection.execute(text(schema.REVISION)).scalar()
    if revision == relocated.UNFINISHED:
        newest = next(iter(marks.moves(connection, "to")), None)
        if newest is not None and newest.id in known:
            return OURS
        raise MoveError(f"{address} is the unfinished copy of another queue. Name an empty database.")
    if revision not in schema.known_revisions():
        raise MoveError(f"{address} is of a newer queuectl, or of another program. Name an empty database.")
    words = relocated.note(connection)
    full = {table.name: _count(connection, table) for table in ours if not _is_bare(connection, table)}
    if words is not None or full:
        what = words or ", ".join(f"{table}: {number:,}" for table, number in full.items())
        raise MoveError(f"{address} is not empty ({what}). Name an empty database, or empty that one.")
    return FRESH


def _is_bare(connection: Connection, table: Table) -> bool:
    """Whether it has no more rows than it has in a queue that was never used."""
    if table.name == Queue.__tablename__:
        return set(connection.scalars(select(Queue.name).limit(2))) <= {"default"}
    return table.name in MADE_BY_ITSELF or connection.execute(select(1).select_from(table).limit(1)).first() is None


def faults_of(target: Side, needed: int) -> Iterator[str]:
    """What keeps a database that may be had from being used; `needed` are the bytes that the queue takes now."""
    if target.is_sqlite:
        folder = target.config.sqlite_path.parent
        free = shutil.disk_usage(folder).free
        if not os.access(folder, os.W_OK | os.X_OK):
            yield f"{folder} cannot be written."
        if free < needed * GROWTH:
            yield f"{folder} has {texts.size(free)} free, and about {texts.size(needed * GROWTH)} are needed."
        return
    with target.reached() as connection:
        version, encoding, standby, schema, may = connection.execute(
            text(
                "SELECT CAST(current_setting('server_version_num') AS integer), current_setting('server_encoding'),"
                " pg_is_in_recovery(), current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
            )
        ).one()
    if version < OLDEST_POSTGRESQL * 10_000:
        yield f"the server is PostgreSQL {version // 10_000}; {OLDEST_POSTGRESQL} is the least."
    if encoding != "UTF8":
        yield f"its encoding is {encoding}. Make it with: createdb --encoding=UTF8 --template=template0 NAME"
    if standby:
        yield "the server is a standby, which cannot be written. Name the primary."
    if not may:
        yield f"this user may make no tables in its schema {schema or '(none)'}. Own the database, or GRANT CREATE."
