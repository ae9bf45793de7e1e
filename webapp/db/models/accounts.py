"""Users, sessions, API tokens, login throttling and saved searches."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import CheckConstraint, ForeignKey, Integer, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.engines import Model
from webapp.db.models.base import Sequence, one_of

ROLES = ("viewer", "operator", "admin")
SCOPES = ("read", "submit", "operate", "admin")


class User(Model):
    """A person who may sign in to the console."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    password_hash: Mapped[str]
    created_at: Mapped[int]
    disabled_at: Mapped[Optional[int]]

    __table_args__ = (
        CheckConstraint(one_of("role", ROLES), name="role"),
        {"sqlite_autoincrement": True},
    )


class UserSession(Model):
    """A signed-in browser. The cookie has the id; this row has only its hash. Deleting the row ends the session."""

    __tablename__ = "sessions"

    id_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(Sequence, ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[int]
    seen_at: Mapped[int]  # last page or action; polls do not count
    confirmed_at: Mapped[int]  # when the password was last entered
    address: Mapped[Optional[str]]
    browser: Mapped[Optional[str]]


class View(Model):
    """A saved search of a user."""

    __tablename__ = "views"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(Sequence, ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str]
    query: Mapped[str]  # query string of the list's URL
    created_at: Mapped[int]

    __table_args__ = (UniqueConstraint("user_id", "name"), {"sqlite_autoincrement": True})


class Throttle(Model):
    """Failed logins of an account or an address, and how long it must wait."""

    __tablename__ = "throttles"

    key: Mapped[str] = mapped_column(primary_key=True)
    failures: Mapped[int] = mapped_column(Integer)
    last_at: Mapped[int]
    until: Mapped[int]


class Token(Model):
    """An API token. Only its hash is stored."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(unique=True)
    token_hash: Mapped[str] = mapped_column(unique=True)
    scope: Mapped[str]
    created_at: Mapped[int]
    created_by: Mapped[str]
    expires_at: Mapped[Optional[int]]
    used_at: Mapped[Optional[int]]  # accurate to a minute
    used_from: Mapped[Optional[str]]
    revoked_at: Mapped[Optional[int]]
    revoked_by: Mapped[Optional[str]]

    __table_args__ = (
        CheckConstraint(one_of("scope", SCOPES), name="scope"),
        {"sqlite_autoincrement": True},
    )


class IdempotencyKey(Model):
    """A request with an Idempotency-Key and its answer; `status` None: not answered yet."""

    __tablename__ = "repeats"

    token_id: Mapped[int] = mapped_column(Sequence, ForeignKey("tokens.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    at: Mapped[int]
    status: Mapped[Optional[int]] = mapped_column(Integer)
    answer: Mapped[Optional[bytes]]


class SetupLink(Model):
    """One-time links to create the first administrator. Only their hashes are stored."""

    __tablename__ = "setup_links"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    expires_at: Mapped[int]
