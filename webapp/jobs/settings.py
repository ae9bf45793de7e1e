"""Settings in the database: how each stands, its history, and how to change it. What each may be is in
`core/setting_values.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from webapp.core.schema import BUMP_REVISION
from webapp.core.settings import DEFINITIONS, Definition, Number, Settings, define
from webapp.db.models import Control, Event, Setting
from webapp.jobs.lifecycle import record
from webapp.lib import clock


class UnknownChange(LookupError):
    """A change that a setting has not had, or that is not on record any more."""


class Outdated(Exception):
    """Somebody changed the setting after `seen`, which is what the asker had looked at. `change` is the newest."""

    def __init__(self, change: Change) -> None:
        self.change = change
        super().__init__(f"{change.actor} changed it to {change.after}. Nothing was saved.")


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
        raise UnknownChange(f"this change of {key} is not on record.")
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


def bump_revision(session: Session) -> None:
    session.execute(text(BUMP_REVISION))


def _noted(session: Session, key: str, actor: str, detail: Mapping[str, Any], reverts: Optional[int]) -> None:
    session.flush()
    bump_revision(session)
    change = {"before": detail["from"], "after": detail["to"]}
    told = {**detail, **({"reverts": reverts} if reverts is not None else {})}
    record(session, "config", [("setting:" + key, None)], actor, told, changes=[change])
