"""Checks before a move, and the dry run: what there is to move, whether it fits, whether the target can be used.

Nothing here writes. The queue may be in use, so counts may change.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Optional

from sqlalchemy import BigInteger, Column, Float, LargeBinary, String, Table, cast, func, inspect, select, text
from sqlalchemy.engine import Connection

from webapp.admin.move import copying, drain, marker
from webapp.admin.move.databases import MoveError, Reporter, Side, Tick
from webapp.admin.move.marker import COPYING, DONE
from webapp.core.storage import relocated, schema
from webapp.db import engines
from webapp.db.models import Queue
from webapp.lib import text as texts

OLDEST_POSTGRESQL = 13  # the first with pg_current_snapshot and incremental sort
GROWTH = 1.5  # free space for a file as target: so many times the size of the source
FILLED_WHEN_NEW = ("control", "queues", "setup_links")  # tables that have rows in a new database

# States of a target: no database or no tables; new and unused; an unfinished copy of this queue.
NOTHING, FRESH, OURS = "nothing", "fresh", "ours"


@dataclass
class Report:
    """The result of a dry run. The queue can be moved if there are neither `faults` nor `misfits`."""

    source: Side
    target: Side
    counts: dict[str, int]
    size: int  # bytes
    target_state: str
    faults: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)  # values that the target cannot store
    running: list[str] = field(default_factory=list)
    workers: int = 0


def examine(target: Side, reporter: Reporter) -> Report:
    """Count and check without changes. Raises MoveError if the target cannot be used at all."""
    source = Side.here()
    same = source.address == target.address
    if source.is_sqlite and target.is_sqlite:
        with suppress(OSError):
            same = source.config.sqlite_path.samefile(target.config.sqlite_path)
    if same:
        raise MoveError(f"the queue is at {target.address} already.")
    with source.reading() as connection:
        moves = marker.moves(connection, "from")
    if moves and moves[0].phase == COPYING:
        raise MoveError(f"a move to {moves[0].address} is not finished. Continue without --dry-run, or use --undo.")
    if moves and moves[0].phase == DONE:
        raise MoveError(f"{moves[0].words}.")
    state = target_state(target, [move.id for move in moves])
    report = Report(source, target, counts(source), size(source), state)
    report.faults = list(target_faults(target, report.size))
    report.running, report.workers = list(drain.running_jobs().values()), len(drain.running_workers())
    if source.is_sqlite and not target.is_sqlite:
        report.misfits = list(misfits(source, reporter.stage("check", sum(report.counts.values()))))
    return report


# --- the source ------------------------------------------------------------------------------------------------------


def counts(side: Side) -> dict[str, int]:
    """The rows of each table."""
    with side.reading() as connection:
        return {table.name: _count(connection, table) for table in copying.tables()}


def _count(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()


def size(side: Side) -> int:
    """The size of the queue on disk in bytes, indexes included."""
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


def misfits(source: Side, tick: Tick) -> Iterator[str]:
    """Values of a SQLite queue that PostgreSQL cannot store: texts with NUL or not in UTF-8, too large numbers.

    Each as 'jobs 17: command contains a NUL character …'. In the other direction every value fits.
    """
    for table in copying.tables():
        key = list(table.primary_key)
        rest = [one for one in table.columns if not one.primary_key and not isinstance(one.type, LargeBinary)]
        # Texts as bytes, because the driver raises an error for invalid UTF-8.
        wanted = [*key, *(cast(one, LargeBinary) if isinstance(one.type, String) else one for one in (*key, *rest))]
        for rows in copying.pages(source, table, wanted):
            for row in rows:
                for column, value in zip((*key, *rest), row[len(key) :]):
                    why = _misfit_reason(column, value)
                    if why is not None:
                        yield f"{table.name} {'/'.join(map(str, row[: len(key)]))}: {column.name} {why}"
            tick(len(rows))


def _misfit_reason(column: Column[Any], value: Any) -> Optional[str]:
    if value is None:
        return None
    if isinstance(column.type, String):
        if b"\0" in value:
            return "contains a NUL character, which PostgreSQL cannot store"
        try:
            value.decode()
        except UnicodeDecodeError:
            return "is not UTF-8 text"
        return None
    if isinstance(column.type, Float):
        return None if isinstance(value, (int, float)) else f"is {value!r:.40}, not a number"
    if not isinstance(value, int):
        return f"is {value!r:.40}, not a whole number"
    bits = 64 if isinstance(column.type, BigInteger) else 32
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        return f"is {value}, too large for the column in PostgreSQL"
    return None


# --- the target ------------------------------------------------------------------------------------------------------


def target_state(target: Side, known: Collection[str]) -> str:
    """NOTHING, FRESH or OURS. `known` are ids of moves that the source has started. Raises MoveError otherwise."""
    if target.is_sqlite and not target.config.sqlite_path.exists():
        return NOTHING
    with target.reached() as connection:
        return state_of(connection, target.address, known)


def state_of(connection: Connection, address: str, known: Collection[str]) -> str:
    there = set(inspect(connection).get_table_names())
    ours = [table for table in copying.tables() if table.name in there]
    if "alembic_version" not in there:
        if ours:
            raise MoveError(f"{address} has a table {ours[0].name} that is not queuectl's. Use an empty database.")
        return NOTHING
    revision = connection.execute(text(schema.REVISION)).scalar()
    if revision == relocated.UNFINISHED:
        newest = next(iter(marker.moves(connection, "to")), None)
        if newest is not None and newest.id in known:
            return OURS
        raise MoveError(f"{address} is the unfinished copy of another queue. Use an empty database.")
    if revision not in schema.known_revisions():
        raise MoveError(f"{address} belongs to a newer queuectl or to another program. Use an empty database.")
    words = engines.moved_note(connection)
    full = {table.name: _count(connection, table) for table in ours if not _is_unused(connection, table)}
    if words is not None or full:
        what = words or ", ".join(f"{table}: {number:,}" for table, number in full.items())
        raise MoveError(f"{address} is not empty ({what}). Use an empty database, or empty this one.")
    return FRESH


def _is_unused(connection: Connection, table: Table) -> bool:
    """Whether the table has only the rows of a queue that was never used."""
    if table.name == Queue.__tablename__:
        return set(connection.scalars(select(Queue.name).limit(2))) <= {"default"}
    return table.name in FILLED_WHEN_NEW or connection.execute(select(1).select_from(table).limit(1)).first() is None


def target_faults(target: Side, needed: int) -> Iterator[str]:
    """Reasons why an empty database cannot be used. `needed` is the size of the queue in bytes."""
    if target.is_sqlite:
        folder = target.config.sqlite_path.parent
        free = shutil.disk_usage(folder).free
        if not os.access(folder, os.W_OK | os.X_OK):
            yield f"{folder} is not writable."
        if free < needed * GROWTH:
            yield f"{folder} has {texts.size(free)} free, but about {texts.size(needed * GROWTH)} are needed."
        return
    with target.reached() as connection:
        version, encoding, standby, schema, may, user = connection.execute(
            text(
                "SELECT CAST(current_setting('server_version_num') AS integer), current_setting('server_encoding'),"
                " pg_is_in_recovery(), current_schema(), has_schema_privilege(current_schema(), 'CREATE'),"
                " current_user"
            )
        ).one()
    if version < OLDEST_POSTGRESQL * 10_000:
        yield f"the server is PostgreSQL {version // 10_000}; {OLDEST_POSTGRESQL} or newer is required."
    if encoding != "UTF8":
        yield f"its encoding is {encoding}. Create it with: createdb --encoding=UTF8 --template=template0 NAME"
    if standby:
        yield "the server is a read-only standby. Use the primary."
    if not may:
        name = schema or "public"
        yield f'this user may not create tables. In that database, run `GRANT ALL ON SCHEMA {name} TO "{user}"`.'
