"""Which role a view asks for, and whether for a password that was typed just now: said beside the view, weighed by the
gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional, TypeVar

if TYPE_CHECKING:
    from flask import Flask

View = TypeVar("View", bound=Callable[..., Any])


def needs(role: str, *, fresh: bool = False) -> Callable[[View], View]:
    """Say which role a view asks for at least: viewer, operator or admin. Views that only show need say nothing.

    `fresh`: what it does is so sensitive that a browser left open is not enough, see `sessions.FRESH`.
    """

    def mark(view: View) -> View:
        view.needed_role = role  # type: ignore[attr-defined]
        view.needs_fresh = fresh  # type: ignore[attr-defined]
        return view

    return mark


def needed_role(app: Flask, endpoint: Optional[str]) -> Optional[str]:
    """The role that a view named, or None."""
    role: Optional[str] = getattr(app.view_functions.get(endpoint or ""), "needed_role", None)
    return role


def needs_fresh(app: Flask, endpoint: Optional[str]) -> bool:
    return bool(getattr(app.view_functions.get(endpoint or ""), "needs_fresh", False))
