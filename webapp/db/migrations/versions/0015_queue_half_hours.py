"""Half hours of each queue, summed up from its minutes; durations of commands by hour; an index of changes by time."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa
from alembic import op

from webapp.lib import clock, histograms

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

HALF_HOUR = clock.seconds(1800)
KEPT = 8 * clock.DAY  # minutes are kept for so long
NUMBERS = ("completed", "failed", "dead", "lost")
HISTOGRAMS = ("waits", "runs")

_MINUTES = sa.text(f"""
SELECT queue, {", ".join(NUMBERS + HISTOGRAMS)} FROM minutes
WHERE at >= :at AND at < :end AND queue NOT LIKE '*%'
""")  # noqa: S608  no part comes from a user
_INSERT = sa.text(f"""
INSERT INTO minutes (at, queue, {", ".join(NUMBERS + HISTOGRAMS)})
VALUES (:at, :queue, {", ".join(f":{name}" for name in NUMBERS + HISTOGRAMS)})
""")  # noqa: S608


def upgrade() -> None:
    op.add_column("command_hours", sa.Column("durations", sa.Text(), nullable=False, server_default="{}"))
    changes = sa.text("job_seq IS NULL")
    op.create_index("ix_events_changes", "events", ["at"], sqlite_where=changes, postgresql_where=changes)
    connection = op.get_bind()
    first = connection.scalar(sa.text("SELECT min(at) FROM minutes WHERE at > 0"))
    last = connection.scalar(sa.text("SELECT max(at) FROM minutes"))
    if first is None:
        return
    for at in range(max(first, last - KEPT) // HALF_HOUR * HALF_HOUR, last + 1, HALF_HOUR):
        rows = _sums(connection, at)
        if rows:
            connection.execute(_INSERT, rows)


def _sums(connection: sa.Connection, at: int) -> list[dict[str, Any]]:
    """A row for each queue with minutes in this half hour."""
    sums: dict[str, Counter[str]] = {}
    merged: dict[tuple[str, str], Counter[int]] = {}
    for row in connection.execute(_MINUTES, {"at": at, "end": at + HALF_HOUR}).mappings():
        sums.setdefault(row["queue"], Counter()).update({name: row[name] for name in NUMBERS})
        for name in HISTOGRAMS:
            merged.setdefault((row["queue"], name), Counter()).update(histograms.load(row[name]))
    return [
        {
            "at": at,
            "queue": f"*30 {queue}",
            **{name: numbers[name] for name in NUMBERS},
            **{name: histograms.dump(merged[queue, name]) for name in HISTOGRAMS},
        }
        for queue, numbers in sums.items()
    ]
