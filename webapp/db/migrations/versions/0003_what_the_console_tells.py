"""Failure groups, output tails, roll-ups, saved searches, scalable supervisors, and columns for undo."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # Not in batch mode, which would copy these tables: SQLite and PostgreSQL both add such a column in place.
    op.add_column("jobs", sa.Column("prior_attempts", sa.Integer(), nullable=True))
    op.add_column("attempts", sa.Column("due_at", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("cpu_time", sa.BigInteger(), nullable=True))
    op.add_column("workers", sa.Column("memory", sa.BigInteger(), nullable=True))
    op.add_column("control", sa.Column("folded_until", sa.BigInteger(), nullable=False, server_default="0"))
    _index("ix_jobs_act", "jobs", ["act_id", "state", "seq"], "act_id IS NOT NULL")
    _index("ix_jobs_group", "jobs", ["error_key", "finished_at", "seq"], "state = 'dead'")
    op.execute("UPDATE jobs SET error_key = 'unknown' WHERE state = 'dead' AND error_key IS NULL")
    op.create_index("ix_attempts_finished", "attempts", ["finished_at"])
    op.create_table(
        "output_tails",
        sa.Column("job_seq", SEQUENCE, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], name=op.f("fk_output_tails_job_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", name=op.f("pk_output_tails")),
    )
    op.create_table(
        "minutes",
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("completed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("dead", sa.BigInteger(), nullable=False),
        sa.Column("lost", sa.BigInteger(), nullable=False),
        sa.Column("waits", sa.Text(), nullable=False),
        sa.Column("runs", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("at", "queue", name=op.f("pk_minutes")),
    )
    op.create_table(
        "command_hours",
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("runs", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("run_time", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("at", "shape", name=op.f("pk_command_hours")),
    )
    op.create_table(
        "failure_groups",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("acknowledged_at", sa.BigInteger(), nullable=True),
        sa.Column("acknowledged_by", sa.Text(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_failure_groups")),
    )
    op.create_table(
        "views",
        sa.Column("id", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("user_id", SEQUENCE, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("query", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_views_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_views")),
        sa.UniqueConstraint("user_id", "name", name=op.f("uq_views_user_id_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "supervisors",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=True),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("stopped_at", sa.BigInteger(), nullable=True),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("wanted BETWEEN 0 AND 256", name=op.f("ck_supervisors_wanted")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_supervisors")),
    )

    if op.get_bind().dialect.name == "sqlite":
        # INSERT OR REPLACE fires no trigger for what it deletes.
        op.execute(
            "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit "
            "WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id) "
            "BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END"
        )


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
