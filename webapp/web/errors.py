"""One handler for every error of both faces. The face of the request formats the response: a page or JSON."""

from __future__ import annotations

import logging
from typing import Optional

from flask import Flask, Response, request
from sqlalchemy.exc import DataError, DBAPIError
from werkzeug.exceptions import HTTPException

from webapp.core.storage import db_errors
from webapp.core.storage.locks import Busy, Gone
from webapp.core.storage.relocated import Relocated
from webapp.db import out_of_reach
from webapp.jobs.lifecycle import Conflict, KeyHeld, NotFound
from webapp.lib.text import capitalize
from webapp.web.faces import current_face
from webapp.web.gate import Outdated

log = logging.getLogger(__name__)

NOT_KNOWN = "It is unknown whether the change was saved. Check before you try again."


def init_app(app: Flask) -> None:
    app.register_error_handler(Exception, answer)


def answer(error: Exception) -> Response:
    """Turn any exception into a response of the face that was asked."""
    face = current_face()
    refusal = face.refuse(error)
    if refusal is not None:
        return refusal
    if isinstance(error, Busy):
        return face.explain(503)
    if isinstance(error, DataError):  # a NUL in a URL or a field: SQLite accepts it, PostgreSQL does not
        return face.explain(400)
    sentence = _explain_database_error(error)
    if sentence is not None:
        title = "The queue has moved" if isinstance(error, Relocated) else "Database unavailable"
        done = NOT_KNOWN if out_of_reach.may_have_been_done(error) else "Nothing changed."
        return face.explain(503, title, f"{capitalize(sentence)}. {done}")
    if isinstance(error, NotFound):
        return face.explain(404, None, capitalize(str(error)))
    if isinstance(error, Conflict):
        return face.explain(409, None, capitalize(str(error)))
    if isinstance(error, KeyHeld):
        return face.explain(409, None, f"{error} Nothing changed.")
    if isinstance(error, HTTPException):
        if error.code is None or error.code < 400:
            return error.get_response()  # type: ignore[return-value]
        ours = error.description if error.description != type(error).description else None
        return face.explain(error.code, None, capitalize(ours) if ours else None, error)
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return face.explain(500, "Internal error")


def _explain_database_error(error: Exception) -> Optional[str]:
    """Return and log a sentence if the machine or a move of the queue caused this database error."""
    sentence = db_errors.explain(error) if isinstance(error, (DBAPIError, OSError)) else None
    if isinstance(error, (Gone, Outdated, Relocated)):
        sentence = str(error)
    if sentence is not None:
        log.error("%s %s: %s", request.method, request.path, sentence)
    elif out_of_reach.is_out_of_reach(error):
        sentence = out_of_reach.OUT_OF_REACH
        log.error("%s %s: %s", request.method, request.path, str(getattr(error, "orig", error)).strip())
    return sentence
