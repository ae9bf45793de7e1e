"""Responses with and without htmx: a page or its fragment, a toast or a redirect.

Fragments are for `partial` htmx requests only. Their ETag is a hash of their content, so they must not contain CSRF
tokens or running clocks.

While the database has not changed, a refresh gets a 304 before its view runs. For this, a cache holds the last ETag of
each live region with the database's change mark (`engines.change_mark`). Some facts change without a write (a worker
stops responding, a retry is overdue, the disk fills), so entries expire after ENTRY_LIFE_SECONDS. Users with the same
role share entries. This reveals nothing: a 304 only confirms what the user already has.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Union

from flask import Flask, Response, current_app, flash, g, make_response, redirect, render_template, request, url_for
from flask_wtf.csrf import generate_csrf
from markupsafe import Markup
from sqlalchemy.orm import Session

from webapp.console.display.times import zone_name
from webapp.console.frame.person import current_person
from webapp.console.frame.templating import nav_of
from webapp.db import engines
from webapp.db.engines import reading
from webapp.web.faces import current_face
from webapp.web.request_info import below_root, came_from

ENTRY_LIFE_SECONDS = 10.0
MOST_ENTRIES = 500


class Undo(NamedTuple):
    """What the Undo button of a message posts: a field with a value, to a URL."""

    url: str
    name: str = ""
    value: str = ""


Key = tuple[str, str, str]  # what a refresh depends on besides the database: role, URL, time zone


def is_partial() -> bool:
    """Whether htmx asks for a part of the page."""
    return request.headers.get("HX-Request") == "true" and request.headers.get("HX-Request-Type") == "partial"


def page(folder: str, session: Session, status: int = 200, **values: Any) -> Response:
    """Answer with `folder/page.html`, or for a refresh with its live region and the nav badges.

    The page contains the region's ETag, so its first refresh can be a 304. `status`: of any other answer.
    """
    values["nav"] = nav_of(session)
    live = render_template(f"{folder}/_live.html", **values).strip()  # whitespace would be a text node to morph
    badges = render_template("_oob.html", **values).strip()
    tag = hashlib.blake2b((live + badges).encode(), digest_size=12).hexdigest()
    if not is_partial():
        values.update(live=Markup(live), etag=f'W/"{tag}"')  # noqa: S704 -- template output
        response = make_response(render_template(f"{folder}/page.html", **values), status)
    else:
        known = request.if_none_match.contains_weak(tag)
        response = Response("", 304) if known else make_response(live + badges, status)
        response.set_etag(tag, weak=True)  # weak: independent of compression
    response.vary.add("HX-Request-Type")
    return response


def form_page(template: str, session: Optional[Session] = None, **values: Any) -> str:
    """A page without a live region, such as a form."""
    if session is None:
        with reading() as session:
            return form_page(template, session, **values)
    return render_template(template, nav=nav_of(session), **values)


def fragment(template: str, **values: Any) -> Response:
    response = make_response(render_template(template, **values))
    response.vary.add("HX-Request-Type")
    return response


def done(
    message: str, *, back: str, level: str = "success", leave: bool = False, undo: Union[int, Undo, None] = None
) -> Response:
    """Report a successful write, as a toast or on the next page.

    `back`: where a plain form goes if its origin is unknown. `leave`: always go to `back`. `undo`: the id of the action
    that can be undone, or what the Undo button posts.
    """
    if isinstance(undo, int):
        undo = Undo(url_for("activity.undo", act_id=undo))
    if is_partial() and not leave:
        return toast(message, level, undo=undo)
    flash({"text": message, "undo": undo}, level)  # type: ignore[arg-type]  # the session keeps any JSON
    return go_to(back if leave else came_from(back))


def go_to(url: str) -> Response:
    """Make the browser load another page."""
    if not is_partial():
        return redirect(url, 303)  # type: ignore[return-value]
    response = Response("")
    response.headers["HX-Redirect"] = url
    return response


def toast(
    message: str,
    level: str,
    status: int = 200,
    *,
    refresh: bool = True,
    link: Optional[tuple[str, str]] = None,
    undo: Optional[Undo] = None,
) -> Response:
    """A toast for htmx, with an event that makes app.js refresh the live region.

    The event is not `tick` itself: htmx fires it while the button still holds the region's queue, and would drop the
    refresh.
    """
    response = make_response(render_template("_toast.html", message=message, level=level, link=link, undo=undo), status)
    response.headers["HX-Trigger"] = json.dumps({"settled": {"refresh": refresh}})
    return response


def renew_token(response: Response) -> Response:
    """Give app.js the CSRF token of this session, for the forms of a page from before the sign-in."""
    response.headers["HX-Trigger"] = json.dumps({"renewed": {"token": generate_csrf()}})
    return response


def ask(title: str, text: str, button: str, *, back: str, **values: Any) -> Response:
    """Ask for confirmation: a dialog with htmx, else a page. The button repeats the request with `confirmed`.

    `values`: `examples` are jobs to show, `more` is the number of jobs not shown or its text, `hidden` are the pairs
    that the button sends, `options` what is chosen, `danger` makes it red, `impact` is the effect of requeueing.
    """
    defaults = {"examples": (), "hidden": (), "options": None, "danger": False, "action": below_root(request.path)}
    values = {**defaults, **values}
    more = values.get("more", 0)
    values["more"] = more if isinstance(more, str) else f"{more:,}" if more > 0 else ""
    template = "_confirm.html" if is_partial() else "confirm.html"
    response = make_response(render_template(template, title=title, text=text, button=button, back=back, **values))
    if is_partial():
        response.headers["HX-Trigger"] = json.dumps({"ask": {}})
    return response


class Options(NamedTuple):
    """Radio buttons of a question: value and text of each; the first is chosen."""

    name: str
    legend: str
    choices: Sequence[tuple[str, str]]


def refused(message: str, title: Optional[str] = None) -> Response:
    """409: the state has changed, and nothing was done."""
    current_app.logger.debug("refused: %s", message)
    return current_face().explain(409, title, message, None)


# --- refreshes without a change --------------------------------------------------------------------------------------


class Entry(NamedTuple):
    etag: str
    mark: engines.ChangeMark
    at: float


def init_app(app: Flask) -> None:
    lock = threading.Lock()
    entries: dict[Key, Entry] = {}

    def answer_unchanged() -> Optional[Response]:
        if request.method != "GET" or not is_partial() or not request.if_none_match:
            return None
        mark, person = engines.change_mark(), current_person()
        if mark is None or person is None:
            return None
        key = (person.role, request.full_path, zone_name())
        known = entries.get(key)
        fresh = known is not None and known.mark == mark and time.monotonic() - known.at <= ENTRY_LIFE_SECONDS
        if known is None or not fresh or not request.if_none_match.contains_weak(known.etag):
            g.unchanged = (key, mark)
            return None
        response = Response("", 304)
        response.set_etag(known.etag, weak=True)
        response.vary.add("HX-Request-Type")
        return response

    def remember(response: Response) -> Response:
        asked: Optional[tuple[Key, engines.ChangeMark]] = g.pop("unchanged", None)
        etag, _ = response.get_etag()
        if asked is not None and etag is not None and response.status_code in {200, 304}:
            key, mark = asked
            with lock:
                if len(entries) >= MOST_ENTRIES and key not in entries:
                    entries.clear()
                entries[key] = Entry(etag, mark, time.monotonic())
        return response

    app.before_request(answer_unchanged)
    app.after_request(remember)
