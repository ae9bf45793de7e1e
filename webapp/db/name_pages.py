"""Pages of lists by name: by key and not by offset, at a cost independent of the list's length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Generic, Optional, TypeVar

from sqlalchemy import Select, true
from sqlalchemy.orm import InstrumentedAttribute, Session

Row = TypeVar("Row")
View = TypeVar("View")


@dataclass(frozen=True)
class Page(Generic[View]):
    """One page. `older` and `newer` are names for `after` and `before`; None: there are no more rows."""

    views: list[View]
    older: Optional[str]
    newer: Optional[str]


def read(
    session: Session,
    rows: Select[tuple[Row]],
    name: InstrumentedAttribute[str],
    views: Callable[[Sequence[Row]], list[View]],
    *,
    limit: int,
    after: Optional[str] = None,
    before: Optional[str] = None,
) -> Page[View]:
    """One page of these rows. `after` continues after a name, `before` ends in front of it. `views` shows them."""
    backwards = before is not None
    there: Any = name < before if backwards else name > after if after is not None else true()
    ordered = rows.where(there).order_by(name.desc() if backwards else name)
    found = list(session.scalars(ordered.limit(limit + 1)))
    more, found = len(found) > limit, found[:limit]
    ahead = getattr(found[-1], name.key) if more else None
    back = getattr(found[0], name.key) if found and (backwards or after is not None) else None
    if backwards:
        return Page(views(found[::-1]), back, ahead)
    return Page(views(found), ahead, back)
