"""What `doctor` says about limits: those that can never be met, and keys without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Optional

from webapp.core.flow import limits
from webapp.db import engines as db
from webapp.jobs import queries
from webapp.jobs.flow import limit_use
from webapp.jobs.flow.limits import every
from webapp.lib.text import plural

SHOWN = 5  # keys


def unmet_limits() -> Optional[tuple[str, str, str]]:
    """The state, what was found and advice. None: there are no limits, and no waiting job names a key."""
    with db.reading() as session:
        known, lanes = limit_use.read(session), limit_use.waiting_lanes(session)
        rows = every(session)
        closed = {view.row.key: view.waiting for view in limit_use.views(session, rows) if view.row.most == 0}
    missing: Counter[str] = Counter()
    for lane in lanes:
        for key in limits.split(lane.text):
            if known.of(key.name) is None:
                missing[key.name] += lane.number
    waiting = {key: number for key, number in closed.items() if number.number}
    if waiting:
        number, keys = queries.total(waiting.values()), _some(waiting)
        return (
            "warn",
            f"{number.of('job')} can never start, because these limits are 0: {keys}.",
            ("Raise the limit: manage.py limits set KEY --max N. Or cancel the jobs."),
        )
    if missing:
        return (
            "warn",
            f"pending jobs name keys whose limit was removed, so they are not limited: {_some(missing)}.",
            ("Set the limit again: manage.py limits set KEY --max N"),
        )
    return ("ok", plural(len(rows), "limit"), "") if rows else None


def _some(keys: Iterable[str]) -> str:
    names = sorted(keys)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
