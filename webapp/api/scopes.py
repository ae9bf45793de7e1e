"""The scope that a route needs, and the token of the program that calls."""

from __future__ import annotations

from typing import Optional, cast

from flask import Flask, g

from webapp.accounts import tokens
from webapp.db.models import Token


def needed_scope(app: Flask, endpoint: Optional[str]) -> Optional[str]:
    """The scope that a route named, or None."""
    return cast(Optional[str], getattr(app.view_functions.get(endpoint or ""), "needed_scope", None))


def token() -> Token:
    """The token of this request. The gate has checked and set it."""
    return cast(Token, g.queuectl_token)


def may(scope: str) -> bool:
    return tokens.may(token().scope, scope)


def actor() -> str:
    return f"token:{token().name}"
