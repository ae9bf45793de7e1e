"""How pages and buttons answer, with htmx and without it: a page or its fragment, a toast or a redirect.

A fragment is sent only to whom htmx names `partial`; its ETag is a hash of itself, so it must hold nothing that
differs from one second to the next: no token, no running clock.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Optional

from flask import Response, current_app, flash, make_response, redirect, render_template, request
from markupsafe import Markup
from sqlalchemy.orm import Session

from webapp.console.nav import nav_of
from webapp.web.faces import current_face
from webapp.web.request_info import came_from


def is_partial() -> bool:
    """Whether htmx asks for a part of the page that is on the screen."""
    return request.headers.get("HX-Request") == "true" and request.headers.get("HX-Request-Type") == "partial"


def page(folder: str, session: Session, **values: Any) -> Response:
    """Answer with `folder/page.html`, or with its live region and the nav's badges, to refresh what is shown.

    The page carries the region's ETag, so that its first tick is a 304 already.
    """
    values["nav"] = nav_of(session)
    live = render_template(f"{folder}/_live.html", **values).strip()  # a space more is a text node more to morph
    badges = render_template("_oob.html", **values).strip()
    tag = hashlib.blake2b((live + badges).encode(), digest_size=12).hexdigest()
    if not is_partial():
        values.update(live=Markup(live), etag=f'W/"{tag}"')  # noqa: S704 -- a template's own output
        response = make_response(render_template(f"{folder}/page.html", **values))
    else:
        known = request.if_none_match.contains_weak(tag)
        response = Response("", 304) if known else make_response(live + badges)
        response.set_etag(tag, weak=True)  # the same region, however it is compressed
    response.vary.add("HX-Request-Type")
    return response


def fragment(template: str, **values: Any) -> Response:
    response = make_response(render_template(template, **values))
    response.vary.add("HX-Request-Type")
    return response


def done(
    message: str, *, back: str, level: str = "success", leave: bool = False, undo: Optional[int] = None
) -> Response:
    """A write has succeeded: say so, in a toast or on the page that the browser returns to.

    `back` is where a plain form goes that did not say where it came from. `leave`: what was on the page is gone, so
    go to `back` in any case. `undo`: the act that can be taken back.
    """
    if is_partial() and not leave:
        return toast(message, level, undo=undo)
    flash({"text": message, "undo": undo}, level)  # type: ignore[arg-type]  # the session keeps any JSON
    if not is_partial():
        return redirect(back if leave else came_from(back), 303)  # type: ignore[return-value]
    response = Response("")
    response.headers["HX-Redirect"] = back
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
    """An answer for htmx: a toast out of band, and for app.js the wish that the region be read again.

    The wish is not a `tick` itself: htmx fires it while the button still holds the region's queue, and drops the
    request that follows.
    """
    response = make_response(render_template("_toast.html", message=message, level=level, link=link, undo=undo), status)
    response.headers["HX-Trigger"] = json.dumps({"settled": {"refresh": refresh}})
    return response


def ask(**values: Any) -> Response:
    """Ask before doing: a dialog with htmx, a page of its own without."""
    if is_partial():
        response = make_response(render_template("_confirm.html", **values))
        response.headers["HX-Trigger"] = json.dumps({"ask": {}})
        return response
    values.setdefault("back", came_from("/"))
    return make_response(render_template("confirm.html", **values))


def refused(message: str) -> Response:
    """Somebody else was first: 409, and nothing was changed."""
    current_app.logger.debug("refused: %s", message)
    return current_face().explain(409, None, message, None)
