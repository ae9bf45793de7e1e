"""The first schema: jobs, attempts, output, events, queues, workers, settings, bulk actions and users."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "acts",
        sa.Column("id", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("filter", sa.Text(), nullable=False),
        sa.Column("highest_seq", sa.BigInteger(), nullable=False),
        sa.Column("cursor_seq", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("moved", sa.BigInteger(), nullable=False),
        sa.Column("skipped", sa.BigInteger(), nullable=False),
        sa.Column("undoes", SEQUENCE, nullable=True),
        sa.Column("canary_seq", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('waiting', 'running', 'done', 'stopped')", name=op.f("ck_acts_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_acts")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "control",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_control_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_control")),
    )
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.BigInteger(), nullable=True),
        sa.Column("paused_by", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_queues")),
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_settings")),
    )
    op.create_table(
        "setup_links",
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash", name=op.f("pk_setup_links")),
    )
    op.create_table(
        "users",
        sa.Column("id", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("session_key", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("role IN ('viewer', 'operator', 'admin')", name=op.f("ck_users_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("supervisor_id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("pid_started", sa.Float(), nullable=True),
        sa.Column("boot_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("wish", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("stopped_at", sa.BigInteger(), nullable=True),
        sa.Column("heartbeat", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("jobs_completed", sa.BigInteger(), nullable=False),
        sa.Column("jobs_failed", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('running', 'stopped', 'expired')", name=op.f("ck_workers_state")),
        sa.CheckConstraint("wish IN ('run', 'quiet', 'stop')", name=op.f("ck_workers_wish")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "jobs",
        sa.Column("seq", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("run_at", sa.BigInteger(), nullable=False),
        sa.Column("max_retries", sa.Integer(), nullable=True),
        sa.Column("timeout", sa.Float(), nullable=True),
        sa.Column("cwd", sa.Text(), nullable=True),
        sa.Column("env", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("lone_losses", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("error_key", sa.Text(), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("token", sa.Text(), nullable=True),
        sa.Column("cancel_requested_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_requested_by", sa.Text(), nullable=True),
        sa.Column("form_key", sa.Text(), nullable=True),
        sa.Column("act_id", SEQUENCE, nullable=True),
        sa.Column("prior_state", sa.Text(), nullable=True),
        sa.Column("prior_run_at", sa.BigInteger(), nullable=True),
        sa.Column("prior_failures", sa.Integer(), nullable=True),
        sa.Column("prior_finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(state = 'processing') = (token IS NOT NULL)", name=op.f("ck_jobs_token_while_processing")),
        sa.CheckConstraint(
            "(state = 'processing') = (worker_id IS NOT NULL)", name=op.f("ck_jobs_worker_while_processing")
        ),
        sa.CheckConstraint(
            "(state IN ('completed', 'dead', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_finished_when_terminal"),
        ),
        sa.CheckConstraint(
            "cancel_requested_at IS NULL OR state = 'processing'", name=op.f("ck_jobs_cancel_while_processing")
        ),
        sa.CheckConstraint(
            "state IN ('scheduled', 'pending', 'processing', 'completed', 'failed', 'dead', 'cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint("max_retries BETWEEN 0 AND 1000", name=op.f("ck_jobs_max_retries")),
        sa.CheckConstraint("priority BETWEEN -100 AND 100", name=op.f("ck_jobs_priority")),
        sa.ForeignKeyConstraint(["queue"], ["queues.name"], name=op.f("fk_jobs_queue")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_jobs")),
        sa.UniqueConstraint("id", name=op.f("uq_jobs_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_jobs_ended", "jobs", ["state", "finished_at", "seq"], unique=False, **_where("finished_at IS NOT NULL")
    )
    op.create_index("ix_jobs_form_key", "jobs", ["form_key"], unique=True, **_where("form_key IS NOT NULL"))
    op.create_index("ix_jobs_processing", "jobs", ["started_at", "seq"], unique=False, **_where("state = 'processing'"))
    op.create_index(
        "ix_jobs_waiting",
        "jobs",
        ["state", "run_at", "seq"],
        unique=False,
        **_where("state IN ('scheduled', 'failed')"),
    )
    op.create_table(
        "attempts",
        sa.Column("job_seq", SEQUENCE, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_key", sa.Text(), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("signal", sa.Integer(), nullable=True),
        sa.Column("cpu_time", sa.BigInteger(), nullable=True),
        sa.Column("peak_memory", sa.BigInteger(), nullable=True),
        sa.Column("output", sa.LargeBinary(), nullable=False),
        sa.Column("output_runs", sa.Text(), nullable=False),
        sa.Column("output_cut", sa.BigInteger(), nullable=True),
        sa.Column("output_dropped", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('completed', 'failed', 'cancelled', 'released', 'lost')", name=op.f("ck_attempts_state")
        ),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], name=op.f("fk_attempts_job_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "number", name=op.f("pk_attempts")),
    )
    op.create_table(
        "events",
        sa.Column("id", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("verb", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("job_seq", SEQUENCE, nullable=True),
        sa.Column("act_id", SEQUENCE, nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], name=op.f("fk_events_job_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_job_seq", "events", ["job_seq"], unique=False, **_where("job_seq IS NOT NULL"))
    op.create_index("ix_events_subject", "events", ["subject", "id"], unique=False)
    op.create_table(
        "output_chunks",
        sa.Column("job_seq", SEQUENCE, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("runs", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_seq"], ["jobs.seq"], name=op.f("fk_output_chunks_job_seq"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_seq", "attempt", "position", name=op.f("pk_output_chunks")),
    )
    claim_order: list[Any] = ["queue", sa.text("priority DESC"), "run_at", "seq"]
    op.create_index("ix_jobs_claim", "jobs", claim_order, **_where("state = 'pending'"))
    op.create_index("ix_jobs_lone", "jobs", claim_order, **_where("state = 'pending' AND losses > 0"))
    op.execute("INSERT INTO control (id, revision) VALUES (1, 1)")
    # Never empty, so that a first look at the queues shows where a job goes that names none.
    op.execute("INSERT INTO queues (name) VALUES ('default')")
