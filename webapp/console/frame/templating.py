"""Filters and values for all templates; the badges of the navigation, and the warning bar."""

from __future__ import annotations

from typing import Any

from flask import Flask, current_app, g, request, url_for
from jinja2 import StrictUndefined
from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from webapp.console.display import schedule_strip, timeline, times, wait_reason, wording
from webapp.console.frame.person import Need, current_person, need_of
from webapp.core import labels
from webapp.db import engines
from webapp.db.models import Worker
from webapp.insight import exact_counts, fleet
from webapp.jobs import queries, settings
from webapp.jobs.filters import JobFilter
from webapp.lib import clock, durations, text
from webapp.lib.version import __version__
from webapp.web.request_info import requested_path

PREFERENCES = {  # cookies of a browser and their values, the default first
    "theme": ("auto", "light", "dark"),
    "tick": ("5", "0", "1", "2", "15"),  # seconds between refreshes; 0: off
    "keys": ("on", "off"),
    "zone": ("local", "utc"),  # of times; the name of the local one is in the cookie `tz`, which app.js sets
}


def init_app(app: Flask) -> None:
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.filters.update(
        when=times.when,
        duration=durations.duration,
        about=durations.about,
        who=wording.who,
        size=text.size,
        number=wording.number,
        one_line=text.one_line,
        phase=timeline.phase_text,
        worker_state=fleet.state_text,
        labels=labels.split,
        plain=text.show_controls,
    )
    app.jinja_env.globals.update(
        between=durations.between, verbs_for=wording.verbs_for, plural=text.plural,
        version=__version__, may_open=may_open, takers=wait_reason.takers, wanting=wait_reason.wanting,
        start_command=wait_reason.start_command, place=wait_reason.place, total=queries.total, listed=text.listed,
        sparkline=schedule_strip.sparkline, icons_url=icons_url,
    )  # fmt: skip
    app.context_processor(_reader)


def icons_url() -> str:
    """The URL of the file with all icons, made once for each request: a list shows a hundred."""
    if "icons_url" not in g:
        g.icons_url = url_for("static", filename="icons.svg")
    made: str = g.icons_url
    return made


def may_open(endpoint: str) -> bool:
    """Whether the page exists and the user's role may open it."""
    person = current_person()
    known = endpoint in current_app.view_functions
    need = need_of(current_app, endpoint) or Need("viewer")
    return known and person is not None and person.may(need.role)


def _reader() -> dict[str, Any]:
    """The user and the preferences from cookies. Invalid cookies are ignored."""
    choices = {name: request.cookies.get(name) for name in PREFERENCES}
    return {
        **{name: choices[name] if choices[name] in allowed else allowed[0] for name, allowed in PREFERENCES.items()},
        "person": current_person(),
        "here": requested_path(),
        "nav": None,
    }


def nav_of(session: Session) -> dict[str, Any]:
    """What the badges and the warning bar show. `workers`: those with a heartbeat within the lease."""
    lease = settings.load(session).lease
    alive = (Worker.state == literal_column("'running'"), Worker.seen_at >= clock.now() - clock.seconds(lease))
    workers = session.scalar(select(func.count()).select_from(Worker).where(*alive)) or 0
    return {
        "dead": exact_counts.of(session, JobFilter(state="dead")),
        "workers": workers,
        "paused": len(queries.paused_queues(session)),
        # Where the queue is, if it was moved. A moved queue has no workers.
        "moved": None if workers else engines.moved_note(session.connection()),
    }
