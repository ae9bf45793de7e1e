"""What messages and alerts are about, in words and with a link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from flask import url_for
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.db.models import Job
from webapp.lib.text import capitalize, one_line
from webapp.notifications.views import AlertView, DeliveryView

STATES = {  # a message's state as that of a job with a similar color
    "waiting": "pending",
    "sent": "completed",
    "failed": "dead",
    "suppressed": "cancelled",
    "dropped": "cancelled",
}
KINDS = {
    "alert": "alert",
    "update": "update",
    "recovery": "recovery",
    "flapping": "flapping",
    "job-ended": "job ended",
    "test": "test",
}


@dataclass(frozen=True)
class Subject:
    """What a message or an alert is about. `text`: a command, or 'Queue mail'. `url` is None if there is no page."""

    text: str
    url: Optional[str]
    is_command: bool = False


def subject_of(key: str, command: Optional[str] = None) -> Subject:
    """Of an alert's key, such as 'group:…' or 'queue-old queue:mail'. `command`: of its newest job."""
    kind, _, name = (key.partition(" ")[2] or key).partition(":")
    if kind == "group":
        url = url_for("dead_letters.show", group=name)
        return Subject("Failure group", url) if command is None else Subject(command, url, is_command=True)
    urls = {
        "schedule": lambda: url_for("schedules.show", name=name),
        "queue": lambda: url_for("jobs.index", queue=name),
        "host": lambda: url_for("workers.index"),
        "action": lambda: url_for("activity.show", act_id=name),
    }
    return Subject(f"{capitalize(kind)} {name}".strip(), urls[kind]() if kind in urls and name else None)


def summaries(session: Session, views: Sequence[DeliveryView]) -> Mapping[int, str]:
    """The subjects of messages by their id, also before the first attempt gave them one."""
    unnamed = {view.row.id: (view, view.detail) for view in views if not view.row.subject}
    commands = _commands(session, (detail.get("job_seq") for _, detail in unnamed.values()))
    named = {view.row.id: view.row.subject for view in views if view.row.subject}
    return {**named, **{id_: _summary(view, detail, commands) for id_, (view, detail) in unnamed.items()}}


def _summary(view: DeliveryView, detail: Mapping[str, Any], commands: Mapping[Optional[int], str]) -> str:
    if view.row.kind == "job-ended":
        return f"{detail.get('job', '?')} {detail.get('state', 'ended')}"
    if view.row.kind == "test":
        return f"Test message to {view.channel}"
    subject = subject_of(str(detail.get("key", "")), commands.get(detail.get("job_seq")))
    return f"{detail.get('event', view.row.kind)}: {subject.text}"


def subjects(session: Session, alerts: Iterable[AlertView]) -> Mapping[int, Subject]:
    """What alerts are about, by their id."""
    views = list(alerts)
    commands = _commands(session, (view.row.job_seq for view in views))
    return {view.row.id: subject_of(view.row.key, commands.get(view.row.job_seq)) for view in views}


def _commands(session: Session, job_seqs: Iterable[Optional[int]]) -> Mapping[Optional[int], str]:
    """The commands of jobs that are still there."""
    seqs = {seq for seq in job_seqs if seq is not None}
    if not seqs:
        return {}
    rows = session.execute(select(Job.seq, Job.command).where(Job.seq.in_(seqs))).tuples()
    return {seq: one_line(command) for seq, command in rows}
