"""How the console shows an error (a page, or a toast for htmx), and records refused requests in the audit trail."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Optional

from flask import Response, make_response, render_template, request, url_for
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import DBAPIError

from webapp.accounts import refusals
from webapp.console.frame.htmx import is_partial, toast
from webapp.console.sessions import Person, current_person
from webapp.core.locks import Busy

if TYPE_CHECKING:
    from werkzeug.exceptions import HTTPException

TITLES = {
    400: "Bad request",
    401: "Signed out",
    403: "No permission",
    404: "Not found",
    405: "Method not allowed",
    409: "Already changed",
    413: "Request too large",
    503: "The database is busy",
}
HELP = {
    400: "The console does not send requests like this. Go back and try again.",
    401: "Sign in, then try again.",
    404: "The address may be wrong, or the job was discarded. Jobs are also deleted after some time (see Settings).",
    405: "Go back and use the button on the page.",
    413: "The limit is 1 MiB. Put long scripts and data into a file that the job reads.",
    500: "Internal error. The console log has the details. Your request was not done partially.",
    503: "Another process holds the write lock. Nothing changed. Try again in a moment.",
}


def refuse(error: Exception) -> Optional[Response]:
    """Answer an exception that only the console knows."""
    if not isinstance(error, CSRFError):
        return None
    note_forgery("no token of this session")
    return explain(400, "This form has expired", "You signed in or out since the page was loaded. Reload the page.")


def explain(
    status: int, title: Optional[str] = None, text: Optional[str] = None, error: Optional[HTTPException] = None
) -> Response:
    """Answer with an error. Without title or text, use the console's words for the status."""
    title = title or TITLES.get(status) or (error.name if error is not None else "Error")
    text = text or HELP.get(status, title)
    if is_partial():
        link = (url_for("sessions.log_in", next=None), "Sign in") if status == 401 else None
        response = toast(text, "error", status, refresh=status == 409, link=link)
    else:
        response = make_response(render_template("error.html", status=status, title=title, text=text), status)
    if error is not None and error.get_headers():
        response.headers.extend({k: v for k, v in error.get_headers() if k in {"Allow", "Retry-After"}})
    if status == 503:
        response.headers["Retry-After"] = "5"
    return response


def note_refusal(person: Person, detail: dict[str, str]) -> None:
    refusals.note(person.actor, request.method.lower(), request.endpoint, detail)


def note_forgery(reason: str) -> None:
    """Record a forged request. It is refused even if the record cannot be written."""
    with suppress(Busy, DBAPIError, OSError):
        person = current_person()
        if person is not None:
            note_refusal(person, {"reason": reason})
