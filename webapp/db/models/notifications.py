"""Channels, rules, notices (what happened), alerts (open problems) and deliveries (messages)."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer
from sqlalchemy.orm import Mapped, mapped_column

from webapp.core.notices import CHANNEL_KINDS, DELIVERY_KINDS, DELIVERY_STATES
from webapp.db.engines import Model
from webapp.db.models.base import Sequence, one_of, partial_index


class Channel(Model):
    """Where messages go: mail addresses, or a URL."""

    __tablename__ = "channels"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    target: Mapped[str]  # a JSON object, see notifications/channels.py; never shown whole
    secret: Mapped[Optional[str]]  # signs webhooks
    old_secret: Mapped[Optional[str]]  # also signs them, until old_secret_until
    old_secret_until: Mapped[Optional[int]]
    hourly_cap: Mapped[int] = mapped_column(Integer)  # messages per hour; 0: no limit
    sender_job: Mapped[Optional[str]]  # the last job that sends its messages
    created_at: Mapped[int]
    created_by: Mapped[str]
    changed_at: Mapped[int]
    changed_by: Mapped[str]

    __table_args__ = (CheckConstraint(one_of("kind", CHANNEL_KINDS), name="kind"), {"sqlite_autoincrement": True})


class Rule(Model):
    """Which notices become alerts, and the channel that gets their messages."""

    __tablename__ = "notification_rules"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(unique=True)
    channel_id: Mapped[int] = mapped_column(Sequence, ForeignKey("channels.id", ondelete="CASCADE"))
    events: Mapped[str]  # with commas around each: ',job-dead,disk-low,'
    spec: Mapped[str]  # a JSON object, see notifications/rules.py
    muted_until: Mapped[Optional[int]]
    created_at: Mapped[int]
    created_by: Mapped[str]
    changed_at: Mapped[int]
    changed_by: Mapped[str]

    __table_args__ = ({"sqlite_autoincrement": True},)


class Notice(Model):
    """Something that happened, for the rules. Written in the transaction in which it happened."""

    __tablename__ = "notices"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    at: Mapped[int]
    event: Mapped[str]
    subject: Mapped[str]  # group:…, schedule:…, queue:…, worker:…, action:…
    job_seq: Mapped[Optional[int]] = mapped_column(Sequence)
    detail: Mapped[Optional[str]]  # a JSON object
    taken_at: Mapped[Optional[int]]  # when the dispatcher applied the rules to it

    __table_args__ = (
        partial_index("ix_notices_waiting", "id", where="taken_at IS NULL"),
        partial_index("ix_notices_taken", "taken_at", where="taken_at IS NOT NULL"),  # for retention
        {"sqlite_autoincrement": True},
    )


class Alert(Model):
    """A problem of one subject, for one rule, from its first notice to its recovery."""

    __tablename__ = "alerts"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    rule_id: Mapped[int] = mapped_column(Sequence, ForeignKey("notification_rules.id", ondelete="CASCADE"))
    event: Mapped[str]  # of its first notice
    key: Mapped[str]  # its subject: 'group:…', or event and subject
    opened_at: Mapped[int]
    last_at: Mapped[int]  # of its newest notice
    count: Mapped[int] = mapped_column(Integer)  # notices
    job_seq: Mapped[Optional[int]] = mapped_column(Sequence)  # of the newest notice
    detail: Mapped[Optional[str]]  # of the newest notice
    told: Mapped[int] = mapped_column(Integer, default=0)  # messages so far
    told_count: Mapped[int] = mapped_column(Integer, default=0)  # notices that they told
    next_at: Mapped[Optional[int]]  # when the next message is due; None: when there is something new
    flapping: Mapped[int] = mapped_column(Integer, default=0)  # it opened and closed too often: no more messages
    closed_at: Mapped[Optional[int]]  # its recovery

    __table_args__ = (
        partial_index("ix_alerts_open", "rule_id", "key", where="closed_at IS NULL", unique=True),
        partial_index("ix_alerts_due", "next_at", where="next_at IS NOT NULL"),
        Index("ix_alerts_key", "rule_id", "key", "closed_at"),  # how often it closed lately
        {"sqlite_autoincrement": True},  # deliveries name their alert, also after retention deleted it
    )


class Delivery(Model):
    """One message to one channel. Its id is the stable id by which a receiver recognises a repetition."""

    __tablename__ = "deliveries"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    channel_id: Mapped[int] = mapped_column(Sequence, ForeignKey("channels.id", ondelete="CASCADE"))
    rule_id: Mapped[Optional[int]] = mapped_column(Sequence)
    alert_id: Mapped[Optional[int]] = mapped_column(Sequence)
    kind: Mapped[str]
    state: Mapped[str]
    created_at: Mapped[int]
    not_before: Mapped[int]  # quiet hours end
    tries: Mapped[int] = mapped_column(Integer, default=0)
    ended_at: Mapped[Optional[int]]
    answer: Mapped[Optional[str]]  # what the receiver said last
    detail: Mapped[str]  # a JSON object: the facts of the message
    subject: Mapped[Optional[str]]  # the message as it was sent; None before the first try
    body: Mapped[Optional[str]]
    job_seq: Mapped[Optional[int]] = mapped_column(Sequence)  # that it is about

    __table_args__ = (
        CheckConstraint(one_of("kind", DELIVERY_KINDS), name="kind"),
        CheckConstraint(one_of("state", DELIVERY_STATES), name="state"),
        CheckConstraint("(state = 'waiting') = (ended_at IS NULL)", name="ended_unless_waiting"),
        partial_index("ix_deliveries_waiting", "channel_id", "id", where="state = 'waiting'"),
        Index("ix_deliveries_ended", "channel_id", "state", "ended_at"),  # for caps
        partial_index("ix_deliveries_job", "job_seq", where="job_seq IS NOT NULL"),
        Index("ix_deliveries_alert", "alert_id"),
        {"sqlite_autoincrement": True},
    )


class JobWatch(Model):
    """A request for a message when one job ends. Deleted when its message is stored."""

    __tablename__ = "job_watches"

    job_seq: Mapped[int] = mapped_column(Sequence, ForeignKey("jobs.seq", ondelete="CASCADE"), primary_key=True)
    channel_id: Mapped[int] = mapped_column(Sequence, ForeignKey("channels.id", ondelete="CASCADE"), primary_key=True)
    created_by: Mapped[str]
