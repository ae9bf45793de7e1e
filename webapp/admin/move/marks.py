"""The mark on a database that takes no more writes, and the record of moves that both databases of one keep.

The mark is triggers on every table, each of which refuses with the sentence of `core/relocated.py`; its table of moves has
that sentence for those who only read. Neither is part of the schema: they are made by the first move that needs them.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar

from sqlalchemy import BigInteger, Column, MetaData, Table, Text, inspect, select, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from webapp.admin.move.sides import MoveError, Side
from webapp.core import relocated
from webapp.core.locks import Busy

# In the source: PREPARED, the target is being made ready; COPYING, marked; DONE, the target is the queue.
# In the target: COPYING, it cannot be used; DONE, it is the queue. In both: UNDONE, taken back.
PREPARED, COPYING, DONE, UNDONE = "prepared", "copying", "done", "undone"

# Milliseconds of one try for all locks. Shorter than PostgreSQL's deadlock_timeout, so that nobody's work is ended for
# it; after SHORT_TRIES seconds longer, for an autovacuum gives way to nobody who has not waited for so long.
LOCK_TRY, LONG_TRY, SHORT_TRIES = 500, 3000, 6.0
LOCK_PATIENCE = 30.0  # seconds
_NOT_YET = ("55P03", "40P01")  # lock not available, deadlock detected
_FUNCTION = "queue_is_elsewhere"
T = TypeVar("T")

_metadata = MetaData()
MOVES = Table(
    relocated.TABLE,
    _metadata,
    Column("id", Text, primary_key=True),  # of the move, the same in both
    Column("role", Text, nullable=False),  # 'from' in the source, 'to' in the target
    Column("address", Text, nullable=False),  # of the other one, without a password
    Column("phase", Text, nullable=False),
    Column("words", Text),  # what writers are told; None while they are welcome
    Column("at", BigInteger, nullable=False),  # when it was begun
    Column("progress", Text),  # in the target: how far each table is, see copying.py
)


@dataclass(frozen=True)
class Move:
    """What one database knows of a move."""

    id: str
    role: str
    address: str
    phase: str
    words: Optional[str]
    at: int
    progress: Mapping[str, Any]


def moves(connection: Connection, role: str) -> list[Move]:
    """Those in which this database was the source ('from') or the target ('to'), the newest first."""
    if not inspect(connection).has_table(MOVES.name):
        return []
    rows = connection.execute(select(MOVES).where(MOVES.c.role == role).order_by(MOVES.c.at.desc()))
    return [
        Move(row.id, row.role, row.address, row.phase, row.words, row.at, json.loads(row.progress or "{}"))
        for row in rows
    ]


def departure(source: Side) -> Optional[Move]:
    """The newest move of which this is the source."""
    with source.reading() as connection:
        return next(iter(moves(connection, "from")), None)


def arrival(target: Side, move_id: str) -> Optional[Move]:
    """What the target knows of a move; None where nothing of it has arrived. Raises MoveError: it cannot be read."""
    if target.is_sqlite and not target.config.sqlite_path.exists():
        return None
    with target.reached() as connection:
        return next((one for one in moves(connection, "to") if one.id == move_id), None)


def begin(connection: Connection, move: Move) -> None:
    _metadata.create_all(connection)
    connection.execute(
        MOVES.insert().values(
            id=move.id, role=move.role, address=move.address, phase=move.phase, words=move.words, at=move.at
        )
    )


def forget(connection: Connection) -> None:
    _metadata.drop_all(connection)


def note(connection: Connection, move_id: str, **values: Any) -> None:
    """Change what stands in the row of a move; `progress` as it is, not as JSON."""
    if "progress" in values:
        values["progress"] = json.dumps(values["progress"])
    connection.execute(update(MOVES).where(MOVES.c.id == move_id).values(values))


def set_revision(connection: Connection, revision: str) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


# --- the mark --------------------------------------------------------------------------------------------------------


def alone(side: Side, work: Callable[[Connection], T]) -> T:
    """Do something in a transaction in which nobody else writes to any table. Raises MoveError where none can be had.

    SQLite has one writer anyway. PostgreSQL is asked for all tables in short tries: whoever has written to one and
    wants another must not wait for us so long that one of the two is ended as a deadlock.
    """
    began = time.monotonic()
    while True:
        try:
            with side.writing() as connection:
                if not side.is_sqlite:
                    patience = LOCK_TRY if time.monotonic() < began + SHORT_TRIES else LONG_TRY
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {patience}")
                    names = ", ".join(f'"{name}"' for name in _tables(connection))
                    connection.exec_driver_sql(f"LOCK TABLE {names} IN EXCLUSIVE MODE")  # readers go on
                return work(connection)
        except Busy:
            if side.is_sqlite:
                raise
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in _NOT_YET:
                raise
        if time.monotonic() > began + LOCK_PATIENCE:
            raise MoveError(
                f"some program keeps a transaction open on {side.address}, for longer than {LOCK_PATIENCE:.0f} s. "
                "End it (pg_stat_activity shows it), then try again."
            )
        time.sleep(0.1)


def freeze(connection: Connection, words: str) -> None:
    """Have every table refuse each write with these words; again with others, where it does so already."""
    literal = "'" + words.replace("'", "''") + "'"
    if connection.dialect.name == "sqlite":
        thaw(connection)
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
    # Of those that are there already none is dropped: that would have to wait for everybody who reads.
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


def thaw(connection: Connection) -> None:
    """Let every table take writes again."""
    if connection.dialect.name == "sqlite":
        statement = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'elsewhere\\_%' ESCAPE '\\'"
        for (name,) in connection.exec_driver_sql(statement).fetchall():
            _execute(connection, f'DROP TRIGGER "{name}"')
        return
    _execute(connection, f"DROP FUNCTION IF EXISTS {_FUNCTION}() CASCADE")


def take_off(target: Side, move_id: str) -> None:
    """Let a target take writes again that an undo has marked; a mark of any other move stays."""
    found = arrival(target, move_id)
    if found is None or found.words is None:
        return

    def work(connection: Connection) -> None:
        thaw(connection)
        note(connection, move_id, words=None)

    alone(target, work)


def _tables(connection: Connection) -> list[str]:
    """All that there are, also those of which this version knows nothing; but for the record of moves."""
    return sorted(set(inspect(connection).get_table_names()) - {MOVES.name})


def _execute(connection: Connection, statement: str) -> None:
    # Without parameters, so that a percent sign in an address is one.
    connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
