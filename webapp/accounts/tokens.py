"""What programs show to the API: made and shown once, kept as a hash, with a scope, an end, and a way to end it."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Optional

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from webapp.db import audit
from webapp.db.engines import writing
from webapp.db.models import SCOPES, Token
from webapp.lib import clock

PREFIX = "qctl_"  # by which a secret scanner knows one
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
LONGEST_DAYS = 3650
USED_EVERY = clock.seconds(60)  # how exact `used_at` is

MEANINGS = {
    "read": "sees jobs, output, workers and settings",
    "submit": "also submits jobs; can run any command",
    "operate": "also cancels, requeues and discards jobs, and pauses queues",
    "admin": "also changes settings and controls workers",
}


class TokenError(ValueError):
    """A name, scope or life that cannot be taken. `field` is 'name', 'scope' or 'days'."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


def make(name: str, scope: str, days: Optional[int], actor: str) -> tuple[str, Token]:
    """Make a token that ends after so many days, or never. Returns what the program shows, which nobody sees again.

    Raises TokenError.
    """
    _check(name, scope, days)
    secret, now = PREFIX + secrets.token_urlsafe(32), clock.now()
    with writing() as session:
        if session.scalar(select(Token.id).where(Token.name == name)) is not None:
            raise TokenError("name", f"{name!r} is already used, possibly by a revoked token. Choose another name.")
        token = Token(
            name=name,
            token_hash=_hash(secret),
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
    """End a token at once. False: there is none of this name that still works."""
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
    """The token that a program shows, unless it has ended."""
    token = session.scalar(select(Token).where(Token.token_hash == _hash(secret), Token.revoked_at.is_(None)))
    return token if token is not None and (token.expires_at is None or token.expires_at > clock.now()) else None


def used(token: Token, address: Optional[str], patience: float) -> None:
    """Note the use, about once a minute: of several addresses that use it, one. Raises Busy."""
    now = clock.now()
    if token.used_at is not None and token.used_at > now - USED_EVERY:
        return
    with writing(patience) as session:
        session.execute(update(Token).where(Token.id == token.id).values(used_at=now, used_from=address))


def every(session: Session, *, ended: bool = False) -> list[Token]:
    """All that work; with `ended` also those that were revoked or are over. The newest first."""
    statement = select(Token).order_by(Token.id.desc())
    if not ended:
        lives = or_(Token.expires_at.is_(None), Token.expires_at > clock.now())
        statement = statement.where(Token.revoked_at.is_(None), lives)
    return list(session.scalars(statement))


def state(token: Token) -> str:
    """works, over (its days have passed) or revoked."""
    if token.revoked_at is not None:
        return "revoked"
    return "over" if token.expires_at is not None and token.expires_at <= clock.now() else "works"


def may(scope: str, needed: str) -> bool:
    return SCOPES.index(scope) >= SCOPES.index(needed)


def _check(name: str, scope: str, days: Optional[int]) -> None:
    if not NAME.match(name):
        raise TokenError(
            "name", f"{name!r} is not allowed; expected 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit."
        )
    if scope not in SCOPES:
        raise TokenError("scope", f"{scope!r} is not a scope; expected one of {', '.join(SCOPES)}.")
    if days is not None and not 1 <= days <= LONGEST_DAYS:
        raise TokenError(
            "days", f"{days} is not allowed; expected 1 to {LONGEST_DAYS}, or no value for a token that never expires."
        )


def _hash(secret: str) -> str:
    # 256 random bits need no salt and no slow hash: nobody can guess them.
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
