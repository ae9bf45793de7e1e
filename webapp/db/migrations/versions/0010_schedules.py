"""Schedules, the ledger of their fires, and the schedule of a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", _ID, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        *(_time(name) for name in ("next_fire_at", "waiting_since", "last_fire_at", "paused_at", "paused_until")),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.Column("broken", sa.Text(), nullable=True),
        *(_time(name) for name in ("late_since", "long_since", "failing_since")),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("name", name=op.f("uq_schedules_name")),
        sqlite_autoincrement=True,
    )
    _partial_index("ix_schedules_due", "schedules", ["next_fire_at"], "waiting_since IS NULL")
    _partial_index("ix_schedules_waiting", "schedules", ["waiting_since"], "waiting_since IS NOT NULL")
    op.create_table(
        "fires",
        sa.Column("schedule_id", _ID, nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.CheckConstraint("outcome IN ('fired', 'caught_up', 'skipped', 'missed')", name=op.f("ck_fires_outcome")),
        sa.CheckConstraint(
            "(job_id IS NOT NULL) = (outcome IN ('fired', 'caught_up'))", name=op.f("ck_fires_job_if_fired")
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_fires_schedule_id_schedules"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("schedule_id", "due_at", name=op.f("pk_fires")),
    )
    op.create_index("ix_fires_decided", "fires", ["decided_at"])
    op.add_column("jobs", sa.Column("schedule", sa.Text(), nullable=True))
    _partial_index("ix_jobs_schedule", "jobs", ["schedule", "seq"], "schedule IS NOT NULL")
    _partial_index("ix_jobs_scheduled", "jobs", ["schedule"], "schedule IS NOT NULL AND finished_at IS NULL")


def _time(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=True)


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
