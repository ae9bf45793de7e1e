"""Limits, unique keys, dependencies, batches, retry rules and reports of jobs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_OLD_STATES = "'scheduled', 'pending', 'processing', 'completed', 'failed', 'dead', 'cancelled'"
_NEW_STATES = f"'blocked', {_OLD_STATES}"
_HOLDS_KEY = """unique_key IS NOT NULL AND (
    (unique_while = 'waiting' AND state IN ('blocked', 'scheduled', 'pending', 'failed'))
    OR (unique_while = 'unfinished' AND state IN ('blocked', 'scheduled', 'pending', 'failed', 'processing'))
    OR unique_while = 'period')"""


def upgrade() -> None:
    _add_columns()
    _limits()
    _dependencies_and_batches()
    op.create_table(
        "reports",
        sa.Column("job_seq", _ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Float(), nullable=True),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("note", "result")),
        sa.Column("retry_after", sa.Float(), nullable=True),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        _job_key("reports"),
        sa.PrimaryKeyConstraint("job_seq", name=op.f("pk_reports")),
    )
    _allow_blocked()


def _add_columns() -> None:
    op.add_column("jobs", sa.Column("limits", sa.Text(), nullable=False, server_default=""))
    for name, kind in (
        ("unique_key", sa.Text()),
        ("unique_while", sa.Text()),
        ("unique_until", sa.BigInteger()),
        ("followed", sa.Integer()),
        ("retry", sa.Text()),
    ):
        op.add_column("jobs", sa.Column(name, kind, nullable=True))
    op.add_column("queues", sa.Column("retry", sa.Text(), nullable=True))
    for table in ("workers", "supervisors"):
        op.add_column(table, sa.Column("queue_order", sa.Text(), nullable=True))
    order: list[Any] = [sa.text("priority DESC"), "run_at", "seq"]
    for name in ("ix_jobs_claim", "ix_jobs_first", "ix_jobs_lone"):
        op.drop_index(name, "jobs")
    _index("ix_jobs_claim", "jobs", ["queue", "requires", "limits", *order], "state = 'pending'")
    _index("ix_jobs_first", "jobs", order, "state = 'pending' AND losses = 0 AND limits = ''")
    _index("ix_jobs_lone", "jobs", ["queue", "requires", "limits", *order], "state = 'pending' AND losses > 0")
    _index("ix_jobs_limited", "jobs", ["limits", "queue", "requires", *order], "state = 'pending' AND limits <> ''")
    _index("ix_jobs_limited_first", "jobs", order, "state = 'pending' AND limits <> ''")
    _index("ix_jobs_unique", "jobs", ["unique_key"], _HOLDS_KEY, unique=True)
    _index("ix_jobs_unique_key", "jobs", ["unique_key", "seq"], "unique_key IS NOT NULL")
    _index("ix_jobs_followed", "jobs", ["followed", "finished_at", "seq"], "followed = 1 AND finished_at IS NOT NULL")
    _index("ix_jobs_blocked", "jobs", ["state", "run_at", "seq"], "state = 'blocked'")
    _index("ix_jobs_batch_state", "jobs", ["batch", "state", "finished_at", "seq"], "batch IS NOT NULL")


def _limits() -> None:
    op.create_table(
        "limits",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("most", sa.Integer(), nullable=True),
        sa.Column("rate", sa.Integer(), nullable=True),
        sa.Column("per", sa.BigInteger(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.CheckConstraint("most >= 0", name=op.f("ck_limits_most")),
        sa.CheckConstraint("rate > 0 AND per > 0", name=op.f("ck_limits_rate")),
        sa.CheckConstraint("(rate IS NULL) = (per IS NULL)", name=op.f("ck_limits_rate_has_window")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_limits")),
    )
    op.create_table(
        "limit_starts",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", "number", name=op.f("pk_limit_starts")),
    )
    op.create_index("ix_limit_starts_started", "limit_starts", ["started_at"])


def _dependencies_and_batches() -> None:
    op.create_table(
        "dependencies",
        sa.Column("job_seq", _ID, nullable=False),
        sa.Column("parent_id", sa.Text(), nullable=False),
        sa.Column("parent_seq", _ID, nullable=False),
        sa.Column("wants", sa.Text(), nullable=False),
        sa.Column("met_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("wants IN ('success', 'finish', 'failure')", name=op.f("ck_dependencies_wants")),
        _job_key("dependencies"),
        sa.PrimaryKeyConstraint("job_seq", "parent_id", name=op.f("pk_dependencies")),
    )
    op.create_index("ix_dependencies_parent", "dependencies", ["parent_seq", "met_at", "wants", "job_seq"])
    _index("ix_dependencies_unmet", "dependencies", ["job_seq"], "met_at IS NULL")
    op.create_table(
        "batches",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        *(sa.Column(name, sa.Text(), nullable=True) for name in ("on_done", "on_death")),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_batches")),
    )
    _index("ix_batches_active", "batches", ["name"], "ended_at IS NULL")
    op.create_index("ix_batches_created", "batches", ["created_at"])
    # A batch so far: the jobs of one form, at most 5,000.
    op.execute("""
INSERT INTO batches (name, created_at, created_by, closed_at, generation, ended_at)
SELECT batch, min(created_at), min(created_by), max(created_at), 1,
       CASE WHEN count(finished_at) = count(*) THEN max(finished_at) END
FROM jobs WHERE batch IS NOT NULL GROUP BY batch
""")
    op.create_table(
        "batch_callbacks",
        sa.Column("batch", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=True),
        sa.CheckConstraint("event IN ('done', 'death')", name=op.f("ck_batch_callbacks_event")),
        sa.ForeignKeyConstraint(
            ["batch"], ["batches.name"], name=op.f("fk_batch_callbacks_batch_batches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("batch", "event", "generation", name=op.f("pk_batch_callbacks")),
    )


def _allow_blocked() -> None:
    """Widen the CHECK of the state.

    SQLite cannot alter a constraint, and copying the table would take minutes. Its documentation allows this edit of
    the stored schema, because it does not change the format of rows.
    """
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint(op.f("ck_jobs_state"), "jobs")
        op.create_check_constraint(op.f("ck_jobs_state"), "jobs", f"state IN ({_NEW_STATES})")
        return
    version = op.get_bind().execute(sa.text("PRAGMA schema_version")).scalar_one()
    op.execute("PRAGMA writable_schema = ON")
    edit = sa.text("UPDATE sqlite_master SET sql = replace(sql, :old, :new) WHERE type = 'table' AND name = 'jobs'")
    op.execute(edit.bindparams(old=f"state IN ({_OLD_STATES})", new=f"state IN ({_NEW_STATES})"))
    op.execute(f"PRAGMA schema_version = {version + 1}")
    op.execute("PRAGMA writable_schema = RESET")


def _job_key(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], name=op.f(f"fk_{table}_job_seq_jobs"), ondelete="CASCADE")


def _index(name: str, table: str, columns: list[Any], where: str, *, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
