"""Types and checks for all tables."""

from __future__ import annotations

from typing import Union

from sqlalchemy import BigInteger, Index, Integer, TextClause, text

# SQLite gives a rowid only to INTEGER; PostgreSQL needs BIGINT to count beyond 2 ** 31.
Sequence = BigInteger().with_variant(Integer, "sqlite")


def one_of(column: str, values: tuple[str, ...]) -> str:
    """SQL condition that a column has one of these values."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def partial_index(name: str, *columns: Union[str, TextClause], where: str, unique: bool = False) -> Index:
    """The migrations make it, on PostgreSQL too. `postgresql_where` here would load that dialect into each command."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where))
