"""The signed-in user, and the role that a view needs. `frame/face.py` compares the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Optional, TypeVar

from flask import Flask, g, session

from webapp.accounts import sessions
from webapp.db.engines import reading
from webapp.db.models import ROLES, User

SESSION_ID = "_user_id"  # its name in the cookie; only browsers of signed-in users have it

View = TypeVar("View", bound=Callable[..., Any])


class Person:
    """The signed-in user."""

    def __init__(self, user: User, session_id: str, *, fresh: bool = True, seen_at: int = 0) -> None:
        self.user_id = user.id
        self.name = user.name
        self.role = user.role
        self.session_id = session_id
        self.fresh = fresh  # the password was confirmed recently
        self.seen_at = seen_at

    @property
    def actor(self) -> str:
        return f"person:{self.name}"

    def may(self, role: str) -> bool:
        """Whether the user has this role or a higher one."""
        return ROLES.index(self.role) >= ROLES.index(role)


def current_person() -> Optional[Person]:
    """The signed-in user, or None; looked up once for each request."""
    if "person" not in g:
        g.person = None
        session_id = session.get(SESSION_ID)
        if session_id is not None:
            with reading() as database:
                found = sessions.find(database, session_id)
            if found is not None:
                g.person = Person(found.user, session_id, fresh=found.fresh, seen_at=found.row.seen_at)
    person: Optional[Person] = g.person
    return person


def this_person() -> Person:
    """The signed-in user, in views behind the gate."""
    person = current_person()
    if person is None:
        raise RuntimeError("a view behind the gate was reached without a user")
    return person


def actor() -> str:
    return this_person().actor


class Need(NamedTuple):
    """The lowest role for a view. `fresh`: the password must have been confirmed recently, see `sessions.FRESH`."""

    role: str
    fresh: bool = False


def needs(role: str, *, fresh: bool = False) -> Callable[[View], View]:
    """Set what a view needs. Read-only views need not say it: they are for viewers."""

    def mark(view: View) -> View:
        view.need = Need(role, fresh)  # type: ignore[attr-defined]
        return view

    return mark


def need_of(app: Flask, endpoint: Optional[str]) -> Optional[Need]:
    """What a view says that it needs, or None."""
    need: Optional[Need] = getattr(app.view_functions.get(endpoint or ""), "need", None)
    return need
