"""Views: named searches of a user. Other users cannot see or change them."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import View
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock
from webapp.lib.text import has_controls

MAX_VIEWS = 50  # per user
MAX_NAME = 60  # characters
TAKEN = "You already have a view named '{}'. Choose another name, or delete that view."


class ViewError(ValueError):
    """The view cannot be saved under this name; the message says why."""


def save(user_id: int, name: str, query: str, actor: str) -> View:
    """Save a search, the query string of a list's URL, under a name. Raises ViewError."""
    name = _checked(name)
    with writing() as session:
        mine = of(session, user_id)
        _refuse_taken(mine, name)
        if len(mine) >= MAX_VIEWS:
            raise ViewError(f"You have {MAX_VIEWS} views, which is the maximum. Delete one first.")
        view = View(user_id=user_id, name=name, query=query, created_at=clock.now())
        session.add(view)
        _flush(session, name)
        audit.note(session, "save_view", [f"view:{name}"], actor, details=[{"after": {"search": query}}])
        return view


def rename(user_id: int, view_id: int, name: str, actor: str) -> None:
    """Rename a view of this user. Raises ViewError, NotFound."""
    name = _checked(name)
    with writing() as session:
        view = _mine(session, user_id, view_id)
        before = view.name
        if name == before:
            return
        _refuse_taken([one for one in of(session, user_id) if one.id != view_id], name)
        view.name = name
        _flush(session, name)
        change = {"before": {"name": before}, "after": {"name": name}}
        audit.note(session, "rename_view", [f"view:{name}"], actor, details=[change])


def remove(user_id: int, view_id: int, actor: str) -> View:
    """Delete a view of this user and return it. Raises NotFound."""
    with writing() as session:
        view = _mine(session, user_id, view_id)
        session.delete(view)
        audit.note(session, "remove_view", [f"view:{view.name}"], actor, details=[{"before": {"search": view.query}}])
        return view


def of(session: Session, user_id: int) -> list[View]:
    """The user's views, by name."""
    mine = session.scalars(select(View).where(View.user_id == user_id))
    return sorted(mine, key=lambda view: (view.name.casefold(), view.name))


def find(user_id: int, view_id: int) -> View:
    """Raises NotFound if this user has no such view."""
    with reading() as session:
        return _mine(session, user_id, view_id)


def _mine(session: Session, user_id: int, view_id: int) -> View:
    view = session.get(View, view_id)
    if view is None or view.user_id != user_id:
        raise NotFound("this view does not exist. It may have been deleted.")
    return view


def _checked(name: str) -> str:
    name = " ".join(name.split())
    if not name:
        raise ViewError("Enter a name, such as 'dead mails'.")
    if len(name) > MAX_NAME:
        raise ViewError(f"A name has at most {MAX_NAME} characters; this one has {len(name)}.")
    if has_controls(name):
        raise ViewError("The name contains a character that cannot be shown.")
    return name


def _refuse_taken(views: list[View], name: str) -> None:
    if any(view.name.casefold() == name.casefold() for view in views):
        raise ViewError(TAKEN.format(name))


def _flush(session: Session, name: str) -> None:
    try:
        session.flush()
    except IntegrityError:  # PostgreSQL only: another browser of this user was first
        raise ViewError(TAKEN.format(name)) from None
