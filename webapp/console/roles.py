"""Which role a view asks for: said beside the view, weighed by the gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional, TypeVar

if TYPE_CHECKING:
    from flask import Flask

View = TypeVar("View", bound=Callable[..., Any])


def needs(role: str) -> Callable[[View], View]:
    """Say which role a view asks for at least: viewer, operator or admin. Views that only show need say nothing."""

    def mark(view: View) -> View:
        view.needed_role = role  # type: ignore[attr-defined]
        return view

    return mark


def needed_role(app: Flask, endpoint: Optional[str]) -> Optional[str]:
    """The role that a view named, or None."""
    role: Optional[str] = getattr(app.view_functions.get(endpoint or ""), "needed_role", None)
    return role
