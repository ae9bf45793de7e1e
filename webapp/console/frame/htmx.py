"""Responses with and without htmx: a page or its fragment, a toast or a redirect.

Fragments are for `partial` htmx requests only. Their ETag is a hash of their content, so they must not contain CSRF
tokens or running clocks.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Optional

from flask import Response, current_app, flash, make_response, redirect, render_template, request
from markupsafe import Markup
from sqlalchemy.orm import Session

from webapp.console.frame.templating import nav_of
from webapp.db.engines import reading
from webapp.web.faces import current_face
from webapp.web.request_info import came_from


def is_partial() -> bool:
    """Whether htmx asks for a part of the page."""
    return request.headers.get("HX-Request") == "true" and request.headers.get("HX-Request-Type") == "partial"


def page(folder: str, session: Session, **values: Any) -> Response:
    """Answer with `folder/page.html`, or for a refresh with its live region and the nav badges.

    The page contains the region's ETag, so its first refresh can be a 304.
    """
    values["nav"] = nav_of(session)
    live = render_template(f"{folder}/_live.html", **values).strip()  # whitespace would be a text node to morph
    badges = render_template("_oob.html", **values).strip()
    tag = hashlib.blake2b((live + badges).encode(), digest_size=12).hexdigest()
    if not is_partial():
        values.update(live=Markup(live), etag=f'W/"{tag}"')  # noqa: S704 -- template output
        response = make_response(render_template(f"{folder}/page.html", **values))
    else:
        known = request.if_none_match.contains_weak(tag)
        response = Response("", 304) if known else make_response(live + badges)
        response.set_etag(tag, weak=True)  # weak: independent of compression
    response.vary.add("HX-Request-Type")
    return response


def form_page(template: str, session: Optional[Session] = None, **values: Any) -> str:
    """A page without a live region, such as a form."""
    if session is not None:
        return render_template(template, nav=nav_of(session), **values)
    with reading() as session:
        nav = nav_of(session)
    return render_template(template, nav=nav, **values)


def fragment(template: str, **values: Any) -> Response:
    response = make_response(render_template(template, **values))
    response.vary.add("HX-Request-Type")
    return response


def done(
    message: str, *, back: str, level: str = "success", leave: bool = False, undo: Optional[int] = None
) -> Response:
    """Report a successful write, as a toast or on the next page.

    `back`: where a plain form goes if its origin is unknown. `leave`: always go to `back`. `undo`: the id of the action
    that can be undone.
    """
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
    undo: Optional[int] = None,
) -> Response:
    """A toast for htmx, with an event that makes app.js refresh the live region.

    The event is not `tick` itself: htmx fires it while the button still holds the region's queue, and would drop the
    refresh.
    """
    response = make_response(render_template("_toast.html", message=message, level=level, link=link, undo=undo), status)
    response.headers["HX-Trigger"] = json.dumps({"settled": {"refresh": refresh}})
    return response


def ask(title: str, text: str, button: str, *, back: str, **values: Any) -> Response:
    """Ask for confirmation: a dialog with htmx, else a page. The button repeats the request with `confirmed`.

    `values`: `examples` are jobs to show, `more` is the number of jobs not shown, `hidden` are the pairs that the
    button sends, `danger` makes it red, `impact` is the effect of requeueing.
    """
    values = {"examples": (), "more": 0, "hidden": (), "danger": False, "action": request.path, **values}
    template = "_confirm.html" if is_partial() else "confirm.html"
    response = make_response(render_template(template, title=title, text=text, button=button, back=back, **values))
    if is_partial():
        response.headers["HX-Trigger"] = json.dumps({"ask": {}})
    return response


def refused(message: str) -> Response:
    """409: the state has changed, and nothing was done."""
    current_app.logger.debug("refused: %s", message)
    return current_face().explain(409, None, message, None)
