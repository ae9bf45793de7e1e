"""What went wrong, on a page, in a toast or, for programs, as `api/problems.py` has it: one handler for every error."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flask import Response, make_response, render_template, request, url_for
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import DataError, DBAPIError
from werkzeug.exceptions import HTTPException

from webapp.api import problems
from webapp.console.htmx import is_partial, toast
from webapp.console.refusals import note_forgery
from webapp.core.locks import Busy, Gone
from webapp.core.relocated import Relocated
from webapp.db import db_errors
from webapp.jobs.operations import NotFound
from webapp.web.schema_guard import Outdated

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger(__name__)

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
NOT_KNOWN = "Whether this was done is not known: look before you do it again."


def init_app(app: Flask) -> None:
    app.register_error_handler(Exception, answer)


def answer(error: Exception) -> Response:
    """Turn any exception into a page, a toast, a problem, or for redirects into what it says."""
    refused = problems.known(error) if problems.asked() else None
    if refused is not None:
        return problems.answer(refused)
    if isinstance(error, CSRFError):
        note_forgery("no token of this session")
        return explain(400, "This form is too old", "You have logged in or out since it was made. Load the page again.")
    if isinstance(error, Busy):
        return explain(503, TITLES[503])
    if isinstance(error, DataError):  # a NUL in an address or a field, which SQLite takes and PostgreSQL does not
        return explain(400, TITLES[400])
    sentence = db_errors.explain(error) if isinstance(error, (DBAPIError, OSError)) else None
    if isinstance(error, (Gone, Outdated, Relocated)):
        sentence = str(error)
    if sentence is None and db_errors.is_out_of_reach(error):
        sentence = db_errors.OUT_OF_REACH
        log.error("%s %s: %s", request.method, request.path, str(getattr(error, "orig", error)).strip())
    elif sentence is not None:
        log.error("%s %s: %s", request.method, request.path, sentence)
    if sentence is not None:
        title = "The queue is elsewhere" if isinstance(error, Relocated) else "The database cannot be used"
        done = NOT_KNOWN if db_errors.may_have_been_done(error) else "Nothing was changed."
        return explain(503, title, f"{_sentence(sentence)}. {done}")
    if isinstance(error, NotFound):
        return explain(404, TITLES[404], _sentence(str(error)))
    if isinstance(error, HTTPException):
        if error.code is None or error.code < 400:
            return error.get_response()  # type: ignore[return-value]
        ours = error.description if error.description != type(error).description else None
        text = _sentence(ours) if ours else None
        return explain(error.code, TITLES.get(error.code, error.name), text, error)
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return explain(500, "Something broke")


def _sentence(message: str) -> str:
    """A message that the command line shows behind 'Error:', as a sentence of its own."""
    return message[:1].upper() + message[1:]


def explain(status: int, title: str, text: str | None = None, error: HTTPException | None = None) -> Response:
    """Answer with an error, in the shape that was asked for; without a text, with what each face says to it."""
    if problems.asked():
        return problems.of_status(status, text, error)
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
