"""Users of the console, their passwords, and the one-time link that creates the first admin."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Optional

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from webapp.accounts import AccountError as AccountError
from webapp.accounts import LastAdmin, NameTaken, NoSuchUser, hash_secret, login_throttle, sessions
from webapp.db.engines import writing
from webapp.db.models import ROLES, SetupLink, User, UserSession
from webapp.jobs.lifecycle import record
from webapp.lib import clock

if TYPE_CHECKING:
    from argon2 import PasswordHasher

Change = Mapping[str, Any]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")
SETUP_LINK_LIFE = clock.seconds(3600)
SHORTEST, LONGEST = 10, 1000  # characters of a password
MIN_SCORE = 3  # of zxcvbn's 0 to 4: more than 10^8 guesses


NAME_RULE = "1 to 64 characters of A-Z a-z 0-9 . _ @ -, the first a letter or digit"


def problems(name: str, password: str, role: str = "admin") -> dict[str, str]:
    """Every field that `add` and `set_up` would refuse, with the reason; a name that is taken is not known here."""
    errors = (
        _error_of(_check_name, name),
        _error_of(_check_role, role),
        _error_of(_check_password, password, name),
    )
    return {error.field: str(error) for error in errors if error is not None}


def _error_of(check: Callable[..., None], *values: str) -> Optional[AccountError]:
    try:
        check(*values)
    except AccountError as error:
        return error
    return None


def add(name: str, password: str, role: str, actor: str) -> None:
    """Create a user. Raises AccountError."""
    _check(name, password, role)
    hashed = _hash(password)  # slow on purpose, so hash before taking the write lock
    with writing() as session:
        _add(session, name, hashed, role, actor)


def set_password(name: str, password: str, actor: str, *, spare: str = "") -> None:
    """Change a password and end the user's sessions, except the one with the id `spare`. Raises AccountError."""
    _check_password(password, name)
    hashed = _hash(password)
    with writing() as session:
        user = _get(session, name)
        user.password_hash = hashed
        sessions.end_some(session, user.id, spare=spare)
        login_throttle.clear(session, name)
        _record(session, "passwd", name, actor)


def set_role(name: str, role: str, actor: str) -> bool:
    """Change a role; a lower role ends the user's sessions. Returns False if unchanged. Raises AccountError."""
    _check_role(role)
    with writing() as session:
        user, had_admin = _lock(session, name)
        before, user.role = user.role, role
        if before == role:
            return False
        _keep_an_administrator(session, had_admin)
        if ROLES.index(role) < ROLES.index(before):
            sessions.end_some(session, user.id)
        change = {"before": {"role": before}, "after": {"role": role}}
        _record(session, "set_role", name, actor, change, {"role": role})
        return True


def set_disabled(name: str, disabled: bool, actor: str) -> bool:
    """Block sign-in and end the sessions, or allow it again. Returns False if unchanged. Raises AccountError."""
    with writing() as session:
        user, had_admin = _lock(session, name)
        if (user.disabled_at is not None) == disabled:
            return False
        user.disabled_at = clock.now() if disabled else None
        _keep_an_administrator(session, had_admin)
        sessions.end_some(session, user.id)
        change = {"before": {"disabled": not disabled}, "after": {"disabled": disabled}}
        _record(session, "disable_user" if disabled else "enable_user", name, actor, change)
        return True


def end_sessions(name: str, actor: str, *, handle: str = "", spare: str = "") -> int:
    """Sign a user out: everywhere, in one browser (`handle`), or everywhere but in one (`spare`, a session id).

    Returns the number of ended sessions. Raises AccountError.
    """
    with writing() as session:
        ended = sessions.end_some(session, _get(session, name).id, handle=handle, spare=spare)
        if ended:
            _record(session, "end_sessions", name, actor, {"before": {"sessions": ended}})
        return ended


def list_all(session: Session) -> list[User]:
    return list(session.scalars(select(User).order_by(User.name)))


def admins(session: Session, limit: int) -> list[str]:
    """Names of people who can change roles, the last signed in first."""
    last = select(func.max(UserSession.seen_at)).where(UserSession.user_id == User.id).scalar_subquery()
    active = User.role == "admin", User.disabled_at.is_(None)
    order = func.coalesce(last, 0).desc(), User.name
    return list(session.scalars(select(User.name).where(*active).order_by(*order).limit(limit)))


def find(session: Session, name: str) -> Optional[User]:
    return session.scalar(select(User).where(User.name == name))


def authenticate(session: Session, name: str, password: str) -> Optional[User]:
    """The user, if name and password are right. Takes the same time for unknown names."""
    from argon2.exceptions import Argon2Error, InvalidHashError

    dummy = _dummy_hash()  # for known names, too: the first call in a process is slower
    user = session.scalar(select(User).where(User.name == name, User.disabled_at.is_(None)))
    try:
        _hasher().verify(user.password_hash if user else dummy, password[:LONGEST])
    except (Argon2Error, InvalidHashError):
        return None
    return user


def needs_setup(session: Session) -> bool:
    """True until there is an active admin."""
    found = select(func.count()).select_from(User).where(User.role == "admin", User.disabled_at.is_(None))
    return not session.scalar(found)


def new_setup_link() -> Optional[str]:
    """Create a one-time token that replaces earlier ones; None if there is an admin already."""
    with writing() as session:
        if not needs_setup(session):
            return None
        token = secrets.token_urlsafe(32)
        session.execute(delete(SetupLink))
        session.add(SetupLink(token_hash=hash_secret(token), expires_at=clock.now() + SETUP_LINK_LIFE))
        return token


def setup_link_is_good(session: Session, token: str) -> bool:
    link = session.get(SetupLink, hash_secret(token))
    return link is not None and link.expires_at > clock.now() and needs_setup(session)


def set_up(token: str, name: str, password: str) -> bool:
    """Create the first admin and use up the link. Returns False if the link is not valid. Raises AccountError."""
    _check(name, password, "admin")
    hashed = _hash(password)
    with writing() as session:
        # Use the link up first: on PostgreSQL, a concurrent request waits here and then finds no row.
        used = delete(SetupLink).where(SetupLink.token_hash == hash_secret(token)).returning(SetupLink.token_hash)
        used = used.execution_options(synchronize_session=False)
        if not setup_link_is_good(session, token) or session.execute(used).first() is None:
            return False
        _add(session, name, hashed, "admin", f"person:{name}")
    return True


def _add(session: Session, name: str, hashed: str, role: str, actor: str) -> None:
    if session.scalar(select(User.id).where(func.lower(User.name) == name.lower())) is not None:
        raise NameTaken("name", f"{name!r} is already used. Choose another name.")
    session.add(User(name=name, role=role, password_hash=hashed, created_at=clock.now()))
    _record(session, "add_user", name, actor, {"after": {"role": role}}, {"role": role})


def _record(
    session: Session, verb: str, name: str, actor: str, change: Optional[Change] = None, detail: Optional[Change] = None
) -> None:
    record(session, verb, [("user:" + name, None)], actor, detail, changes=[change] if change else None)


def _get(session: Session, name: str) -> User:
    user = session.scalar(select(User).where(User.name == name).with_for_update())
    if user is None:
        raise NoSuchUser("name", f"no such user: {name!r}.")
    return user


def _lock(session: Session, name: str) -> tuple[User, bool]:
    """The user, and whether there is an admin.

    The lock on all admins matters on PostgreSQL: two transactions must not each remove one of the last two admins.
    """
    session.execute(select(User.id).where(User.role == "admin").order_by(User.id).with_for_update())
    return _get(session, name), not needs_setup(session)


def _keep_an_administrator(session: Session, had_admin: bool) -> None:
    """Raises AccountError if this transaction has removed the last admin."""
    session.flush()
    if had_admin and needs_setup(session):
        raise LastAdmin("role", "must stay admin: this is the last admin. Add another admin first.")


def _check(name: str, password: str, role: str) -> None:
    _check_name(name)
    _check_role(role)
    _check_password(password, name)


def _check_name(name: str) -> None:
    if not NAME.match(name):
        raise AccountError("name", f"{name!r} is not allowed; expected {NAME_RULE}.")


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise AccountError("role", f"{role!r} is not a role; expected one of {', '.join(ROLES)}.")


def _check_password(password: str, name: str) -> None:
    if not SHORTEST <= len(password) <= LONGEST:
        raise AccountError("password", f"has {len(password)} characters; expected {SHORTEST} to {LONGEST}.")
    from zxcvbn import zxcvbn

    # zxcvbn reads at most 72 characters.
    result = zxcvbn(password[:72], user_inputs=[name, "queuectl"])
    if result["score"] < MIN_SCORE:
        why = result["feedback"]["warning"].rstrip(".")
        raise AccountError(
            "password", f"is too easy to guess{f' ({why[0].lower()}{why[1:]})' if why else ''}; add a few words."
        )


def _hash(password: str) -> str:
    return _hasher().hash(password)


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()  # its defaults follow RFC 9106


@cache
def _dummy_hash() -> str:
    """The hash of no known password, so that an unknown name takes as much time as a known one."""
    return _hash(secrets.token_hex(32))
