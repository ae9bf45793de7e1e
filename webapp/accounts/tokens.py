"""API tokens: shown once, stored as a hash, with a scope and an optional expiry; an admin can revoke them."""

from __future__ import annotations

import re
import secrets
from typing import Optional

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session

from webapp.accounts import AccountError as AccountError
from webapp.accounts import NameTaken, hash_secret
from webapp.db import audit
from webapp.db.engines import writing
from webapp.db.models import SCOPES, Token
from webapp.lib import clock

PREFIX = "qctl_"  # lets secret scanners find tokens
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
MAX_DAYS = 3650
USE_INTERVAL = clock.seconds(60)  # accuracy of `used_at`

MEANINGS = {
    "read": "reads jobs, output, workers and settings",
    "submit": "also submits jobs; can run any command",
    "operate": "also cancels, requeues and discards jobs, and pauses and removes queues",
    "admin": "also changes settings and controls workers",
}


def make(name: str, scope: str, days: Optional[int], actor: str) -> tuple[str, Token]:
    """Create a token that expires after `days`, or never. Returns the secret, which is not stored, and the token.

    Raises AccountError.
    """
    _check(name, scope, days)
    secret, now = PREFIX + secrets.token_urlsafe(32), clock.now()
    with writing() as session:
        if session.scalar(select(Token.id).where(Token.name == name)) is not None:
            raise NameTaken("name", f"{name!r} is already used, possibly by a revoked token. Choose another name.")
        token = Token(
            name=name,
            token_hash=hash_secret(secret),
            scope=scope,
            created_at=now,
            created_by=actor,
            expires_at=now + days * clock.DAY if days is not None else None,
        )
        session.add(token)
        after = {"scope": scope, "expires_at": clock.to_iso(token.expires_at)}
        audit.note(session, "make_token", [f"token:{name}"], actor, details=[{"after": after}])
    return secret, token


def revoke(name: str, actor: str) -> bool:
    """Revoke a token. Returns False if no active token has this name."""
    with writing() as session:
        revoked = session.scalar(
            update(Token)
            .where(Token.name == name, Token.revoked_at.is_(None))
            .values(revoked_at=clock.now(), revoked_by=actor)
            .returning(Token.scope)
        )
        if revoked is not None:
            audit.note(session, "revoke_token", [f"token:{name}"], actor, details=[{"before": {"scope": revoked}}])
    return revoked is not None


def find(session: Session, secret: str) -> Optional[Token]:
    """The token of this secret, unless it was revoked or has expired."""
    return session.scalar(select(Token).where(Token.token_hash == hash_secret(secret), *_active()))


def note_use(token: Token, address: Optional[str], patience: float) -> None:
    """Record time and address of the use, about once a minute. Raises Busy after `patience` seconds."""
    now = clock.now()
    if token.used_at is not None and token.used_at > now - USE_INTERVAL:
        return
    with writing(patience) as session:
        session.execute(update(Token).where(Token.id == token.id).values(used_at=now, used_from=address))


def list_all(session: Session, *, ended: bool = False) -> list[Token]:
    """The active tokens, newest first; with `ended`, also the revoked and expired ones."""
    statement = select(Token).order_by(Token.id.desc())
    return list(session.scalars(statement if ended else statement.where(*_active())))


def state(token: Token) -> str:
    """works, over (expired) or revoked."""
    if token.revoked_at is not None:
        return "revoked"
    return "over" if token.expires_at is not None and token.expires_at <= clock.now() else "works"


def may(scope: str, needed: str) -> bool:
    return SCOPES.index(scope) >= SCOPES.index(needed)


def _active() -> tuple[ColumnElement[bool], ...]:
    """Neither revoked nor expired."""
    return Token.revoked_at.is_(None), or_(Token.expires_at.is_(None), Token.expires_at > clock.now())


def _check(name: str, scope: str, days: Optional[int]) -> None:
    if not NAME.match(name):
        raise AccountError(
            "name", f"{name!r} is not allowed; expected 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit."
        )
    if scope not in SCOPES:
        raise AccountError("scope", f"{scope!r} is not a scope; expected one of {', '.join(SCOPES)}.")
    if days is not None and not 1 <= days <= MAX_DAYS:
        raise AccountError(
            "days", f"{days} is not allowed; expected 1 to {MAX_DAYS}, or no value for a token that never expires."
        )
