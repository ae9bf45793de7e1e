"""Declares the role that a view needs, and whether it needs a fresh password. The gate checks both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional, TypeVar

if TYPE_CHECKING:
    from flask import Flask

View = TypeVar("View", bound=Callable[..., Any])


def needs(role: str, *, fresh: bool = False) -> Callable[[View], View]:
    """Set the lowest role for a view: viewer, operator or admin. Read-only views need none.

    `fresh`: the user must have confirmed the password recently, see `sessions.FRESH`.
    """

    def mark(view: View) -> View:
        view.needed_role = role  # type: ignore[attr-defined]
        view.needs_fresh = fresh  # type: ignore[attr-defined]
        return view

    return mark


def needed_role(app: Flask, endpoint: Optional[str]) -> Optional[str]:
    """The declared role of a view, or None."""
    role: Optional[str] = getattr(app.view_functions.get(endpoint or ""), "needed_role", None)
    return role


def needs_fresh(app: Flask, endpoint: Optional[str]) -> bool:
    return bool(getattr(app.view_functions.get(endpoint or ""), "needs_fresh", False))
