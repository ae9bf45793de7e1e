"""Who may open the console: users, their passwords, and the one-time link that makes the first administrator."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING, Optional

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from webapp.accounts import login_throttle, sessions
from webapp.db.engines import writing
from webapp.db.models import ROLES, SetupLink, User
from webapp.jobs.lifecycle import record
from webapp.lib import clock

if TYPE_CHECKING:
    from argon2 import PasswordHasher

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
LINK_LIFE = clock.seconds(3600)
SHORTEST, LONGEST = 10, 1000  # characters of a password
LEAST_SCORE = 3  # of zxcvbn's 0 to 4: more than 10^8 guesses


class PersonError(ValueError):
    """A name or password that cannot be taken. `field` is 'name', 'role' or 'password'."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


def add(name: str, password: str, role: str, actor: str) -> None:
    """Make a user. Raises PersonError."""
    _check(name, password, role)
    hashed = _hash(password)  # slow on purpose: before the write lock is taken
    with writing() as session:
        _add(session, name, hashed, role, actor)


def set_password(name: str, password: str, actor: str, *, spare: str = "") -> None:
    """Change a password and end this person's sessions, but for the one with the id `spare`. Raises PersonError."""
    _check_password(password, name)
    hashed = _hash(password)
    with writing() as session:
        user = _named(session, name)
        user.password_hash = hashed
        sessions.end_some(session, user.id, spare=spare)
        login_throttle.clear(session, name)
        record(session, "passwd", [("user:" + name, None)], actor)


def set_role(name: str, role: str, actor: str) -> bool:
    """Change what somebody may do; a lesser role ends their sessions. False: it was this role. Raises PersonError."""
    _check_role(role)
    with writing() as session:
        _lock_administrators(session)
        user, led = _named(session, name), not needs_setup(session)
        before, user.role = user.role, role
        if before == role:
            return False
        _keep_an_administrator(session, led)
        if ROLES.index(role) < ROLES.index(before):
            sessions.end_some(session, user.id)
        change = {"before": {"role": before}, "after": {"role": role}}
        record(session, "set_role", [("user:" + name, None)], actor, {"role": role}, changes=[change])
        return True


def set_disabled(name: str, disabled: bool, actor: str) -> bool:
    """Let somebody in no more, and end their sessions; or let them in again. False: it was so. Raises PersonError."""
    with writing() as session:
        _lock_administrators(session)
        user, led = _named(session, name), not needs_setup(session)
        if (user.disabled_at is not None) == disabled:
            return False
        user.disabled_at = clock.now() if disabled else None
        _keep_an_administrator(session, led)
        sessions.end_some(session, user.id)
        change = {"before": {"disabled": not disabled}, "after": {"disabled": disabled}}
        verb = "disable_user" if disabled else "enable_user"
        record(session, verb, [("user:" + name, None)], actor, changes=[change])
        return True


def end_sessions(name: str, actor: str, *, handle: str = "", spare: str = "") -> int:
    """Sign somebody out: everywhere, in one browser (`handle`), or everywhere else (`spare`, an id).

    Returns how many sessions have ended. Raises PersonError.
    """
    with writing() as session:
        ended = sessions.end_some(session, _named(session, name).id, handle=handle, spare=spare)
        if ended:
            record(session, "end_sessions", [("user:" + name, None)], actor, changes=[{"before": {"sessions": ended}}])
        return ended


def everyone(session: Session) -> list[User]:
    return list(session.scalars(select(User).order_by(User.name)))


def named(session: Session, name: str) -> Optional[User]:
    return session.scalar(select(User).where(User.name == name))


def authenticate(session: Session, name: str, password: str) -> Optional[User]:
    """The user, if name and password fit. Takes the same time for names that do not exist."""
    from argon2.exceptions import Argon2Error, InvalidHashError

    stranger = _stranger()  # whoever is asked for: the first look of a process makes it, and takes twice as long
    user = session.scalar(select(User).where(User.name == name, User.disabled_at.is_(None)))
    try:
        _hasher().verify(user.password_hash if user else stranger, password[:LONGEST])
    except (Argon2Error, InvalidHashError):
        return None
    return user


def needs_setup(session: Session) -> bool:
    """True until there is an administrator."""
    found = select(func.count()).select_from(User).where(User.role == "admin", User.disabled_at.is_(None))
    return not session.scalar(found)


def new_setup_link() -> Optional[str]:
    """Make a fresh one-time token, or None where there is an administrator already. Earlier links end."""
    with writing() as session:
        if not needs_setup(session):
            return None
        token = secrets.token_urlsafe(32)
        session.execute(delete(SetupLink))
        session.add(SetupLink(token_hash=_digest(token), expires_at=clock.now() + LINK_LIFE))
        return token


def setup_link_is_good(session: Session, token: str) -> bool:
    link = session.get(SetupLink, _digest(token))
    return link is not None and link.expires_at > clock.now() and needs_setup(session)


def set_up(token: str, name: str, password: str) -> bool:
    """Make the first administrator and consume the link. False: the link is not good. Raises PersonError."""
    _check(name, password, "admin")
    hashed = _hash(password)
    with writing() as session:
        # Used up first: of two who come at once, PostgreSQL lets the second wait here and then find no row.
        if not setup_link_is_good(session, token) or not _use_up(session, token):
            return False
        _add(session, name, hashed, "admin", f"person:{name}")
    return True


def _use_up(session: Session, token: str) -> bool:
    used = delete(SetupLink).where(SetupLink.token_hash == _digest(token)).returning(SetupLink.token_hash)
    return session.execute(used.execution_options(synchronize_session=False)).first() is not None


def _add(session: Session, name: str, hashed: str, role: str, actor: str) -> None:
    if session.scalar(select(User.id).where(func.lower(User.name) == name.lower())) is not None:
        raise PersonError("name", f"{name!r} is already used. Choose another name.")
    session.add(User(name=name, role=role, password_hash=hashed, created_at=clock.now()))
    record(session, "add_user", [("user:" + name, None)], actor, {"role": role}, changes=[{"after": {"role": role}}])


def _named(session: Session, name: str) -> User:
    user = session.scalar(select(User).where(User.name == name).with_for_update())
    if user is None:
        raise PersonError("name", f"no such user: {name!r}.")
    return user


def _lock_administrators(session: Session) -> None:
    """PostgreSQL: of two who would each leave the other as the last administrator, the second waits here."""
    session.execute(select(User.id).where(User.role == "admin").order_by(User.id).with_for_update())


def _keep_an_administrator(session: Session, led: bool) -> None:
    """Raises PersonError where there was an administrator (`led`) and is none any more."""
    session.flush()
    if led and needs_setup(session):
        raise PersonError("role", "must stay admin: this is the last admin. Add another admin first.")


def _check(name: str, password: str, role: str) -> None:
    if not NAME.match(name):
        rule = "1 to 64 characters of A-Z a-z 0-9 . _ @ -, the first a letter or digit"
        raise PersonError("name", f"{name!r} is not allowed; expected {rule}.")
    _check_role(role)
    _check_password(password, name)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise PersonError("role", f"{role!r} is not a role; expected one of {', '.join(ROLES)}.")


def _check_password(password: str, name: str) -> None:
    if not SHORTEST <= len(password) <= LONGEST:
        raise PersonError("password", f"has {len(password)} characters; expected {SHORTEST} to {LONGEST}.")
    from zxcvbn import zxcvbn

    # It knows the common ones, names and patterns; and 72 characters at the most, of which it takes no more.
    judged = zxcvbn(password[:72], user_inputs=[name, "queuectl"])
    if judged["score"] < LEAST_SCORE:
        why = judged["feedback"]["warning"].rstrip(".")
        raise PersonError(
            "password", f"is too easy to guess{f' ({why[0].lower()}{why[1:]})' if why else ''}; add a few words."
        )


def _hash(password: str) -> str:
    return _hasher().hash(password)


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()  # its defaults follow RFC 9106


def _stranger() -> str:
    """A hash that no password fits, made once, so that an unknown name costs as much as a known one."""
    global _stranger_hash
    if _stranger_hash is None:
        _stranger_hash = _hash(secrets.token_hex(32))
    return _stranger_hash


_stranger_hash: Optional[str] = None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
