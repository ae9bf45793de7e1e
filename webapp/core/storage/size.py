"""How many bytes the database uses for what it holds, without free space that it will use again.

The setting `max_database_size` limits it.
"""

from __future__ import annotations

from typing import Any, Callable

MIB = 1024**2
FREED = ("completed", "cancelled")  # states of the jobs that are deleted for the limit, in this order

_SQLITE = """
SELECT (page_count - freelist_count) * page_size
FROM pragma_page_count, pragma_freelist_count, pragma_page_size
"""
# PostgreSQL does not return the space of deleted rows to the disk, so the size of its files says little about what they
# hold. The rows on some pages of the tables that retention shortens, chosen at random, stand for all. The numbers are
# bytes of a row's indexes and of its other columns.
_PAGES = 500
_SAMPLED = {
    "jobs": "pg_column_size(t.*) + 400",
    "attempts": "pg_column_size(t.output) + 250",
    "events": "pg_column_size(t.*) + 150",
}
_SAMPLE = f"""
SELECT coalesce(sum(100.0 / share * bytes), 0) FROM (
    SELECT {{row}} AS bytes, least(100, 100.0 * {_PAGES} * 8192 / greatest(pg_relation_size('{{table}}'), 1)) AS share
    FROM {{table}} AS t
    TABLESAMPLE SYSTEM (least(100, 100.0 * {_PAGES} * 8192 / greatest(pg_relation_size('{{table}}'), 1)))
) AS sampled
"""  # noqa: S608  every part is ours
_OTHERS = f"""
SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class
WHERE relkind = 'r' AND relnamespace = CAST(current_schema() AS regnamespace)
  AND relname NOT IN ({", ".join(repr(table) for table in _SAMPLED)})
"""  # noqa: S608
_POSTGRESQL = (_OTHERS, *(_SAMPLE.format(table=table, row=row) for table, row in _SAMPLED.items()))


def used_bytes(scalar: Callable[[str], Any], *, is_sqlite: bool) -> int:
    """`scalar` returns the value of a statement. Exact on SQLite; on PostgreSQL an estimate, in some milliseconds."""
    return sum(int(scalar(statement)) for statement in ((_SQLITE,) if is_sqlite else _POSTGRESQL))
