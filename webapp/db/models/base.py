"""Types and checks for all tables."""

from __future__ import annotations

from sqlalchemy import BigInteger, Integer

# SQLite gives a rowid only to INTEGER; PostgreSQL needs BIGINT to count beyond 2 ** 31.
Sequence = BigInteger().with_variant(Integer, "sqlite")


def one_of(column: str, values: tuple[str, ...]) -> str:
    """SQL condition that a column has one of these values."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"
