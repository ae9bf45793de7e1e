"""Sessions: one row for each signed-in browser. The cookie has a random id, the row its hash.

A session ends IDLE after the last page or action (polls do not count), LIFE after the sign-in at the latest, and at
sign-out. A new password, a lower role and disabling the user end all sessions of the user.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from webapp.accounts import hash_secret
from webapp.db import audit
from webapp.db.engines import writing
from webapp.db.models import User, UserSession
from webapp.lib import clock

LIFE = 14 * clock.DAY
IDLE = clock.DAY
RENEW = clock.seconds(60)  # accuracy of `seen_at`
FRESH = clock.seconds(15 * 60)  # sensitive actions need a password typed within this time
_BROWSER_LENGTH = 200


@dataclass(frozen=True)
class Found:
    """A live session and its user."""

    user: User
    row: UserSession

    @property
    def fresh(self) -> bool:
        """Whether the password was typed recently."""
        return self.row.confirmed_at > clock.now() - FRESH


def begin(user: User, address: Optional[str], browser: str) -> str:
    """Start a session after the password was checked; return its id, for the cookie."""
    session_id, now = secrets.token_urlsafe(32), clock.now()
    with writing() as session:
        session.add(
            UserSession(
                id_hash=hash_secret(session_id),
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
    """The session of a cookie, unless it has ended or its user is disabled."""
    joined = select(UserSession, User).join(User, User.id == UserSession.user_id)
    row = session.execute(joined.where(_is(session_id), *_live(), User.disabled_at.is_(None))).first()
    return Found(row[1], row[0]) if row is not None else None


def renew(session_id: str, patience: float) -> None:
    """Record that the session was used. Raises Busy after `patience` seconds."""
    with writing(patience) as session:
        session.execute(update(UserSession).where(_is(session_id)).values(seen_at=clock.now()))


def confirm(session_id: str) -> str:
    """Record that the password was typed again. The session gets a new id, which is returned."""
    fresh_id, now = secrets.token_urlsafe(32), clock.now()
    with writing() as session:
        session.execute(
            update(UserSession)
            .where(_is(session_id))
            .values(id_hash=hash_secret(fresh_id), seen_at=now, confirmed_at=now)
        )
    return fresh_id


def end(session_id: str, name: str) -> None:
    """Sign out."""
    with writing() as session:
        session.execute(delete(UserSession).where(_is(session_id)))
        audit.note(session, "sign_out", [f"user:{name}"], f"person:{name}")


def of_user(session: Session, user_id: int) -> list[UserSession]:
    """The user's live sessions, the last used first."""
    mine = select(UserSession).where(UserSession.user_id == user_id, *_live())
    return list(session.scalars(mine.order_by(UserSession.seen_at.desc())))


def of_everyone(session: Session) -> dict[int, tuple[int, int]]:
    """For each signed-in user, by id: the number of live sessions, and when the last of them was used."""
    counted = select(UserSession.user_id, func.count(), func.max(UserSession.seen_at)).where(*_live())
    return {user_id: (number, seen) for user_id, number, seen in session.execute(counted.group_by(UserSession.user_id))}


def end_some(session: Session, user_id: int, *, handle: str = "", spare: str = "") -> int:
    """End sessions of a user in the caller's transaction: the one with this handle, or all but the one with the id
    `spare`. Returns the number of ended sessions."""
    which = [UserSession.user_id == user_id]
    if handle:
        which.append(UserSession.id_hash.startswith(handle, autoescape=True))
    if spare:
        which.append(UserSession.id_hash != hash_secret(spare))
    return len(session.scalars(delete(UserSession).where(*which).returning(UserSession.id_hash)).all())


def handle_of(row: UserSession) -> str:
    """Identifies a session on pages and in the audit trail: a part of its hash, which does not help an attacker."""
    return row.id_hash[:16]


def is_this(row: UserSession, session_id: str) -> bool:
    return row.id_hash == hash_secret(session_id)


def prune(session: Session) -> None:
    """Delete expired sessions."""
    now = clock.now()
    session.execute(
        delete(UserSession).where(or_(UserSession.created_at <= now - LIFE, UserSession.seen_at <= now - IDLE))
    )


def _live() -> tuple[ColumnElement[bool], ...]:
    now = clock.now()
    return UserSession.created_at > now - LIFE, UserSession.seen_at > now - IDLE


def _is(session_id: str) -> ColumnElement[bool]:
    return UserSession.id_hash == hash_secret(session_id)
