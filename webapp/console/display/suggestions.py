"""Completion in the search box of the jobs: qualifiers and their values for the last word that is typed.

htmx asks for it; the chosen suggestion replaces the whole text, so the server decides what stands in the box.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.console.display.times import zone_name
from webapp.core import labels
from webapp.core.states import STATES
from webapp.db.models import Channel, LabelSetRow, Schedule, User, Worker
from webapp.db.text_match import starts_with
from webapp.insight.queues import some_names
from webapp.jobs.search import QUALIFIERS

MOST = 8
Values = Iterable[tuple[str, str]]  # each with its meaning, or ''
Read = Callable[[Session, str], Values]
MayOpen = Callable[[str], bool]


class Suggestion(NamedTuple):
    """`text` is shown; `fill` is the whole search with it."""

    text: str
    meaning: str
    fill: str


def suggestions(session: Session, typed: str, may_open: MayOpen) -> list[Suggestion]:
    """What may stand in the place of the last word; nothing after a space or in a phrase.

    `may_open` says whether the user may open the page that lists the names.
    """
    last = typed.split()[-1] if typed and not typed[-1].isspace() else ""
    before = typed[: len(typed) - len(last)]
    sign = "-" if last.startswith("-") else ""
    name, colon, value = last[len(sign) :].partition(":")
    if not last or '"' in last or before.count('"') % 2:
        return []
    if not colon:
        names = [(f"{one}:", meaning) for one, _, meaning in QUALIFIERS if one.startswith(name.lower())] if name else []
        return [Suggestion(sign + text, meaning, before + sign + text) for text, meaning in names[:MOST]]
    read, page = _VALUES.get(name.lower(), (None, ""))
    if read is None or value.startswith("//") or (page and not may_open(page)):
        return []
    found = [pair for pair in read(session, value) if pair[0].lower() != value.lower()]
    head = f"{sign}{name.lower()}:"
    return [Suggestion(head + one, meaning, f"{before}{head}{one} ") for one, meaning in found[:MOST]]


def _fixed(*values: tuple[str, str]) -> Read:
    return lambda _session, value: [pair for pair in values if pair[0].startswith(value.lower())]


def _names(column: Any) -> Read:
    def read(session: Session, value: str) -> Values:
        found = select(column).where(starts_with(column, value)).order_by(column).limit(MOST + 1)
        return [(name, "") for name in session.scalars(found)]

    return read


def _queues(session: Session, value: str) -> Values:
    return [(name, "") for name in some_names(session, MOST + 1, value)]


def _labels(session: Session, value: str) -> Values:
    texts = session.scalars(select(LabelSetRow.requires).distinct().limit(1000))
    names = sorted({name for text in texts for name in labels.split(text)})
    return [(name, "") for name in names if name.startswith(value.lower())]


def _times(session: Session, value: str) -> Values:
    days = _days(session, value)
    ago = [(text, f"{text} ago") for text in ("30min", "2h", "24h", "7d") if text.startswith(value.lower())]
    return [*ago, *days]


def _days(_session: Session, value: str) -> Values:
    names = ("today", "yesterday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    return [(name, zone_name()) for name in names if value or name in names[:2] if name.startswith(value.lower())]


# Each with the page that lists the names, or ''.
_VALUES: dict[str, tuple[Read, str]] = {
    "state": (_fixed(*((state, "") for state in STATES)), ""),
    "queue": (_queues, ""),
    "exit": (_fixed(("1", "general error"), ("2", "wrong usage"), ("126", "cannot be executed"),
                    ("127", "command not found"), ("137", "killed"), ("143", "terminated")), ""),
    "worker": (_names(Worker.id), "workers.index"),
    "failed-attempt": (_fixed(("any", "any failed attempt"), ("exit", ""), ("timed", ""), ("signal", "")), ""),
    "since": (_times, ""),
    "until": (_times, ""),
    "on": (_days, ""),
    "by": (_names(User.name), "people.index"),
    "requires": (_labels, ""),
    "schedule": (_names(Schedule.name), "schedules.index"),
    "notified": (_names(Channel.name), "notifications.index"),
}  # fmt: skip
