"""The scope that a route needs, and the program that calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, cast

from flask import Flask, g

from webapp.accounts import tokens
from webapp.db.models import Token


@dataclass(frozen=True)
class Caller:
    """The program that sent this request."""

    token_id: int
    name: str
    scope: str

    @property
    def actor(self) -> str:
        return f"token:{self.name}"

    def may(self, scope: str) -> bool:
        return tokens.may(self.scope, scope)


def needed_scope(app: Flask, endpoint: Optional[str]) -> Optional[str]:
    """The scope that a route named, or None."""
    return cast(Optional[str], getattr(app.view_functions.get(endpoint or ""), "needed_scope", None))


def set_caller(token: Token) -> Caller:
    g.queuectl_caller = Caller(token.id, token.name, token.scope)
    return caller()


def caller() -> Caller:
    """The caller; behind the gate there always is one."""
    return cast(Caller, g.queuectl_caller)


def actor() -> str:
    return caller().actor
