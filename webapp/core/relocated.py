"""What anybody is told who writes to a queue that was moved to another database, or that is on its way.

The database itself says it: `moving/` gives every table triggers that refuse each write with one of the sentences
here, so that no process, whatever its version, stores anything that nobody would find. Here is how a process knows
such an answer from any other error, and where somebody who only reads finds the same sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from webapp.lib import clock

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

UNFINISHED = "unfinished copy"  # stands in the place of the schema's revision, so that no version uses such a database
TABLE = "queue_moves"  # made by the first move, see admin/move/marker.py; not there in a database that was part of none
_BEGINNINGS = ("this queue is being moved to ", "this queue was moved to ", "this copy of the queue was given up ")


class Relocated(OSError):
    """The queue has moved to another database, or is on its way; the message says where, without a full stop."""


def on_its_way(address: str, at: int) -> str:
    return f"{_BEGINNINGS[0]}{address} since {_when(at)} and takes no changes until that is done. Try again then"


def moved(address: str, at: int) -> str:
    where = "Set QUEUECTL_DATABASE_URL to that address, with its password if it has one"
    return f"{_BEGINNINGS[1]}{address} on {_when(at)}. {where}"


def given_up(address: str, at: int) -> str:
    return f"{_BEGINNINGS[2]}on {_when(at)}: the queue is at {address}. Set QUEUECTL_DATABASE_URL to that"


def _when(at: int) -> str:
    return clock.to_datetime(at).strftime("%Y-%m-%d %H:%M UTC")


def words_of(error: BaseException) -> Optional[str]:
    """The sentence, where this error of a database driver is such a refusal; None for any other.

    Only the beginning of a message is the trigger's: what stands behind it may repeat what somebody typed.
    """
    line = str(error).partition("\n")[0]
    return line if line.startswith(_BEGINNINGS) else None


def note(connection: Connection) -> Optional[str]:
    """The sentence for whoever only reads this database; None where it takes writes."""
    if not _has_table(connection):
        return None
    return connection.exec_driver_sql(f"SELECT words FROM {TABLE} WHERE words IS NOT NULL ORDER BY at DESC").scalar()  # noqa: S608


def unfinished(connection: Connection) -> str:
    """Why a database whose revision is UNFINISHED cannot be used, and what to do; without a full stop."""
    words = note(connection)
    if words is not None:
        return words
    address = None
    if _has_table(connection):
        statement = f"SELECT address FROM {TABLE} WHERE role = 'to' ORDER BY at DESC"  # noqa: S608
        address = connection.exec_driver_sql(statement).scalar()
    return (
        f"this database is the unfinished copy of the queue at {address or 'another address'}. "
        f"Run `manage.py db move` there again to complete it, or go on using that one"
    )


def _has_table(connection: Connection) -> bool:
    if connection.dialect.name == "sqlite":
        statement = f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{TABLE}'"  # noqa: S608
    else:
        statement = f"SELECT 1 WHERE to_regclass('{TABLE}') IS NOT NULL"
    return connection.exec_driver_sql(statement).scalar() is not None
