"""A queue that was moved to another database, or is being moved: what writers and readers are told.

`admin/move/` gives every table triggers that refuse each write with one of the messages here. So no process of any
version stores data in the old database. Here is how a process recognises such an error, and where readers find the
same message.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from webapp.lib import clock

UNFINISHED = "unfinished copy"  # replaces the schema revision, so no version uses such a database
TABLE = "queue_moves"  # created by the first move, see admin/move/marker.py; other databases do not have it
_BEGINNINGS = ("this queue is being moved to ", "this queue was moved to ", "this copy of the queue was given up ")

Scalar = Callable[[str], Any]  # executes a statement and returns the first value of its first row, or None


class Relocated(OSError):
    """The queue was moved to another database, or is being moved. The message says where, without a full stop."""


def on_its_way(address: str, at: int) -> str:
    return f"{_BEGINNINGS[0]}{address} since {_when(at)} and is read-only until the move is complete. Try again then"


def moved(address: str, at: int) -> str:
    where = "Set QUEUECTL_DATABASE_URL to that address, with its password if it has one"
    return f"{_BEGINNINGS[1]}{address} on {_when(at)}. {where}"


def given_up(address: str, at: int) -> str:
    return f"{_BEGINNINGS[2]}on {_when(at)}: the queue is at {address}. Set QUEUECTL_DATABASE_URL to that address"


def _when(at: int) -> str:
    return clock.to_datetime(at).strftime("%Y-%m-%d %H:%M UTC")


def words_of(error: BaseException) -> Optional[str]:
    """The message of a driver's error that is such a refusal; None for any other error.

    Only the start counts: the rest of another error may quote text that a person entered.
    """
    line = str(error).partition("\n")[0]
    return line if line.startswith(_BEGINNINGS) else None


def note(scalar: Scalar, *, is_sqlite: bool) -> Optional[str]:
    """The message for readers of this database; None if it accepts writes."""
    if not _has_table(scalar, is_sqlite):
        return None
    words: Optional[str] = scalar(f"SELECT words FROM {TABLE} WHERE words IS NOT NULL ORDER BY at DESC")  # noqa: S608
    return words


def refuse(execute: Callable[[str], Any], *, is_sqlite: bool) -> None:
    """Raises Relocated in the old database of a moved queue, for callers that only read. `execute` returns a cursor."""

    def scalar(statement: str) -> Any:
        row = execute(statement).fetchone()
        return None if row is None else row[0]

    words = note(scalar, is_sqlite=is_sqlite)
    if words is not None:
        raise Relocated(words)


def unfinished(scalar: Scalar, *, is_sqlite: bool) -> str:
    """Why a database with the revision UNFINISHED cannot be used, and what to do; without a full stop."""
    words = note(scalar, is_sqlite=is_sqlite)
    if words is not None:
        return words
    address = None
    if _has_table(scalar, is_sqlite):
        address = scalar(f"SELECT address FROM {TABLE} WHERE role = 'to' ORDER BY at DESC")  # noqa: S608
    return (
        f"this database is the unfinished copy of the queue at {address or 'another address'}. "
        "Run `manage.py db move` there again to complete it, or continue to use that queue"
    )


def _has_table(scalar: Scalar, is_sqlite: bool) -> bool:
    if is_sqlite:
        statement = f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{TABLE}'"  # noqa: S608
    else:
        statement = f"SELECT 1 WHERE to_regclass('{TABLE}') IS NOT NULL"
    return scalar(statement) is not None
