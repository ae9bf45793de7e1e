"""The head of a job's page: its title and icon by state, and the way back to the list that the user came from."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, urlencode, urlsplit

from flask import request, url_for

from webapp.db.models import Job
from webapp.lib.text import shorten, show_controls
from webapp.web.request_info import came_from, local_path, requested_path

TITLE_LENGTH = 80  # characters
LINE_LENGTH = 300
SHOWN_LINES = 12  # of the command; the others follow a click
SIGNS = {
    "blocked": "\N{DOUBLE VERTICAL BAR}",
    "scheduled": "\N{CLOCK FACE THREE OCLOCK}",
    "pending": "\N{HORIZONTAL ELLIPSIS}",
    "processing": "\N{BLACK RIGHT-POINTING TRIANGLE}",
    "completed": "\N{CHECK MARK}",
    "failed": "\N{CLOCKWISE OPEN CIRCLE ARROW}",
    "dead": "\N{BALLOT X}",
    "cancelled": "\N{CIRCLED DIVISION SLASH}",
}
ICONS = ("processing", "completed", "failed", "dead")  # states whose icon has a dot
# The first part of a list's path, and what the crumb says.
LISTS = {
    "": "Overview", "jobs": "Jobs", "dead": "Dead letters", "workers": "Workers", "queues": "Queues", "queue": "Queue",
    "batch": "Batch", "activity": "Activity", "schedules": "Schedules", "schedule": "Schedule", "command": "Command",
    "notifications": "Notifications", "notification": "Message", "search": "Search",
}  # fmt: skip


class Head(NamedTuple):
    """What names the job: the first line of its command, the title of the page, its icon; the command in two parts."""

    line: str
    title: str
    icon: str
    shown: str
    rest: str
    hidden: int  # lines of `rest`


def of(job: Job) -> Head:
    lines = job.command.strip("\n").split("\n")
    worded = [one.strip() for one in lines if one.strip()]
    line = next((one for one in worded if not one.startswith("#!")), "".join(worded[:1]))
    icon = f"icon-{job.state}.svg" if job.state in ICONS else "icon.svg"
    few = len(lines) <= SHOWN_LINES + 1  # one hidden line would need a line to say so
    shown, rest = (lines, []) if few else (lines[:SHOWN_LINES], lines[SHOWN_LINES:])
    title = f"{SIGNS[job.state]} {show_controls(shorten(line, TITLE_LENGTH))}"
    return Head(shorten(line, LINE_LENGTH), title, icon, "\n".join(shown), "\n".join(["", *rest]), len(rest))


class WayBack(NamedTuple):
    """A link to a list. `kept`: links on the page carry it, because the next page has another Referer."""

    url: str
    text: str
    kept: bool


NOWHERE = WayBack("", "", False)


def way_back() -> WayBack:
    """The list in `back` or in the Referer, if it is one of this console; else the list of all jobs."""
    home = url_for("jobs.index")
    for url in (local_path(request.args.get("back"), ""), came_from("")):
        text = _text(url)
        if text:
            return WayBack(url, text, url != home)
    return WayBack(home, "Jobs", False)


def with_way_back(back: WayBack) -> str:
    """The URL of this page, with `back` for its refreshes."""
    here = requested_path()
    if not back.kept or "back" in request.args:
        return here
    return f"{here}{'&' if '?' in here else '?'}{urlencode({'back': back.url})}"


def _text(url: str) -> str:
    """What the crumb says, or '' if this is not the URL of a list."""
    if not url:
        return ""
    parts = urlsplit(url)
    first, _, rest = parts.path[len(request.script_root) :].strip("/").partition("/")
    text = LISTS.get(first, "")
    asked = {name: shorten(values[0], 40) for name, values in parse_qs(parts.query).items()}
    if first == "jobs":
        state = asked.get("state", "")
        text = f"{'retrying' if state == 'failed' else state} jobs".capitalize() if state in SIGNS else text
        text += f" matching “{asked['q']}”" if "q" in asked else ""
        text += f" in {asked['queue']}" if "queue" in asked else ""
    elif first == "dead" and rest:
        text = "Dead letter group"
    elif first in ("queue", "schedule") and rest:
        text = f"{text} {shorten(rest, 40)}"
    return text
