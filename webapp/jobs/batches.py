"""The jobs that one form made of many lines, found again by the key that the form gave them.

`operations.enqueue` names a form's jobs KEY, KEY.1, KEY.2 …; a key that says how many there are needs no table.
"""

from __future__ import annotations

import re
from typing import Optional

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.core.states import STATES
from webapp.db.models import Job

_KEY = re.compile(r"[0-9a-f]{32}x(?P<size>[1-9][0-9]{0,4})(\.[0-9]{1,5})?\Z")
_AT_ONCE = 500  # keys that one statement names


def key_of(digest: str, size: int) -> str:
    """The key for a form's jobs: of several, it says how many."""
    return digest if size == 1 else f"{digest}x{size}"


def size_of(key: Optional[str]) -> Optional[int]:
    """How many jobs a form with this key has made, or with this key of one of them; None: it made a single one."""
    match = _KEY.match(key or "")
    return int(match["size"]) if match else None


def page(session: Session, key: str, first: int, limit: int) -> list[tuple[int, Job]]:
    """Jobs from a place on (from 0) with their places, in the order of the lines. Discarded ones are not among them."""
    places = dict(_keys(key, range(first, min(first + limit, size_of(key) or 0))))
    found = session.scalars(select(Job).where(Job.form_key.in_(places)))
    return sorted(((places[job.form_key or ""], job) for job in found), key=lambda pair: pair[0])


def count_states(session: Session, key: str) -> dict[str, int]:
    """How many are in each state; those that were discarded are in none."""
    counts = dict.fromkeys(STATES, 0)
    keys = [one for one, _ in _keys(key, range(size_of(key) or 0))]
    for start in range(0, len(keys), _AT_ONCE):
        which = Job.form_key.in_(keys[start : start + _AT_ONCE])
        for state, number in session.execute(select(Job.state, func.count()).where(which).group_by(Job.state)).tuples():
            counts[state] += number
    return counts


def _keys(key: str, places: range) -> list[tuple[str, int]]:
    return [(f"{key}.{place}" if place else key, place) for place in places]
