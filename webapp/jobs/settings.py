"""What people may change while the queue runs: each setting's type, bounds, default and help, and how to change it.

Values live in the `settings` table, one row for each that somebody changed. Workers read them again when the
control row's revision has grown, so a change holds from the next failure, time-out or claim on.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from webapp.db.models import Control, Event, Setting
from webapp.jobs.lifecycle import record
from webapp.lib import clock

Number = Union[int, float]
_NUMBER = {int: re.compile(r"-?[0-9]+"), float: re.compile(r"-?[0-9]*\.?[0-9]+")}


class SettingError(ValueError):
    """A name that is no setting, or a value out of its bounds; the message says what is allowed."""


class UnknownChange(LookupError):
    """A change that a setting has not had, or that is not on record any more."""


class Outdated(Exception):
    """Somebody changed the setting after `seen`, which is what the asker had looked at. `change` is the newest."""

    def __init__(self, change: Change) -> None:
        self.change = change
        super().__init__(f"{change.actor} changed it to {change.after} in the meantime. Nothing was changed.")


@dataclass(frozen=True)
class Definition:
    """One setting. Bounds are inclusive; `unit` is a word for people."""

    key: str
    kind: type
    default: Number
    lowest: Number
    highest: Number
    unit: str
    help: str

    @property
    def allowed(self) -> str:
        """Its type and bounds as words: 'a whole number from 0 to 1000'."""
        kind = "a whole number" if self.kind is int else "a number"
        return f"{kind} from {self.tidy(self.lowest)} to {self.tidy(self.highest)}"

    def tidy(self, value: Number) -> Number:
        """3, not 3.0: what a person typed is what is shown again."""
        return int(value) if value == int(value) else value

    def parse(self, text: object) -> Number:
        """Read a value that a person or a program gave. Raises SettingError."""
        plain = _NUMBER[self.kind].fullmatch(str(text).strip())  # int() alone takes 1_0, and digits of any script
        try:
            value: Number = self.kind(plain.group()) if plain else math.nan
        except ValueError:  # more digits than Python converts
            value = math.nan
        if not self.lowest <= value <= self.highest:  # false for nan, too
            raise SettingError(f"{self.key}: {text!r} is not allowed; expected {self.allowed}.")
        return self.tidy(value)


_YEAR = 365

DEFINITIONS: Mapping[str, Definition] = {
    definition.key: definition
    for definition in (
        Definition("max_retries", int, 3, 0, 1000, "retries", "Automatic retries after the first attempt, for jobs that do not set their own."),
        Definition("backoff_base", float, 2.0, 1.0, 100.0, "seconds", "A retry waits this many seconds to the power of the failures so far: with 2, it waits 2, 4, 8 …"),
        Definition("backoff_max", float, 3600.0, 1.0, 30.0 * 86400, "seconds", "No retry waits longer than this (before jitter)."),
        Definition("backoff_jitter", float, 0.1, 0.0, 1.0, "fraction", "Up to this fraction is added to a wait at random, so that jobs that failed together do not return together."),
        Definition("job_timeout", float, 0.0, 0.0, 30.0 * 86400, "seconds", "An attempt that runs longer is ended and counts as failed, for jobs that do not set their own. 0: no limit."),
        Definition("kill_grace", float, 5.0, 0.0, 3600.0, "seconds", "How long a command that was told to end (TERM) may take before it is killed."),
        Definition("shutdown_grace", float, 30.0, 0.0, 86400.0, "seconds", "How long a worker that shuts down by Ctrl-C or a signal lets its commands finish before it hands the jobs back."),
        Definition("output_limit", int, 256 * 1024, 1024, 16 * 1024 * 1024, "bytes", "Output kept for each attempt: the first and the last half of this; what lies between is counted."),
        Definition("job_memory_limit", int, 0, 0, 2**24, "MiB", "What an attempt and all that it starts may use of memory; whatever wants more is killed. 0: no limit. doctor tells what limits it on a machine."),
        Definition("job_process_limit", int, 0, 0, 1_000_000, "processes", "How many processes and threads an attempt may have at once, its shell among them. 0: no limit. doctor tells what limits it on a machine."),
        Definition("lease", float, 30.0, 5.0, 3600.0, "seconds", "A worker whose heartbeat stands still for this long is taken for dead and its jobs go back."),
        Definition("keep_completed", int, 30, 0, 100 * _YEAR, "days", "Completed jobs are deleted after this many days. 0: never."),
        Definition("keep_cancelled", int, 30, 0, 100 * _YEAR, "days", "Cancelled jobs are deleted after this many days. 0: never."),
        Definition("keep_dead", int, 0, 0, 100 * _YEAR, "days", "Dead letters are deleted after this many days. 0: never."),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A setting as it stands. `changed_at` and `changed_by` are None at the default."""

    definition: Definition
    value: Number
    changed_at: Optional[int] = None
    changed_by: Optional[str] = None


@dataclass(frozen=True)
class Change:
    """One line of a setting's history. `…_default`: it stood, or stands from then on, at its default."""

    id: int
    at: int
    actor: str
    before: Number
    after: Number
    before_default: bool
    after_default: bool
    reverted: bool


class Settings:
    """All values at one moment: `settings.max_retries`, `settings.backoff_base` …"""

    max_retries: int
    backoff_base: float
    backoff_max: float
    backoff_jitter: float
    job_timeout: float
    kill_grace: float
    shutdown_grace: float
    output_limit: int
    job_memory_limit: int
    job_process_limit: int
    lease: float
    keep_completed: int
    keep_cancelled: int
    keep_dead: int

    def __init__(self, changed: Optional[Mapping[str, str]] = None) -> None:
        """`changed` maps names to JSON texts, as the table holds them; what no longer is a setting is passed over."""
        for key, definition in DEFINITIONS.items():
            value = json.loads(changed[key]) if changed and key in changed else definition.default
            setattr(self, key, definition.tidy(value))


def define(key: str) -> Definition:
    """Raises SettingError, which names the nearest known setting."""
    if key in DEFINITIONS:
        return DEFINITIONS[key]
    near = difflib.get_close_matches(key, DEFINITIONS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise SettingError(f"no such setting: {key!r}.{hint} `config list` shows them all.")


def load(session: Session) -> Settings:
    rows = session.execute(select(Setting.key, Setting.value))
    return Settings({row.key: row.value for row in rows})


def describe(session: Session) -> list[Value]:
    """Every setting as it stands, in the order of DEFINITIONS."""
    rows = {row.key: row for row in session.scalars(select(Setting))}
    values = []
    for key, definition in DEFINITIONS.items():
        row = rows.get(key)
        if row is None:
            values.append(Value(definition, definition.tidy(definition.default)))
        else:
            values.append(Value(definition, definition.tidy(json.loads(row.value)), row.changed_at, row.changed_by))
    return values


def history(session: Session, key: str, limit: int = 50) -> list[Change]:
    """What became of one setting, newest first. Raises SettingError."""
    definition = define(key)
    events = select(Event).where(Event.subject == "setting:" + key).order_by(Event.id.desc()).limit(limit)
    return [_as_change(definition, event) for event in session.scalars(events)]


def _as_change(definition: Definition, event: Event) -> Change:
    detail = json.loads(event.detail or "{}")
    before = detail.get("from", definition.default)
    return Change(
        event.id,
        event.at,
        event.actor,
        definition.tidy(before),
        definition.tidy(detail.get("to", definition.default)),
        bool(detail.get("from_default")),
        bool(detail.get("default")),
        "reverts" in detail,
    )


def change(
    session: Session, key: str, text: object, actor: str, *, seen: Optional[int] = None, reverts: Optional[int] = None
) -> Value:
    """Set one setting and record who changed it from what to what.

    `seen` is the newest change that the asker knew of (0: none). Raises SettingError and Outdated; then nothing is
    stored.
    """
    definition = define(key)
    value = definition.parse(text)
    _check_seen(session, key, seen)
    now = clock.now()
    before = _before(session, definition)
    session.merge(Setting(key=key, value=json.dumps(value), changed_at=now, changed_by=actor))
    _noted(session, key, actor, {**before, "to": value}, reverts)
    return Value(definition, value, now, actor)


def reset(
    session: Session, key: str, actor: str, *, seen: Optional[int] = None, reverts: Optional[int] = None
) -> Value:
    """Put one setting back to its default. Raises as `change` does."""
    definition = define(key)
    _check_seen(session, key, seen)
    before = _before(session, definition)
    if session.execute(delete(Setting).where(Setting.key == key).returning(Setting.key)).first():
        _noted(session, key, actor, {**before, "to": definition.default, "default": True}, reverts)
    return Value(definition, definition.tidy(definition.default))


def revert(session: Session, key: str, change_id: int, actor: str, *, seen: Optional[int] = None) -> Value:
    """Put one setting back to what it was before a change. Raises as `change` does, and UnknownChange."""
    definition = define(key)
    event = session.get(Event, change_id)
    if event is None or event.subject != "setting:" + key:
        raise UnknownChange(f"there is no such change of {key} on record any more.")
    old = _as_change(definition, event)
    if old.before_default:
        return reset(session, key, actor, seen=seen, reverts=change_id)
    return change(session, key, old.before, actor, seen=seen, reverts=change_id)


def _check_seen(session: Session, key: str, seen: Optional[int]) -> None:
    if seen is None:
        return
    session.execute(select(Control.id).with_for_update())  # of two at once, the second sees what the first has done
    newest = history(session, key, 1)
    if newest and newest[0].id != seen:
        raise Outdated(newest[0])


def _before(session: Session, definition: Definition) -> dict[str, Any]:
    row = session.get(Setting, definition.key)
    if row is None:
        return {"from": definition.tidy(definition.default), "from_default": True}
    return {"from": definition.tidy(json.loads(row.value))}


# Tells the workers that something which people change has changed.
BUMP_REVISION = "UPDATE control SET revision = revision + 1"


def bump_revision(session: Session) -> None:
    session.execute(text(BUMP_REVISION))


def _noted(session: Session, key: str, actor: str, detail: Mapping[str, Any], reverts: Optional[int]) -> None:
    session.flush()
    bump_revision(session)
    change = {"before": detail["from"], "after": detail["to"]}
    told = {**detail, **({"reverts": reverts} if reverts is not None else {})}
    record(session, "config", [("setting:" + key, None)], actor, told, changes=[change])
