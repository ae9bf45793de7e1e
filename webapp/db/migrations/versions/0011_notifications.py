"""Notifications: channels, rules, notices, alerts, deliveries, and watched jobs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _table(
        "channels",
        *(_text(name) for name in ("name", "kind", "target")),
        *(_text(name, nullable=True) for name in ("secret", "old_secret")),
        _number("old_secret_until", nullable=True),
        sa.Column("hourly_cap", sa.Integer(), nullable=False),
        _text("sender_job", nullable=True),
        *_stamps(),
        sa.UniqueConstraint("name", name=op.f("uq_channels_name")),
        sa.CheckConstraint("kind IN ('mail', 'webhook', 'apprise')", name=op.f("ck_channels_kind")),
    )
    _table(
        "notification_rules",
        _text("name"),
        sa.Column("channel_id", _ID, nullable=False),
        *(_text(name) for name in ("events", "spec")),
        _number("muted_until", nullable=True),
        *_stamps(),
        sa.UniqueConstraint("name", name=op.f("uq_notification_rules_name")),
        _refers("notification_rules", "channel_id", "channels.id"),
    )
    _table(
        "notices",
        _number("at"),
        *(_text(name) for name in ("event", "subject")),
        sa.Column("job_seq", _ID, nullable=True),
        _text("detail", nullable=True),
        _number("taken_at", nullable=True),
    )
    _partial_index("ix_notices_waiting", "notices", ["id"], "taken_at IS NULL")
    _partial_index("ix_notices_taken", "notices", ["taken_at"], "taken_at IS NOT NULL")
    _table(
        "alerts",
        sa.Column("rule_id", _ID, nullable=False),
        *(_text(name) for name in ("event", "key")),
        *(_number(name) for name in ("opened_at", "last_at")),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("job_seq", _ID, nullable=True),
        _text("detail", nullable=True),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("told", "told_count")),
        _number("next_at", nullable=True),
        sa.Column("flapping", sa.Integer(), nullable=False),
        _number("closed_at", nullable=True),
        _refers("alerts", "rule_id", "notification_rules.id"),
    )
    _partial_index("ix_alerts_open", "alerts", ["rule_id", "key"], "closed_at IS NULL", unique=True)
    _partial_index("ix_alerts_due", "alerts", ["next_at"], "next_at IS NOT NULL")
    op.create_index("ix_alerts_key", "alerts", ["rule_id", "key", "closed_at"])
    _table(
        "deliveries",
        sa.Column("channel_id", _ID, nullable=False),
        *(sa.Column(name, _ID, nullable=True) for name in ("rule_id", "alert_id")),
        *(_text(name) for name in ("kind", "state")),
        *(_number(name) for name in ("created_at", "not_before")),
        sa.Column("tries", sa.Integer(), nullable=False),
        _number("ended_at", nullable=True),
        _text("answer", nullable=True),
        _text("detail"),
        *(_text(name, nullable=True) for name in ("subject", "body")),
        sa.Column("job_seq", _ID, nullable=True),
        _refers("deliveries", "channel_id", "channels.id"),
        sa.CheckConstraint(
            "kind IN ('alert', 'update', 'recovery', 'flapping', 'job-ended', 'test')", name=op.f("ck_deliveries_kind")
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'sent', 'failed', 'suppressed', 'dropped')", name=op.f("ck_deliveries_state")
        ),
        sa.CheckConstraint("(state = 'waiting') = (ended_at IS NULL)", name=op.f("ck_deliveries_ended_unless_waiting")),
    )
    _partial_index("ix_deliveries_waiting", "deliveries", ["channel_id", "id"], "state = 'waiting'")
    op.create_index("ix_deliveries_ended", "deliveries", ["channel_id", "state", "ended_at"])
    _partial_index("ix_deliveries_job", "deliveries", ["job_seq"], "job_seq IS NOT NULL")
    op.create_index("ix_deliveries_alert", "deliveries", ["alert_id"])
    op.create_table(
        "job_watches",
        sa.Column("job_seq", _ID, nullable=False),
        sa.Column("channel_id", _ID, nullable=False),
        _text("created_by"),
        _refers("job_watches", "job_seq", "jobs.seq"),
        _refers("job_watches", "channel_id", "channels.id"),
        sa.PrimaryKeyConstraint("job_seq", "channel_id", name=op.f("pk_job_watches")),
    )
    # Counts of people's jobs leave out the jobs that send messages.
    # By a function: with "queue = '_system'" here, SQLite would prepare each statement with 'queue = :queue' again at
    # each execution, because the value would decide whether this index serves it.
    _partial_index("ix_jobs_system", "jobs", ["state"], "substr(queue, 1, 1) = '_'")


def _table(name: str, *columns: Any) -> None:
    id_ = sa.Column("id", _ID, autoincrement=True, nullable=False)
    key = sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{name}"))
    op.create_table(name, id_, *columns, key, sqlite_autoincrement=True)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _stamps() -> list[sa.Column[Any]]:
    return [_number("created_at"), _text("created_by"), _number("changed_at"), _text("changed_by")]


def _refers(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}_{to.partition('.')[0]}")
    return sa.ForeignKeyConstraint([column], [to], name=name, ondelete="CASCADE")


def _partial_index(name: str, table: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, table, columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
