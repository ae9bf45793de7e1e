"""Filters and values for all templates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import current_app, request
from jinja2 import StrictUndefined

from webapp.console.display import timeline, times, wait_reason, wording
from webapp.console.frame.roles import needed_role
from webapp.console.sessions import current_person
from webapp.core import labels
from webapp.lib import durations, text
from webapp.lib.version import __version__

if TYPE_CHECKING:
    from flask import Flask

THEMES = ("auto", "light", "dark")
TICKS = ("0", "1", "2", "5", "15")  # seconds between refreshes; 0: off


def init_app(app: Flask) -> None:
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.filters.update(
        when=times.when,
        exact=times.exact,
        duration=durations.duration,
        about=durations.about,
        who=wording.who,
        size=text.size,
        number=wording.number,
        one_line=text.one_line,
        happened=wording.happened,
        phase=timeline.told,
        shown_state=wording.shown_state,
        worker_state=wording.worker_state,
        labels=labels.split,
        plain=text.show_controls,
    )
    app.jinja_env.globals.update(
        between=durations.between, verbs_for=wording.verbs_for, STATE_HELP=wording.STATE_HELP, plural=text.plural,
        version=__version__, may_open=may_open, takers=wait_reason.takers, wanting=wait_reason.wanting,
    )  # fmt: skip
    app.context_processor(_reader)


def may_open(endpoint: str) -> bool:
    """Whether the page exists and the user's role may open it."""
    person = current_person()
    known = endpoint in current_app.view_functions
    return known and person is not None and person.may(needed_role(current_app, endpoint) or "viewer")


def _reader() -> dict[str, Any]:
    """The user and the preferences from cookies. Invalid cookies are ignored."""
    cookies = request.cookies
    return {
        "person": current_person(),
        "theme": _one_of(cookies.get("theme"), THEMES, "auto"),
        "tick": _one_of(cookies.get("tick"), TICKS, "5"),
        "keys": _one_of(cookies.get("keys"), ("on", "off"), "on"),
        "here": request.full_path.rstrip("?"),
        "nav": None,
    }


def _one_of(value: str | None, allowed: tuple[str, ...], default: str) -> str:
    return value if value in allowed else default
