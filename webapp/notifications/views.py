"""Reads channels, rules, alerts and messages for pages, commands and the API. No answer has a secret or a whole URL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Optional

from sqlalchemy import ColumnElement, Select, and_, func, literal_column, or_, select
from sqlalchemy.orm import Session, aliased

from webapp.config import SMTP_URL, Config
from webapp.core.job_spec import SpecError
from webapp.db.models import Alert, Channel, Delivery, Job, JobWatch, Rule
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock
from webapp.lib.clock import columns
from webapp.lib.text import shorten
from webapp.notifications import channels as specs
from webapp.notifications import rules as rule_specs
from webapp.notifications.channels import ChannelSpec
from webapp.notifications.rules import RuleSpec

APPRISE_MISSING = "Apprise is not installed. Set QUEUECTL_EXTRAS=notify in .env, and restart the workers."
OVERDUE = 600 * clock.SECOND  # a message that waits longer is overdue: `doctor` asks whether a worker runs
RECENT = 10_000  # messages
STAMPS = ("created_at", "created_by", "changed_at", "changed_by")
_WAITS: ColumnElement[bool] = literal_column("deliveries.state = 'waiting'")  # the text of the partial index
_IS_OPEN: ColumnElement[bool] = literal_column("alerts.closed_at IS NULL")


@dataclass(frozen=True)
class ChannelView:
    """A channel with the state of its messages.

    Attributes:
        waiting: messages that it has not sent yet.
        sent, failed: its last message of these states.
        trying: the oldest message that waits, if a try failed.
        rules: names of the rules that send to it.
    """

    row: Channel
    spec: ChannelSpec
    waiting: int
    sent: Optional[Delivery]
    failed: Optional[Delivery]
    trying: Optional[Delivery]
    rules: Sequence[str]

    @property
    def failure(self) -> Optional[Delivery]:
        """The message that failed last, or fails now, if none was sent since; its `answer` says why."""
        if self.trying is not None:
            return self.trying
        is_newer = self.failed is not None and (self.sent is None or _ended(self.sent) < _ended(self.failed))
        return self.failed if is_newer else None


@dataclass(frozen=True)
class RuleView:
    """A rule. `spec` is None if this machine does not know its time zone. `open`: alerts that have not ended."""

    row: Rule
    spec: Optional[RuleSpec]
    channel: str
    open: int

    @property
    def is_muted(self) -> bool:
        return is_muted(self.row)


@dataclass(frozen=True)
class DeliveryView:
    """A message with the names of its channel and its rule. `rule` is None for a test, and once the rule is removed."""

    row: Delivery
    channel: str
    rule: Optional[str]

    @property
    def detail(self) -> dict[str, Any]:
        """The facts of the message."""
        found: dict[str, Any] = json.loads(self.row.detail)
        return found


@dataclass(frozen=True)
class AlertView:
    row: Alert
    rule: str
    channel: str


# --- channels --------------------------------------------------------------------------------------------------------


def channels(session: Session) -> list[ChannelView]:
    """All channels by name."""
    return [_channel_view(session, row) for row in session.scalars(select(Channel).order_by(Channel.name))]


def channel(session: Session, name: str) -> ChannelView:
    """Raises NotFound."""
    row = session.scalar(select(Channel).where(Channel.name == name))
    if row is None:
        raise NotFound(f"no such channel: {shorten(ascii(name), 128)}.")
    return _channel_view(session, row)


def channel_names(session: Session) -> list[str]:
    return list(session.scalars(select(Channel.name).order_by(Channel.name)))


def failing_channels(session: Session) -> list[ChannelView]:
    """Channels whose last message failed or is being retried; `failure` of each is that message."""
    return [view for view in channels(session) if view.failure is not None]


def obstacle(view: ChannelView, config: Config) -> Optional[str]:
    """Why this process cannot send to a channel, as a sentence."""
    if view.spec.kind == "mail" and not config.smtp_url:
        return f"no mail server is configured. Set {SMTP_URL} in .env, and restart the workers."
    if view.spec.kind == "apprise" and not has_apprise():
        return APPRISE_MISSING
    return None


def has_apprise() -> bool:
    return find_spec("apprise") is not None


def overdue(session: Session) -> int:
    """How many messages should have been sent OVERDUE ago and were not tried, nor one that goes before them."""
    tried = aliased(Delivery)
    before = tried.channel_id == Delivery.channel_id, tried.state == "waiting", tried.tries > 0
    late = Delivery.not_before < clock.now() - OVERDUE
    statement = (
        select(func.count()).select_from(Delivery).where(_WAITS, late, ~select(tried.id).where(*before).exists())
    )
    return session.scalar(statement) or 0


def _channel_view(session: Session, row: Channel) -> ChannelView:
    def last(state: str) -> Optional[Delivery]:
        newest = select(Delivery).where(Delivery.channel_id == row.id, Delivery.state == state)
        return session.scalar(newest.order_by(Delivery.ended_at.desc()).limit(1))

    of_channel = and_(Delivery.channel_id == row.id, _WAITS)
    waiting = session.scalar(select(func.count()).where(of_channel)) or 0
    first = session.scalar(select(Delivery).where(of_channel).order_by(Delivery.id).limit(1)) if waiting else None
    return ChannelView(
        row,
        specs.of_row(row.name, row.kind, row.target, row.hourly_cap),
        waiting,
        last("sent"),
        last("failed"),
        first if first is not None and first.tries else None,
        list(session.scalars(select(Rule.name).where(Rule.channel_id == row.id).order_by(Rule.name))),
    )


def _ended(row: Delivery) -> int:
    return row.ended_at or 0


# --- rules and alerts ------------------------------------------------------------------------------------------------


def rules(session: Session) -> list[RuleView]:
    """All rules by name."""
    return [_rule_view(session, row, name) for row, name in session.execute(_rules().order_by(Rule.name)).tuples()]


def rule(session: Session, name: str) -> RuleView:
    """Raises NotFound."""
    found = session.execute(_rules().where(Rule.name == name)).first()
    if found is None:
        raise NotFound(f"no such rule: {shorten(ascii(name), 128)}.")
    return _rule_view(session, *found)


def has_rules(session: Session) -> bool:
    return session.scalar(select(Rule.id).limit(1)) is not None


def last_messages(session: Session) -> dict[int, Delivery]:
    """The newest message of each rule, by the rule's id; none for a rule without one in the last RECENT messages."""
    recent = select(Delivery.id, Delivery.rule_id).order_by(Delivery.id.desc()).limit(RECENT).subquery()
    newest = select(func.max(recent.c.id)).where(recent.c.rule_id.is_not(None)).group_by(recent.c.rule_id)
    found = session.scalars(select(Delivery).where(Delivery.id.in_(newest)))
    return {row.rule_id: row for row in found if row.rule_id is not None}


def is_muted(row: Rule) -> bool:
    return row.muted_until is not None and row.muted_until > clock.now()


def alerts_open(session: Session, limit: Optional[int] = None, *, rule: str = "", key: str = "") -> list[AlertView]:
    """Alerts that have not ended, newest first. `key`: what they are about, such as group:…"""
    statement = (
        select(Alert, Rule.name, Channel.name)
        .join(Rule, Rule.id == Alert.rule_id)
        .join(Channel, Channel.id == Rule.channel_id)
        .where(_IS_OPEN)
        .order_by(Alert.last_at.desc(), Alert.id.desc())
    )
    if rule:
        statement = statement.where(Rule.name == rule)
    if key:
        statement = statement.where(Alert.key == key)
    return [AlertView(*found) for found in session.execute(statement.limit(limit)).tuples()]


def _rules() -> Select[tuple[Rule, str]]:
    return select(Rule, Channel.name).join(Channel, Channel.id == Rule.channel_id)


def _rule_view(session: Session, row: Rule, channel_name: str) -> RuleView:
    try:
        spec: Optional[RuleSpec] = rule_specs.of_row(row.name, channel_name, row.spec)
    except SpecError:
        spec = None
    number = session.scalar(select(func.count()).select_from(Alert).where(Alert.rule_id == row.id, _IS_OPEN))
    return RuleView(row, spec, channel_name, number or 0)


# --- messages --------------------------------------------------------------------------------------------------------


def deliveries(
    session: Session,
    *,
    channel: str = "",
    rule: str = "",
    state: str = "",
    job: Optional[Job] = None,
    key: str = "",
    before: Optional[int] = None,
    limit: Optional[int],
) -> list[DeliveryView]:
    """Messages, newest first, before an id. `job`: about its end, or about its failure group while it was open.

    `key`: about alerts with this key, such as group:…, of rules that are still there. A channel or rule that does not
    exist has no messages.
    """
    statement = _deliveries()
    if channel:
        statement = statement.where(Channel.name == channel)
    if rule:
        statement = statement.where(Rule.name == rule)
    if state:
        statement = statement.where(Delivery.state == state)
    if job is not None:
        statement = statement.where(_about(job))
    if key:
        told = select(Alert.id).where(Alert.rule_id.in_(select(Rule.id)), Alert.key == key)
        statement = statement.where(Delivery.alert_id.in_(told))
    if before is not None:
        statement = statement.where(Delivery.id < before)
    found = session.execute(statement.order_by(Delivery.id.desc()).limit(limit)).tuples()
    return [DeliveryView(*one) for one in found]


def delivery(session: Session, delivery_id: int) -> DeliveryView:
    """Raises NotFound."""
    found = session.execute(_deliveries().where(Delivery.id == delivery_id)).first()
    if found is None:
        raise NotFound(f"no such message: {delivery_id}. Old messages are deleted.")
    return DeliveryView(*found)


def watches(session: Session, job_seq: int) -> list[str]:
    """The channels that get a message when a job ends, by name."""
    of_job = select(Channel.name).join(JobWatch, JobWatch.channel_id == Channel.id).where(JobWatch.job_seq == job_seq)
    return list(session.scalars(of_job.order_by(Channel.name)))


def _deliveries() -> Select[tuple[Delivery, str, Optional[str]]]:
    named = select(Delivery, Channel.name, Rule.name).join(Channel, Channel.id == Delivery.channel_id)
    return named.outerjoin(Rule, Rule.id == Delivery.rule_id)  # type: ignore[return-value]


def _about(job: Job) -> ColumnElement[bool]:
    at = job.finished_at or job.changed_at
    while_open = and_(Alert.opened_at <= at, or_(Alert.closed_at.is_(None), Alert.closed_at >= at))
    of_rules = Alert.rule_id.in_(select(Rule.id))  # for the index
    told = select(Alert.id).where(of_rules, Alert.key == f"group:{job.error_key}", while_open)
    # Ids first, each by its index.
    found = select(Delivery.id).where(Delivery.job_seq == job.seq)
    of_group = select(Delivery.id).where(Delivery.alert_id.in_(told))
    return Delivery.id.in_(found if job.error_key is None else found.union_all(of_group))


# --- as JSON ---------------------------------------------------------------------------------------------------------


def channel_json(view: ChannelView) -> dict[str, Any]:
    """A channel as commands and the API show it."""
    row, failure = view.row, view.failure
    rotating = row.old_secret is not None and (row.old_secret_until or 0) > clock.now()
    return {
        **specs.masked(view.spec),
        "old_secret_until": clock.to_iso(row.old_secret_until) if rotating else None,
        "rules": list(view.rules),
        "waiting": view.waiting,
        "last_sent_at": clock.to_iso(view.sent.ended_at) if view.sent is not None else None,
        "failure": None if failure is None else failure.answer or "",
        **columns(row, *STAMPS),
    }


def rule_fields(view: RuleView) -> dict[str, Any]:
    """The description of a rule, for `rules.parse`."""
    if view.spec is not None:
        return rule_specs.to_json(view.spec)
    return {**json.loads(view.row.spec), "name": view.row.name, "channel": view.channel}


def rule_json(view: RuleView) -> dict[str, Any]:
    """A rule as commands and the API show it."""
    muted = clock.to_iso(view.row.muted_until) if view.is_muted else None
    return {**rule_fields(view), "muted_until": muted, "open_alerts": view.open, **columns(view.row, *STAMPS)}


def alert_json(view: AlertView) -> dict[str, Any]:
    row = view.row
    return {
        "id": row.id,
        "rule": view.rule,
        "channel": view.channel,
        "event": row.event,
        "key": row.key,
        **columns(row, "opened_at", "last_at", "count"),
        "messages": row.told,
        "next_at": clock.to_iso(row.next_at),
        "flapping": bool(row.flapping),
    }


def delivery_json(view: DeliveryView) -> dict[str, Any]:
    """A message without its text, as in lists."""
    row = view.row
    return {
        "id": row.id,
        "channel": view.channel,
        "rule": view.rule,
        **columns(row, "alert_id", "kind", "state", "subject", "created_at"),
        "not_before": clock.to_iso(row.not_before),
        **columns(row, "ended_at", "tries", "answer"),
    }


def whole_delivery_json(view: DeliveryView) -> dict[str, Any]:
    """A message with its text (null before the first attempt) and its facts."""
    return {**delivery_json(view), "body": view.row.body, "detail": view.detail}
