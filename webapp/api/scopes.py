"""Which scope a view of the API asks for: said beside the view, weighed by the gate. And who is calling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, TypeVar, cast

from flask import g

from webapp.accounts import tokens
from webapp.db.models import SCOPES, Token

if TYPE_CHECKING:
    from flask import Flask

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Caller:
    """The program that asks, as views need it."""

    token_id: int
    name: str
    scope: str

    @property
    def actor(self) -> str:
        return f"token:{self.name}"

    def may(self, scope: str) -> bool:
        return tokens.may(self.scope, scope)


def scope(name: str) -> Callable[[View], View]:
    """Say which scope a view asks for at least. A view that says nothing stops the start."""
    if name not in SCOPES:
        raise ValueError(f"no such scope: {name!r}")

    def mark(view: View) -> View:
        view.needed_scope = name  # type: ignore[attr-defined]
        return view

    return mark


def needed_scope(app: Flask, endpoint: Optional[str]) -> Optional[str]:
    """The scope that a view named, or None."""
    found: Optional[str] = getattr(app.view_functions.get(endpoint or ""), "needed_scope", None)
    return found


def set_caller(token: Token) -> Caller:
    g.queuectl_caller = Caller(token.id, token.name, token.scope)
    return caller()


def caller() -> Caller:
    """Who asks, behind the gate, where there always is somebody."""
    return cast(Caller, g.queuectl_caller)


def actor() -> str:
    return caller().actor
