"""Records refused requests of signed-in users in the audit trail."""

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
    """Record a forged request. It is refused even if the record cannot be written."""
    with suppress(Busy, DBAPIError, OSError):
        person = current_person()
        if person is not None:
            note_refusal(person, {"reason": reason})
