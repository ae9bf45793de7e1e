"""Unique keys: at most one job holds a key. A partial unique index enforces this; this module resolves conflicts.

A job holds its key while it waits for its first start, until it ends, or for a period, see HOLDS_KEY in `states.py`.
The holders are read before each write, because the result names the holder. If another transaction takes a key after
that, the index refuses the write, and the caller reads the holders again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional

from webapp.core import audit_lines, events
from webapp.core.flow.after import After
from webapp.core.statements import CANCEL
from webapp.core.states import ARROWS, HOLDS_KEY, TERMINAL
from webapp.core.storage.transaction import Transaction
from webapp.lib import clock, durations
from webapp.lib.text import shorten

MAX_KEY = 200  # characters
MAX_PERIOD = 366 * 86400  # seconds
SCOPES = ("waiting", "unfinished", "period")
ON_CONFLICT = ("refuse", "return", "replace")
FIELDS = ("key", "while", "on_conflict")
TRIES = 20  # looks at the holders: each further one means that another job took or left a key in between
_LOCK_NUMBER = 0x756E69717565  # any number that nothing else uses
_WHILE_RULE = "expected waiting, unfinished, or a period such as 1h"

_RELEASE = "UPDATE jobs SET unique_while = 'expired' WHERE id = :id AND unique_while = 'period'"
_HOLDERS = f"SELECT unique_key, id, state FROM jobs WHERE {HOLDS_KEY} AND unique_key"  # noqa: S608
_EXPIRE = f"""
UPDATE jobs SET unique_while = 'expired' WHERE {HOLDS_KEY} AND unique_while = 'period' AND unique_until <= :now
AND unique_key"""  # noqa: S608
# PostgreSQL: two writers of several keys, in different orders, would wait for each other. So they take turns.
LOCK = f"SELECT pg_advisory_xact_lock({_LOCK_NUMBER})"


class Unique(NamedTuple):
    """What a job asks for. `while_` is one of SCOPES, `seconds` the length of a period."""

    key: str
    while_: str = "unfinished"
    seconds: Optional[float] = None
    on_conflict: str = "refuse"

    @property
    def as_json(self) -> dict[str, Any]:
        """As `parse` reads it."""
        return {"key": self.key, "while": self.seconds or self.while_, "on_conflict": self.on_conflict}


class Holder(NamedTuple):
    """The job that holds a key.

    Attributes:
        place: its position, from 0, if the same call enqueues it.
        awaited: whether the job that wants the key can only start after this one has completed.
    """

    key: str
    id: str
    state: str
    place: Optional[int] = None
    awaited: bool = False

    @property
    def text(self) -> str:
        """'is held by job1 (pending)', after the key's name."""
        return self.told({})

    def told(self, lines: Mapping[int, str]) -> str:
        """The same. `lines`: names for the jobs of the call, by their places, such as 'line 3'."""
        why = ", and this job waits until that one has completed" if self.awaited else ""
        if self.place is not None:
            return f"is held by {lines.get(self.place, f'job {self.place + 1} of this call')}{why}"
        return f"is held by {self.id} ({self.state}){why}"


# --- reading ---------------------------------------------------------------------------------------------------------


def parse(value: object) -> Unique:
    """Read a key, or an object with `key`, `while` and `on_conflict`. Raises ValueError; the field's name is missing in
    its message."""
    if isinstance(value, str):
        return Unique(read_key(value))
    if not isinstance(value, Mapping):
        raise ValueError('is not allowed; expected a key, or an object such as {"key": "report-7", "while": "1h"}.')
    unknown = [str(name) for name in value if name not in FIELDS]
    if unknown:
        raise ValueError(f"{unknown[0][:40]!r} is not a known key of it. Known keys: {', '.join(FIELDS)}.")
    if value.get("key") is None:
        raise ValueError("key: is missing. Expected a text, such as report-7.")
    on_conflict = value.get("on_conflict")
    if on_conflict is not None and on_conflict not in ON_CONFLICT:
        raise ValueError(f"on_conflict: {_show(on_conflict)} is not allowed; expected refuse, return or replace.")
    try:
        key = read_key(value["key"])
    except ValueError as error:
        raise ValueError(f"key: {error}") from None
    while_, seconds = _scope(value.get("while"))
    return Unique(key, while_, seconds, on_conflict or "refuse")


def read_key(value: object) -> str:
    """Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{_show(value)} is not allowed; expected a text, such as report-7.")
    if not value or len(value) > MAX_KEY:
        is_what = f"has {len(value)} characters" if value else "is empty"
        raise ValueError(f"{is_what}; expected 1 to {MAX_KEY} characters.")
    if not value.isprintable() or value != value.strip():
        raise ValueError(f"{_show(value)} has a space at an end or an invisible character. Remove it.")
    return value


def _scope(value: object) -> tuple[str, Optional[float]]:
    if value is None:
        return "unfinished", None
    if isinstance(value, str) and value in ("waiting", "unfinished"):
        return value, None
    try:
        seconds = durations.parse(value) if isinstance(value, str) else value
    except ValueError:
        seconds = None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= MAX_PERIOD:
        raise ValueError(f"while: {_show(value)} is not allowed; {_WHILE_RULE}, at most 366d.")
    return "period", float(seconds)


def _show(value: object) -> str:
    return shorten(ascii(value) if isinstance(value, str) else json.dumps(value, default=str), 60)


def as_json(key: Optional[str], while_: Optional[str], until: Optional[int], state: str) -> Optional[dict[str, Any]]:
    """The columns of a job for `--json` and the API; None without a key."""
    if key is None or while_ is None:
        return None
    shown = {"started": "waiting", "expired": "period"}.get(while_, while_)
    ends = clock.to_iso(until) if until is not None else None
    return {"key": key, "while": shown, "until": ends, "held": holds(while_, until, state)}


def holds(while_: Optional[str], until: Optional[int], state: str) -> bool:
    """Whether a job with these columns holds its key now."""
    if while_ == "period":
        return until is not None and until > clock.now()
    return (while_ == "waiting" and state in ARROWS["cancel"].leaves) or (
        while_ == "unfinished" and state not in TERMINAL
    )


# --- holding ---------------------------------------------------------------------------------------------------------


def holders(
    execute: Callable[[str, Mapping[str, Any]], Any], keys: Iterable[str], *, is_sqlite: bool, lock: bool = False
) -> dict[str, Holder]:
    """Who holds these keys now. Periods that have passed end here.

    `execute` executes a statement of a transaction. `lock`: on PostgreSQL, wait until no other transaction takes
    several keys.
    """
    named = sorted(set(keys))
    if lock and not is_sqlite:
        execute(LOCK, {})
    listed = "IN (SELECT value FROM json_each(:keys))" if is_sqlite else "= ANY(:keys)"
    values = {"keys": json.dumps(named) if is_sqlite else named}
    execute(f"{_EXPIRE} {listed}", {**values, "now": clock.now()})
    found = execute(f"{_HOLDERS} {listed}", values).fetchall()
    return {key: Holder(key, job_id, state) for key, job_id, state in found}


class Wanted(NamedTuple):
    """A job that is about to be stored. `after`: what it waits for."""

    id: str
    place: int
    unique: Unique
    after: Sequence[After] = ()


class Answer(NamedTuple):
    """What to do about conflicts.

    Attributes:
        refused: the place of each job that is refused, with the holder.
        instead: the place of each job that is not stored, with the job whose id is the answer.
        cancelled: the waiting jobs that are replaced, each with the id of the new job.
    """

    refused: dict[int, Holder]
    instead: dict[int, Holder]
    cancelled: dict[str, str]


def resolve(wanted: Sequence[Wanted], held: Mapping[str, Holder], *, may_return: bool) -> Answer:
    """Apply each job's rule for conflicts, in the order of the call.

    Not `may_return`: each job is stored or refused, so `return` refuses, and so does `replace` a job of this call.
    """
    answer = Answer({}, {}, {})
    now_held = dict(held)
    for one in wanted:
        key, rule = one.unique.key, one.unique.on_conflict
        holder, mine = now_held.get(key), Holder(key, one.id, "pending", one.place)
        if holder is None:
            now_held[key] = mine
        elif rule == "return" and may_return:
            answer.instead[one.place] = holder
        elif rule == "replace" and After(holder.id) in one.after:  # the job that it replaces would never complete
            answer.refused[one.place] = holder._replace(awaited=True)
        elif rule != "replace" or not (may_return if holder.place is not None else _waits(holder)):
            answer.refused[one.place] = holder
        elif holder.place is not None:  # of this call: it is not stored at all
            answer.instead[holder.place] = now_held[key] = mine
            answer.cancelled.update({old: one.id for old, new in answer.cancelled.items() if new == holder.id})
        else:
            answer.cancelled[holder.id], now_held[key] = one.id, mine
    for place, holder in answer.instead.items():  # the job of this call that it names may be replaced too
        answer.instead[place] = _last(holder, answer.instead)
    return answer


def _waits(holder: Holder) -> bool:
    return holder.state in ARROWS["cancel"].leaves


def _last(holder: Holder, instead: Mapping[int, Holder]) -> Holder:
    while holder.place is not None and holder.place in instead:
        holder = instead[holder.place]
    return holder


class Claimed(Exception):
    """A worker took a job that was to be replaced."""


def cancel_replaced(transaction: Transaction, cancelled: Mapping[str, str], actor: str) -> None:
    """Cancel these waiting jobs. Raises Claimed."""
    for job_id, new in cancelled.items():
        found = transaction.execute(CANCEL, {"id": job_id, "now": clock.now()}).fetchone()
        if found is None:
            raise Claimed
        transaction.execute(_RELEASE, {"id": job_id})
        subject = f"job:{job_id}"
        events.record(transaction, "cancel", subject, actor, seq=found[0], detail={"text": f"replaced by {new}"})
        if audit_lines.is_audited(actor):
            details = [{"after": {"state": "cancelled", "replaced_by": new}}]
            transaction.execute_many(audit_lines.LINE, audit_lines.lines("cancel", [subject], actor, details=details))
