"""Triggers that block all writes to a moved database, and the record of moves in both databases.

Each trigger refuses a write with the message of `core/relocated.py`; the record has the same message for readers. The
first move creates both; they are not part of the schema.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar

from sqlalchemy import BigInteger, Column, MetaData, Table, Text, inspect, select, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from webapp.admin.move.databases import MoveError, Side
from webapp.core.storage import relocated
from webapp.core.storage.locks import Busy

# In the source: PREPARED, the target is being prepared; COPYING, writes are blocked; DONE, the target is the queue.
# In the target: COPYING, it cannot be used; DONE, it is the queue. In both: UNDONE, taken back.
PREPARED, COPYING, DONE, UNDONE = "prepared", "copying", "done", "undone"

# Milliseconds of one attempt to lock all tables. At first shorter than PostgreSQL's deadlock_timeout, so that no other
# transaction is aborted. Later longer, because an autovacuum gives way only after deadlock_timeout.
SHORT_LOCK_TIMEOUT_MS, LONG_LOCK_TIMEOUT_MS = 500, 3000
SHORT_TRIES_SECONDS = 6.0
LOCK_TIMEOUT_SECONDS = 30.0  # for all attempts
_LOCK_ERRORS = ("55P03", "40P01")  # lock not available, deadlock detected
_FUNCTION = "queue_is_elsewhere"
T = TypeVar("T")

MOVES = Table(
    relocated.TABLE,
    MetaData(),
    Column("id", Text, primary_key=True),  # the same in both databases
    Column("role", Text, nullable=False),  # 'from' in the source, 'to' in the target
    Column("address", Text, nullable=False),  # of the other database, without password
    Column("phase", Text, nullable=False),
    Column("words", Text),  # message for writers; None: writes are allowed
    Column("at", BigInteger, nullable=False),  # start of the move
    Column("progress", Text),  # in the target: progress of each table as JSON, see copying.py
)


@dataclass(frozen=True)
class Move:
    """The record of a move in one database. Columns as in MOVES."""

    id: str
    role: str
    address: str
    phase: str
    words: Optional[str]
    at: int
    progress: Optional[str] = None


def moves(connection: Connection, role: str) -> list[Move]:
    """Moves in which this database is the source ('from') or the target ('to'), newest first."""
    if not inspect(connection).has_table(MOVES.name):
        return []
    rows = connection.execute(select(MOVES).where(MOVES.c.role == role).order_by(MOVES.c.at.desc()))
    return [Move(*row) for row in rows]


def outgoing_move(source: Side) -> Optional[Move]:
    """The newest move from this database."""
    with source.reading() as connection:
        return next(iter(moves(connection, "from")), None)


def incoming_move(target: Side, move_id: str) -> Optional[Move]:
    """The target's record of a move; None: it has none. Raises MoveError if the target cannot be read."""
    if target.is_sqlite and not target.config.sqlite_path.exists():
        return None
    with target.reached() as connection:
        return next((one for one in moves(connection, "to") if one.id == move_id), None)


def add(connection: Connection, move: Move) -> None:
    MOVES.create(connection, checkfirst=True)
    connection.execute(MOVES.insert().values(vars(move)))


def update_move(connection: Connection, move_id: str, **values: Any) -> None:
    connection.execute(update(MOVES).where(MOVES.c.id == move_id).values(values))


def set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


# --- blocking writes -------------------------------------------------------------------------------------------------


def run_exclusively(side: Side, work: Callable[[Connection], T]) -> T:
    """Run `work` in a transaction while no other process writes to any table. Raises MoveError after a timeout.

    SQLite has one writer anyway. On PostgreSQL all tables are locked in short attempts: another transaction that has
    written to one table and needs a second one must not run into a deadlock.
    """
    began = time.monotonic()
    while True:
        try:
            with side.writing() as connection:
                if not side.is_sqlite:
                    short = time.monotonic() < began + SHORT_TRIES_SECONDS
                    timeout = SHORT_LOCK_TIMEOUT_MS if short else LONG_LOCK_TIMEOUT_MS
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {timeout}")
                    names = ", ".join(f'"{name}"' for name in _tables(connection))
                    connection.exec_driver_sql(f"LOCK TABLE {names} IN EXCLUSIVE MODE")  # allows reads
                return work(connection)
        except Busy:
            if side.is_sqlite:
                raise
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in _LOCK_ERRORS:
                raise
        if time.monotonic() > began + LOCK_TIMEOUT_SECONDS:
            raise MoveError(
                f"another program has kept a transaction open on {side.address} for {LOCK_TIMEOUT_SECONDS:.0f} s. "
                "End it (pg_stat_activity shows it), then try again."
            )
        time.sleep(0.1)


def block_writes(connection: Connection, words: str) -> None:
    """Refuse each write to every table with this message, which replaces an earlier one."""
    literal = "'" + words.replace("'", "''") + "'"
    if connection.dialect.name == "sqlite":
        unblock_writes(connection)
        for table in _tables(connection):
            for verb in ("INSERT", "UPDATE", "DELETE"):
                _execute(
                    connection,
                    f'CREATE TRIGGER "elsewhere_{verb.lower()}_{table}" BEFORE {verb} ON "{table}" '
                    f"BEGIN SELECT RAISE(ABORT, {literal}); END",
                )
        return
    quote = f"$q{secrets.token_hex(4)}$"
    _execute(
        connection,
        f"CREATE OR REPLACE FUNCTION {_FUNCTION}() RETURNS trigger LANGUAGE plpgsql AS "
        f"{quote} BEGIN RAISE EXCEPTION USING MESSAGE = {literal}; END {quote}",
    )
    # Existing triggers stay: dropping one would wait for all readers.
    statement = (
        "SELECT relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid"
        " WHERE tgname = 'elsewhere_rows' AND relnamespace = CAST(current_schema() AS regnamespace)"
    )
    there = {name for (name,) in connection.exec_driver_sql(statement)}
    for table in sorted(set(_tables(connection)) - there):
        for name, when, each in (("rows", "INSERT OR UPDATE OR DELETE", "ROW"), ("table", "TRUNCATE", "STATEMENT")):
            _execute(
                connection,
                f'CREATE TRIGGER elsewhere_{name} BEFORE {when} ON "{table}" '
                f"FOR EACH {each} EXECUTE FUNCTION {_FUNCTION}()",
            )


def unblock_writes(connection: Connection) -> None:
    """Allow writes to every table again."""
    if connection.dialect.name == "sqlite":
        statement = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'elsewhere\\_%' ESCAPE '\\'"
        for (name,) in connection.exec_driver_sql(statement).fetchall():
            _execute(connection, f'DROP TRIGGER "{name}"')
        return
    _execute(connection, f"DROP FUNCTION IF EXISTS {_FUNCTION}() CASCADE")


def unblock_target(target: Side, move_id: str) -> None:
    """Allow writes to a target that an undo has blocked, but not if another move has blocked it."""
    found = incoming_move(target, move_id)
    if found is None or found.words is None:
        return

    def work(connection: Connection) -> None:
        unblock_writes(connection)
        update_move(connection, move_id, words=None)

    run_exclusively(target, work)


def _tables(connection: Connection) -> list[str]:
    """All tables, unknown ones included, except the record of moves."""
    return sorted(set(inspect(connection).get_table_names()) - {MOVES.name})


def _execute(connection: Connection, statement: str) -> None:
    # Without parameters, because an address may contain a percent sign.
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
