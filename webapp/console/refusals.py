"""What the console refuses to somebody who is signed in leaves a line in the audit trail."""

from __future__ import annotations

from contextlib import suppress

from flask import request
from sqlalchemy.exc import DBAPIError

from webapp.accounts import refusals
from webapp.console.sessions import Person, current_person
from webapp.core.locks import Busy


def note_refusal(person: Person, detail: dict[str, str]) -> None:
    refusals.note(person.actor, request.method.lower(), request.endpoint, detail)


def note_forgery(reason: str) -> None:
    """Somebody's browser sent what no page of this console has sent: refused, whoever holds the database meanwhile."""
    with suppress(Busy, DBAPIError, OSError):
        person = current_person()
        if person is not None:
            note_refusal(person, {"reason": reason})
