"""Recognises errors of SQLAlchemy that mean: the server did not answer. `core/db_errors.py` explains other errors."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

OUT_OF_REACH = "the database is out of reach. Work resumes automatically when it is back"


def is_out_of_reach(error: BaseException) -> bool:
    """Whether the server did not answer, closed the connection, or refused for a reason without a sentence here.

    psycopg uses other classes for errors in a statement. SQLite does not, so it is excluded.
    """
    if isinstance(error, PoolTimeout):
        return True
    ours = isinstance(error, (OperationalError, InterfaceError))
    return ours and type(getattr(error, "orig", None)).__module__.partition(".")[0] == "psycopg"


def may_have_been_done(error: BaseException) -> bool:
    """Whether a commit got no answer, so the server may or may not have done it."""
    # An error in a statement has the statement; an error while connecting invalidates no connection.
    return (
        is_out_of_reach(error)
        and isinstance(error, DBAPIError)
        and error.statement is None
        and bool(error.connection_invalidated)
    )
