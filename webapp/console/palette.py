"""The palette (Ctrl-K): go to a job, queue, group, command, schedule, setting or page, or act on a job or a queue.

app.js opens it as a dialog, whose results htmx loads. Without JavaScript it is a page. Its actions are the buttons of
the other pages: the same requests, questions and undo.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.console.display.wording import verbs_for
from webapp.console.frame import htmx
from webapp.console.frame.person import this_person
from webapp.console.frame.templating import may_open
from webapp.core import settings as core_settings
from webapp.core.job_spec import NAME
from webapp.db.engines import reading
from webapp.db.models import Job, Queue, Schedule
from webapp.db.text_match import contains, starts_with
from webapp.insight.queues import some_names
from webapp.jobs.lifecycle import in_state
from webapp.jobs.search import MAX_TYPED
from webapp.lib.command_patterns import COMMAND_PREFIX, command_shape
from webapp.lib.text import one_line, storable

pages = Blueprint("palette", __name__)

MOST = 5  # results of each kind
NEWEST = 2_000  # jobs whose ids and commands are looked at; an exact id is found among all
PAGES = (
    ("Overview", "overview.index", "home charts statistics"),
    ("Jobs", "jobs.index", "list search"),
    ("Dead letters", "dead_letters.index", "failed groups dlq errors"),
    ("Schedules", "schedules.index", "cron"),
    ("New schedule", "schedules.new", "add cron"),
    ("Workers", "workers.index", "processes scale drain"),
    ("Queues", "queues.index", "pause resume"),
    ("Activity", "activity.index", "undo bulk actions canary"),
    ("Settings", "config.index", "config configuration"),
    ("Submit a job", "submit.new", "new enqueue add"),
    ("Notifications", "notifications.index", "channels rules alerts messages"),
    ("Account", "account.show", "password theme keys"),
    ("Users", "people.index", "people invite roles"),
    ("Tokens", "tokens.index", "api keys"),
    ("Audit trail", "audit.index", "log history"),
    ("API docs", "api_docs.show", "json http reference"),
)  # title, endpoint, other words for it


class Result(NamedTuple):
    """A line of the palette. `acts`: `url` is requested with POST, by a button."""

    kind: str
    title: str
    url: str
    detail: str = ""
    acts: bool = False
    danger: bool = False
    mono: bool = False


@pages.get("/palette")
def show() -> ResponseReturnValue:
    typed = storable(request.args.get("q", "").strip()[:MAX_TYPED])
    with reading() as session:
        values = {"typed": typed, "results": _results(session, typed)}
        if htmx.is_partial():
            return htmx.fragment("palette/_results.html", **values)
        return htmx.form_page("palette/page.html", session, **values)


def _results(session: Session, typed: str) -> list[Result]:
    words = typed.casefold().split()
    found = list(_found(session, typed, words))
    if words:  # 'pause mail': the action first
        found.sort(key=lambda one: not (one.acts and one.title.casefold().startswith(words[0])))
    return found


def _found(session: Session, typed: str, words: list[str]) -> Iterator[Result]:
    if words:
        yield from _jobs(session, typed)
        yield from _queues(session, typed)
    yield from _pages(words)
    if words:
        yield from _settings(words)
        yield from _schedules(session, typed)
        yield from _groups(session, words)
        yield from _commands(session, typed)
        yield Result("Search", f"Search jobs for “{typed}”", url_for("jobs.index", q=typed))


def _all_in(words: list[str], *texts: str) -> bool:
    where = " ".join(texts).casefold()
    return all(word in where for word in words)


def _last_word(typed: str) -> str:
    """What 'requeue job1' or 'pause mail' is about."""
    return typed.split()[-1]


# --- kinds -----------------------------------------------------------------------------------------------------------


def _jobs(session: Session, typed: str) -> Iterator[Result]:
    """Jobs by id, and for an exact id its actions."""
    name = _last_word(typed)
    if not NAME.match(name):
        return
    newest = select(Job.seq).order_by(Job.seq.desc()).limit(NEWEST)
    recent = select(Job).where(Job.seq.in_(newest), starts_with(Job.id, name)).order_by(Job.seq.desc()).limit(MOST)
    exact = session.scalar(select(Job).where(Job.id == name))
    for job in dict.fromkeys([*([exact] if exact is not None else []), *session.scalars(recent)]):
        detail = f"{job.state} · {one_line(job.command, 80)}"
        yield Result("Job", job.id, url_for("job.show", job_id=job.id), detail, mono=True)
    if exact is not None and this_person().may("operator"):
        for verb in verbs_for(exact.state):
            if exact.cancel_requested_at is None:
                url = url_for("acts.on_one", job_id=exact.id, verb_path=verb.path)
                yield Result("Action", f"{verb.label} {exact.id}", url, acts=True, danger=verb.danger)


def _queues(session: Session, typed: str) -> Iterator[Result]:
    names = some_names(session, MOST, "" if typed.casefold() in ("pause", "resume") else _last_word(typed))
    paused = set(session.scalars(select(Queue.name).where(Queue.name.in_(names), Queue.paused_at.is_not(None))))
    for name in names:
        yield Result("Queue", name, url_for("queues.show", name=name), "paused" if name in paused else "", mono=True)
    if this_person().may("operator"):
        for name in names:
            verb = "resume" if name in paused else "pause"
            yield Result("Action", f"{verb.capitalize()} queue {name}", url_for(f"queues.{verb}", name=name), acts=True)


def _pages(words: list[str]) -> Iterator[Result]:
    for title, endpoint, others in PAGES:
        if may_open(endpoint) and _all_in(words, title, others):
            yield Result("Page", title, url_for(endpoint))


def _settings(words: list[str]) -> Iterator[Result]:
    if not may_open("config.show"):
        return
    found = [one for one in core_settings.DEFINITIONS.values() if _all_in(words, one.key, one.key.replace("_", " "))]
    for one in found[:MOST]:
        yield Result("Setting", one.key, url_for("config.show", key=one.key), one.help, mono=True)


def _schedules(session: Session, typed: str) -> Iterator[Result]:
    names = select(Schedule.name).where(contains(Schedule.name, typed)).order_by(Schedule.name).limit(MOST)
    for name in session.scalars(names):
        yield Result("Schedule", name, url_for("schedules.show", name=name), mono=True)


def _groups(session: Session, words: list[str]) -> Iterator[Result]:
    """Groups of the newest dead letters with these words in their key, error and command."""
    columns = Job.error_key, Job.last_error, Job.command, Job.finished_at
    newest = select(*columns).where(in_state("dead"), Job.error_key.is_not(None)).order_by(Job.finished_at.desc())
    seen: set[str] = set()
    for key, error, command, _ in session.execute(newest.limit(NEWEST)):
        if key not in seen and _all_in(words, key, error or "", command):
            seen.add(key)
            url = url_for("dead_letters.show", group=key)
            yield Result("Group", one_line(error or key, 80), url, one_line(command, 60))
        if len(seen) == MOST:
            return


def _commands(session: Session, typed: str) -> Iterator[Result]:
    """Patterns of the commands of the newest jobs; they lead to the pages of the patterns."""
    newest = select(Job.seq, Job.command).order_by(Job.seq.desc()).limit(NEWEST).subquery()
    found = select(newest.c.command).where(contains(newest.c.command, typed)).order_by(newest.c.seq.desc())
    shapes = (command_shape(command[:COMMAND_PREFIX]) for command in session.scalars(found.limit(200)))
    for shape in list(dict.fromkeys(filter(None, shapes)))[:MOST]:
        yield Result("Command", one_line(shape, 100), url_for("command.show", pattern=shape), mono=True)
