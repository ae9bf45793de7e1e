"""How the console shows an error: a page, or a toast for htmx."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from flask import Response, make_response, render_template, url_for
from flask_wtf.csrf import CSRFError

from webapp.console.htmx import is_partial, toast
from webapp.console.refusals import note_forgery

if TYPE_CHECKING:
    from werkzeug.exceptions import HTTPException

TITLES = {
    400: "This request makes no sense here",
    401: "You are signed out",
    403: "This is not for you",
    404: "There is nothing here",
    405: "That cannot be done this way",
    409: "Somebody was first",
    413: "That is too much at once",
    503: "The database is busy",
}
HELP = {
    400: "Something in it is not as the console sends it. Go back and try again.",
    401: "Log in, then try again.",
    404: "The address may be mistyped, or what was here has been discarded. Jobs and their output are also deleted "
    "after some time, as Config says.",
    405: "This address takes no such request. Go back and use the button on the page.",
    413: "A form may carry 1 MiB. Put long scripts and data into a file and let the job read it.",
    500: "The fault is ours. The log of the console has the details; nothing that you sent was half done.",
    503: "Another process has held its write lock for too long. Nothing was changed; try again in a moment.",
}


def refuse(error: Exception) -> Optional[Response]:
    """Answer an exception that only the console knows."""
    if not isinstance(error, CSRFError):
        return None
    note_forgery("no token of this session")
    return explain(400, "This form is too old", "You have logged in or out since it was made. Load the page again.")


def explain(
    status: int, title: Optional[str] = None, text: Optional[str] = None, error: Optional[HTTPException] = None
) -> Response:
    """Answer with an error. Without title or text, use the console's words for the status."""
    title = title or TITLES.get(status) or (error.name if error is not None else "Error")
    text = text or HELP.get(status, title)
    if is_partial():
        link = (url_for("sessions.log_in", next=None), "Log in") if status == 401 else None
        response = toast(text, "error", status, refresh=status == 409, link=link)
    else:
        response = make_response(render_template("error.html", status=status, title=title, text=text), status)
    if error is not None and error.get_headers():
        response.headers.extend({k: v for k, v in error.get_headers() if k in {"Allow", "Retry-After"}})
    if status == 503:
        response.headers["Retry-After"] = "5"
    return response
