"""Who is signed in: a row for each browser. The cookie holds a random id, the row its hash; no row, no session.

A session ends IDLE after the last page or act (a poll is neither) and LIFE after the log-in at the latest; at log-out;
and all of a person's at a new password, at a lesser role, and when that person is disabled.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from webapp.db import audit
from webapp.db.engines import writing
from webapp.db.models import User, UserSession
from webapp.lib import clock

LIFE = 14 * clock.DAY
IDLE = clock.DAY
RENEW = clock.seconds(60)  # how old `seen_at` may grow before a page writes it anew
FRESH = clock.seconds(15 * 60)  # how long a typed password answers for sensitive acts
_BROWSER_LENGTH = 200


@dataclass(frozen=True)
class Found:
    """A live session and whose it is."""

    user: User
    row: UserSession

    @property
    def fresh(self) -> bool:
        """Whether the password was typed a short while ago."""
        return self.row.confirmed_at > clock.now() - FRESH


def begin(user: User, address: Optional[str], browser: str) -> str:
    """Start a session for somebody whose password was right; returns its id, for the cookie."""
    session_id, now = secrets.token_urlsafe(32), clock.now()
    with writing() as session:
        session.add(
            UserSession(
                id_hash=_hash(session_id),
                user_id=user.id,
                created_at=now,
                seen_at=now,
                confirmed_at=now,
                address=address,
                browser=browser[:_BROWSER_LENGTH],
            )
        )
        audit.note(session, "sign_in", [f"user:{user.name}"], f"person:{user.name}")
    return session_id


def find(session: Session, session_id: str) -> Optional[Found]:
    """The session behind a cookie, unless it has ended or its person is disabled."""
    row = session.execute(
        select(UserSession, User)
        .join(User, User.id == UserSession.user_id)
        .where(
            _is(session_id),
            *_live(),
            User.disabled_at.is_(None),
        )
    ).first()
    return Found(row[1], row[0]) if row is not None else None


def renew(session_id: str, patience: float) -> None:
    """It was used. Raises Busy."""
    with writing(patience) as session:
        session.execute(update(UserSession).where(_is(session_id)).values(seen_at=clock.now()))


def confirm(session_id: str) -> str:
    """The password was typed again: the session goes on under another id, which is returned."""
    fresh_id, now = secrets.token_urlsafe(32), clock.now()
    with writing() as session:
        session.execute(
            update(UserSession).where(_is(session_id)).values(id_hash=_hash(fresh_id), seen_at=now, confirmed_at=now)
        )
    return fresh_id


def end(session_id: str, name: str) -> None:
    """Somebody signs out."""
    with writing() as session:
        session.execute(delete(UserSession).where(_is(session_id)))
        audit.note(session, "sign_out", [f"user:{name}"], f"person:{name}")


def of_user(session: Session, user_id: int) -> list[UserSession]:
    """A person's live sessions, the last used first."""
    return list(
        session.scalars(
            select(UserSession).where(UserSession.user_id == user_id, *_live()).order_by(UserSession.seen_at.desc())
        )
    )


def of_everyone(session: Session) -> dict[int, tuple[int, int]]:
    """For each person who is signed in, by id: how many live sessions, and when the last of them was used."""
    counted = select(UserSession.user_id, func.count(), func.max(UserSession.seen_at)).where(*_live())
    return {user_id: (number, seen) for user_id, number, seen in session.execute(counted.group_by(UserSession.user_id))}


def end_some(session: Session, user_id: int, *, handle: str = "", spare: str = "") -> int:
    """End a person's sessions, in the caller's transaction: the one with this handle, or all but the one with the id
    `spare`. Returns how many."""
    which = [UserSession.user_id == user_id]
    if handle:
        which.append(UserSession.id_hash.startswith(handle, autoescape=True))
    if spare:
        which.append(UserSession.id_hash != _hash(spare))
    return len(session.scalars(delete(UserSession).where(*which).returning(UserSession.id_hash)).all())


def handle_of(row: UserSession) -> str:
    """What names a session on a page and in the trail: a part of its hash, worth nothing to whoever reads it."""
    return row.id_hash[:16]


def is_this(row: UserSession, session_id: str) -> bool:
    return row.id_hash == _hash(session_id)


def prune(session: Session) -> None:
    """Delete those that have ended by themselves."""
    now = clock.now()
    session.execute(
        delete(UserSession).where(or_(UserSession.created_at <= now - LIFE, UserSession.seen_at <= now - IDLE))
    )


def _live() -> tuple[ColumnElement[bool], ...]:
    now = clock.now()
    return UserSession.created_at > now - LIFE, UserSession.seen_at > now - IDLE


def _is(session_id: str) -> ColumnElement[bool]:
    return UserSession.id_hash == _hash(session_id)


def _hash(session_id: str) -> str:
    return hashlib.sha256(session_id.encode(errors="replace")).hexdigest()
