"""Users, their sessions and saved searches, API tokens, the log-in throttle, and refusals in the audit trail."""

from __future__ import annotations

import hashlib


class AccountError(ValueError):
    """An invalid value. `field` is 'name', 'role' or 'password' of a user, or 'name', 'scope' or 'days' of a token."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class NameTaken(AccountError):
    """Another user or token has the name."""


class NoSuchUser(AccountError):
    """No user has the name."""


class LastAdmin(AccountError):
    """The change would leave no admin."""


def hash_secret(secret: str) -> str:
    """The hash of a random secret as the database stores it. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
