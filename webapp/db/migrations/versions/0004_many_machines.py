"""Labels of jobs and workers, and autovacuum settings for PostgreSQL."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A job leaves about three dead rows behind, and a claim walks over those at the head of its index until they are
# cleaned. PostgreSQL's default waits for a fifth of the table, which is a fifth of all that is kept. After so many
# dead rows, and so large a part of the table beside, because a cleaning reads all of its indexes:
_CLEANED_AFTER = {
    "jobs": (5000, 0.01),
    "output_chunks": (1000, 0),
    "workers": (500, 0),
    "supervisors": (500, 0),
    "control": (500, 0),
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("requires", sa.Text(), nullable=False, server_default=""))
    op.add_column("workers", sa.Column("labels", sa.Text(), nullable=True))
    op.add_column("supervisors", sa.Column("labels", sa.Text(), nullable=True))
    op.create_table(
        "lanes",
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("requires", sa.Text(), nullable=False),
        sa.CheckConstraint("requires <> ''", name=op.f("ck_lanes_requires_something")),
        sa.ForeignKeyConstraint(["queue"], ["queues.name"], name=op.f("fk_lanes_queue")),
        sa.PrimaryKeyConstraint("queue", "requires", name=op.f("pk_lanes")),
    )
    # The version before finds its jobs by what is left of the index, until it has noticed.
    _replace_index("ix_jobs_claim", "state = 'pending'")
    _replace_index("ix_jobs_lone", "state = 'pending' AND losses > 0")
    if op.get_bind().dialect.name == "postgresql":
        for table, (rows, part) in _CLEANED_AFTER.items():
            after = f"autovacuum_vacuum_threshold = {rows}, autovacuum_vacuum_scale_factor = {part}"
            op.execute(f"ALTER TABLE {table} SET ({after}, autovacuum_vacuum_cost_delay = 0)")
        # What is inserted and deleted all the time: giving room back to the disk would lock out everybody else.
        op.execute("ALTER TABLE output_chunks SET (vacuum_truncate = off)")


def _replace_index(name: str, where: str) -> None:
    order: list[Any] = ["queue", "requires", sa.text("priority DESC"), "run_at", "seq"]
    op.drop_index(name, "jobs")
    op.create_index(name, "jobs", order, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
