"""The PostgreSQL server for the benchmark: scratch databases, and queries about them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Optional
from urllib.parse import urlsplit, urlunsplit

from tests.bench import BenchError
from tests.bench.peers.running import ADDRESS
from webapp.config import ConfigError, database_url

if TYPE_CHECKING:
    import psycopg

PREFIX = "queuectl_bench_"


def missing() -> str:
    """Why PostgreSQL cannot be measured here, in one line; empty if it can."""
    address = os.environ.get(ADDRESS)
    if not address:
        return f"name a PostgreSQL in which databases may be made in {ADDRESS} (postgresql://user@host/database)."
    try:
        if not database_url(address, ADDRESS).startswith("postgresql"):
            return f"{ADDRESS} names no PostgreSQL. Expected postgresql://user@host/database."
    except ConfigError as error:
        return str(error)
    if find_spec("psycopg") is None:
        return "psycopg is not installed here: set QUEUECTL_DATABASE_URL to the same address, which brings it."
    return ""


@dataclass(frozen=True)
class Database:
    """A database of that server. `url` is in the form of libpq."""

    url: str

    @property
    def for_us(self) -> str:
        """The same as QUEUECTL_DATABASE_URL has it in a process."""
        return database_url(self.url, ADDRESS)

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        """Raises BenchError."""
        import psycopg

        try:
            return psycopg.connect(self.url, autocommit=autocommit)
        except psycopg.Error as error:
            raise BenchError(f"{ADDRESS} cannot be used: {str(error).strip()}") from None

    def run(self, statement: str, values: Optional[Mapping[str, Any]] = None) -> list[tuple[Any, ...]]:
        """The answer to one statement, in a transaction of its own. Raises BenchError."""
        import psycopg

        with self.connect() as connection:
            try:
                cursor = connection.execute(statement.encode(), values)
                return cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                raise BenchError(f"PostgreSQL refused what the benchmark asked: {str(error).strip()}") from None

    def size(self) -> int:
        """Bytes of all tables with their indexes."""
        [(size,)] = self.run("SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables")
        return int(size)

    def dead(self) -> int:
        """Dead row versions, as the server counts them."""
        [(number,)] = self.run("SELECT sum(n_dead_tup) FROM pg_stat_user_tables")
        return int(number)


def make(stack: ExitStack) -> Database:
    """A database that is dropped when the stack is closed. Raises BenchError."""
    address, name = os.environ[ADDRESS], f"{PREFIX}{uuid.uuid4().hex[:12]}"
    server = Database(address)
    server.run(f"CREATE DATABASE {name}")
    stack.callback(server.run, f"DROP DATABASE {name} WITH (FORCE)")
    return Database(urlunsplit(urlsplit(address)._replace(path=f"/{name}")))
