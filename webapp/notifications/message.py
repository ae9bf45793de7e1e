"""The text of a message: subject, plain text, HTML, and the JSON of a webhook, from one list of blocks.

Names, commands and output come from jobs, so nothing here trusts them: lines of headers are cut to one line without
control characters, HTML is escaped, and each part is bounded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Optional
from urllib.parse import quote

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.core.notices import EVENTS
from webapp.db.models import Channel, Delivery, Group, Job
from webapp.insight import failure_evidence, failure_groups
from webapp.lib import clock
from webapp.lib.durations import duration
from webapp.lib.text import escape_controls, escape_lines, one_line, plural, shorten, size
from webapp.lib.text_diff import Row
from webapp.notifications.rules import OF_JOBS

MAX_SUBJECT = 150  # characters
MAX_COMMAND, MAX_ERROR, MAX_NOTE = 1000, 500, 2000  # characters
OUTPUT_LINES, MAX_OUTPUT = 20, 2000  # of the output's end
DIFFERENCE_LINES, MAX_LINE = 40, 200  # of the difference
_RULE_TEXT = "-" * 40


@dataclass(frozen=True)
class Message:
    """A message that is ready to be sent.

    Attributes:
        id: stays the same if the message is sent again after an interruption.
        thread_id: the id of the first message about the same alert; None: this is the first.
        thread_subject: the subject of that message.
    """

    id: str
    subject: str
    text: str
    html: str
    event: Mapping[str, Any]
    thread_id: Optional[str] = None
    thread_subject: Optional[str] = None

    @property
    def body(self) -> bytes:
        """The JSON of a webhook."""
        return json.dumps(self.event, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass
class _Draft:
    """What a message says. Blocks are ('text', …), ('facts', pairs), ('lines', title, text) or ('links', pairs)."""

    headline: str
    blocks: list[tuple[Any, ...]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def facts(self, *pairs: tuple[str, Optional[str]]) -> None:
        """Add facts to the last block; leave out empty ones."""
        if not self.blocks or self.blocks[-1][0] != "facts":
            self.blocks.append(("facts", []))
        self.blocks[-1][1].extend((name, value) for name, value in pairs if value)

    def link(self, name: str, url: Optional[str]) -> None:
        if url:
            self.links[name] = url


def stable_id(channel: Channel, delivery_id: int, created_at: int) -> str:
    """The id by which a receiver recognises a repetition. After a restore, no other message gets the same."""
    whose = f"{channel.id}.{channel.created_at}.{created_at}".encode()
    return f"msg_{hashlib.blake2b(whose, digest_size=6).hexdigest()}_{delivery_id}"


def build(
    session: Session, channel: Channel, delivery: Delivery, *, suppressed: int, public_url: Optional[str]
) -> Message:
    """The message of a delivery, from its detail and what the database says now.

    `suppressed`: messages that the channel's limit suppressed since the last one. `public_url`: of the console.
    """
    detail: Mapping[str, Any] = json.loads(delivery.detail)
    links = _Links(public_url)
    if delivery.kind == "test":
        draft = _test(channel, detail)
    elif delivery.kind == "job-ended":
        draft = _job_ended(session, detail, links)
    else:
        draft = _alert(session, delivery, detail, links)
    if suppressed:
        draft.data["suppressed"] = suppressed
        more = f"{plural(suppressed, 'more message was', 'more messages were')} suppressed"
        draft.blocks.append(("text", f"{more}: this channel sends at most {channel.hourly_cap} per hour."))
    if draft.links:
        draft.blocks.append(("links", list(draft.links.items())))
        draft.data["links"] = draft.links
    draft.blocks.append(("text", _why(channel, detail, links)))
    subject = shorten(escape_controls(draft.headline), MAX_SUBJECT)
    event = {
        "type": delivery.kind,
        "event": detail.get("event"),
        "timestamp": clock.to_iso(delivery.created_at),
        "data": {"subject": subject, "channel": channel.name, "rule": detail.get("rule"), **draft.data},
    }
    first = _first_of_thread(session, delivery)
    return Message(
        stable_id(channel, delivery.id, delivery.created_at),
        subject,
        _as_text(draft),
        _as_html(draft),
        event,
        thread_id=stable_id(channel, first.id, first.created_at) if first else None,
        thread_subject=first.subject or subject if first else None,
    )


def _first_of_thread(session: Session, delivery: Delivery) -> Optional[Delivery]:
    """The first delivery of the same alert, if it is another one."""
    if delivery.alert_id is None:
        return None
    same = select(Delivery).where(Delivery.alert_id == delivery.alert_id, Delivery.channel_id == delivery.channel_id)
    first = session.scalar(same.order_by(Delivery.id).limit(1))
    return first if first is not None and first.id != delivery.id else None


class _Links:
    """URLs of pages; none without QUEUECTL_PUBLIC_URL."""

    def __init__(self, public_url: Optional[str]) -> None:
        self._base = public_url

    def to(self, *path: str) -> Optional[str]:
        if self._base is None:
            return None
        return "/".join([self._base, *(quote(part, safe=":") for part in path)])


# --- texts by kind ---------------------------------------------------------------------------------------------------


def _test(channel: Channel, detail: Mapping[str, Any]) -> _Draft:
    draft = _Draft(f"Test message to channel {channel.name}")
    draft.blocks.append(("text", "This is a test. The channel works."))
    draft.facts(("Requested by", str(detail.get("actor") or "")))
    return draft


def _job_ended(session: Session, detail: Mapping[str, Any], links: _Links) -> _Draft:
    ended = {"completed": "completed", "dead": "failed", "cancelled": "was cancelled"}
    state = str(detail.get("state") or "")
    draft = _Draft(f"Job {detail.get('job')} {ended.get(state, f'is {state}')}")
    job = session.get(Job, detail.get("job_seq") or 0)
    draft.facts(("Requested by", str(detail.get("by") or "")))
    _add_job(session, draft, job, links, with_difference=state == "dead")
    draft.data["state"] = state
    return draft


def _alert(session: Session, delivery: Delivery, detail: Mapping[str, Any], links: _Links) -> _Draft:
    event, count, new = str(detail.get("event")), int(detail.get("count") or 0), int(detail.get("new") or 0)
    job = session.get(Job, detail["job_seq"]) if detail.get("job_seq") else None
    what = _what_of_jobs(event, job) if event in OF_JOBS else _what(event, detail)
    downtime = duration(detail["seconds"]) if detail.get("seconds") is not None else None
    draft = _Draft(
        {
            "update": f"{_times(event, new, 'more ')} failed: {what}" if event in OF_JOBS else f"Again: {what}",
            "recovery": f"Recovered{f' after {downtime}' if downtime else ''}: {what}",
            "flapping": f"Flapping, fails and recovers repeatedly: {what}",
        }.get(delivery.kind, _opening(event, count, what))
    )
    told = _counted(event, count, new, delivery.kind)
    if told:
        draft.blocks.append(("text", told))
    draft.facts(
        ("First", _time(detail.get("opened_at"))),
        ("Last", _time(detail.get("last_at"))),
        ("Lasted", downtime),
        *_facts_of(detail.get("notice")),
    )
    times = {key: clock.to_iso(detail[key]) for key in ("opened_at", "last_at") if detail.get(key)}
    draft.data.update({"about": detail.get("subject"), "count": count, "new": new, **times})
    draft.data["notice"] = detail.get("notice") or {}
    if detail.get("seconds") is not None:
        draft.data["seconds"] = detail["seconds"]
    if event in OF_JOBS:
        _add_group(session, draft, str(detail.get("subject") or ""), links)
        _add_job(session, draft, job, links, with_difference=delivery.kind != "recovery")
    else:
        _add_page(draft, str(detail.get("subject") or ""), links)
    return draft


def _opening(event: str, count: int, what: str) -> str:
    if event == "group-new":
        return f"New kind of failure: {what}"
    return f"{_times(event, count)} failed: {what}" if event in OF_JOBS else what


def _times(event: str, count: int, more: str = "") -> str:
    return plural(count, more + ("attempt" if event == "attempt-failed" else "job"))


def _counted(event: str, count: int, new: int, kind: str) -> Optional[str]:
    if count <= 1 or (kind == "alert" and event in ("job-dead", "attempt-failed")):
        return None  # the headline says it
    so_far = f"{_times(event, count)} failed" if event in OF_JOBS else f"It happened {count:,} times"
    return f"{so_far} so far, {new:,} since the last message." if kind == "update" and new < count else f"{so_far}."


def _what_of_jobs(event: str, job: Optional[Job]) -> str:
    if job is None:
        return EVENTS.get(event, event)
    error = one_line(job.last_error or "", 100)
    command = one_line(job.command, 60)
    return f"{error} ({command})" if error else command


def _what(event: str, detail: Mapping[str, Any]) -> str:
    """A sentence about something other than a job: 'Schedule nightly: its job has waited for 10 min'."""
    kind, _, name = str(detail.get("subject") or "").partition(":")
    notice = detail.get("notice")
    notice = notice if isinstance(notice, Mapping) else {}
    said = notice.get("text") or notice.get("reason")
    words = EVENTS.get(event, event)
    if event == "schedule-missed" and isinstance(notice.get("number"), int):
        words = f"{plural(notice['number'], 'fire was', 'fires were')} missed" + (f": {said}" if said else "")
    elif said:
        words = str(said)
    whose = {"action": "Activity"}.get(kind, kind.capitalize())
    return one_line(f"{whose} {name}: {words}" if name else words[:1].upper() + words[1:], 300)


def _facts_of(notice: object) -> Sequence[tuple[str, Optional[str]]]:
    """What else the newest notice says; see `core/notices.record` and its callers."""
    if not isinstance(notice, Mapping):
        return ()
    oldest, free = notice.get("oldest"), notice.get("free")
    return [
        ("Oldest due since", _time(oldest)),
        ("Paused", "yes" if notice.get("paused") else None),
        ("Free", size(free) if isinstance(free, (int, float)) else None),
        ("First missed", _time(notice.get("first"))),
        ("Last missed", _time(notice.get("last"))),
        ("Worker", str(notice.get("worker") or "")),
    ]


def _add_page(draft: _Draft, subject: str, links: _Links) -> None:
    kind, _, name = subject.partition(":")
    place = {
        "schedule": ("schedule", name),
        "queue": ("queues",),
        "host": ("workers",),
        "action": ("activity", name),
    }.get(kind, ("",))
    draft.link("page", links.to(*place))


def _add_group(session: Session, draft: _Draft, subject: str, links: _Links) -> None:
    """Note and owner of the failure group."""
    key = failure_groups.current_key(session, subject.partition(":")[2])
    group = session.get(Group, key)
    note, owner = (group.note, group.owner) if group is not None else ("", None)
    draft.facts(("Owner", owner), ("Note", escape_lines(shorten(note, MAX_NOTE))))
    draft.data["group"] = {"key": key, "note": note, "owner": owner}
    draft.link("group", links.to("dead", key))


def _add_job(session: Session, draft: _Draft, job: Optional[Job], links: _Links, *, with_difference: bool) -> None:
    if job is None:
        draft.blocks.append(("text", "The job has been deleted."))
        return
    command, error = shorten(job.command, MAX_COMMAND), shorten(job.last_error or "", MAX_ERROR)
    draft.facts(
        ("Job", job.id),
        ("Queue", job.queue),
        ("Command", escape_lines(command)),
        ("Error", escape_lines(error)),
        ("Attempts", str(job.attempts)),
    )
    draft.data["job"] = {
        "id": job.id,
        "queue": job.queue,
        "command": command,
        "state": job.state,
        "attempts": job.attempts,
        "exit_code": job.exit_code,
        "error": error or None,
    }
    evidence = failure_evidence.of(session, job)
    output = _tail(evidence.tail)
    if output:
        draft.blocks.append(("lines", "Last lines of the output", output))
    draft.data["output"] = output
    good = evidence.good
    if with_difference and evidence.difference and good is not None:
        lines = [_diff_line(row) for row in evidence.difference[:DIFFERENCE_LINES]]
        if len(evidence.difference) > DIFFERENCE_LINES:
            lines.append("… more")
        title = f"Difference from the last success ({good.job.id}): '-' only in the success, '+' only in this job"
        draft.blocks.append(("lines", title, "\n".join(lines)))
        draft.data["difference"] = {"good": good.job.id, "lines": lines}
    draft.link("job", links.to("job", job.id))


def _tail(text: str) -> str:
    lines = [shorten(escape_controls(line.rstrip()), MAX_LINE) for line in text.rstrip().split("\n")]
    return "\n".join(lines[-OUTPUT_LINES:])[-MAX_OUTPUT:]


def _diff_line(row: Row) -> str:
    return f"{row.sign} {shorten(escape_controls(row.text), MAX_LINE)}"


def _time(moment: object) -> Optional[str]:
    return f"{clock.to_datetime(moment):%Y-%m-%d %H:%M:%S} UTC" if isinstance(moment, int) else None


def _why(channel: Channel, detail: Mapping[str, Any], links: _Links) -> str:
    rule, page = detail.get("rule"), links.to("notifications")
    if not rule:
        return f"Sent to the channel {channel.name}."
    where = f", or on {page}" if page else ""
    return (
        f"Sent by the rule {rule} to the channel {channel.name}. Mute it: manage.py rule mute {rule} --until 2h{where}"
    )


# --- rendering -------------------------------------------------------------------------------------------------------


def _as_text(draft: _Draft) -> str:
    parts = [escape_controls(draft.headline)]
    for kind, *content in draft.blocks:
        if kind == "text":
            parts.append(content[0])
        elif kind == "lines":
            title, text = content
            parts.append(f"{title}\n{_RULE_TEXT}\n{text}\n{_RULE_TEXT}")
        elif content[0]:
            names = {"job": "The job", "group": "Failures like this", "page": "More"} if kind == "links" else {}
            parts.append("\n".join(f"{names.get(name, name)}: {value}" for name, value in content[0]))
    return "\n\n".join(parts) + "\n"


_PRE = "background:#f6f8fa;border:1px solid #d0d7de;padding:8px;overflow:auto;white-space:pre-wrap"
_FACT = "padding:1px 12px 1px 0;vertical-align:top"


def _as_html(draft: _Draft) -> str:
    parts = [f"<h3>{escape(escape_controls(draft.headline))}</h3>"]
    for kind, *content in draft.blocks:
        if kind == "text":
            parts.append(f"<p>{escape(content[0])}</p>")
        elif kind == "lines":
            title, text = content
            parts.append(f'<p><b>{escape(title)}</b></p><pre style="{_PRE}">{escape(text)}</pre>')
        elif kind == "links":
            words = {"job": "Open the job", "group": "Failures like this", "page": "Open"}
            links = [f'<a href="{escape(url)}">{words[name]}</a>' for name, url in content[0]]
            parts.append(f"<p>{' · '.join(links)}</p>")
        elif content[0]:
            rows = "".join(
                f'<tr><td style="{_FACT};color:#57606a">{escape(name)}</td>'
                f'<td style="{_FACT};white-space:pre-wrap">{escape(value)}</td></tr>'
                for name, value in content[0]
            )
            parts.append(f"<table>{rows}</table>")
    return f'<!doctype html><html><body style="font-family:sans-serif">{"".join(parts)}</body></html>\n'
