"""Settings in the database: values, history and changes. Allowed values are in `core/settings.py`.

The key of a queue's own value is `keep_completed@mail`. Its default is the value of all queues.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session

from webapp.core.job_spec import NAME
from webapp.core.settings import DEFINITIONS, PER_QUEUE, Definition, Number, Settings, define
from webapp.core.storage.schema import BUMP_REVISION
from webapp.db.engines import reading, writing
from webapp.db.models import Control, Event, Queue, RetentionMark, Setting
from webapp.jobs.lifecycle import NotFound, record
from webapp.jobs.queries import events_of
from webapp.jobs.setting_deletions import NeedsConfirmation as NeedsConfirmation
from webapp.jobs.setting_deletions import of_change
from webapp.lib import clock


class Outdated(Exception):
    """Another user changed the setting after the change `seen` that the caller knows. `change` is the newest one."""

    def __init__(self, change: Change) -> None:
        self.change = change
        super().__init__(f"{change.actor} changed it to {change.after}. Nothing was saved.")


@dataclass(frozen=True)
class Value:
    """A setting and its value. `changed_at` and `changed_by` are None at the default."""

    definition: Definition
    value: Number
    changed_at: Optional[int] = None
    changed_by: Optional[str] = None


@dataclass(frozen=True)
class Change:
    """One line of a setting's history. `…_default`: the value before or after is the default."""

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
    """All settings with their values, in the order of DEFINITIONS. Behind each are the queues with their own value."""
    rows = {row.key: row for row in session.scalars(select(Setting).order_by(Setting.key))}
    return [value for definition in DEFINITIONS.values() for value in _values(definition, rows)]


def _values(definition: Definition, rows: Mapping[str, Setting]) -> Iterator[Value]:
    everywhere = _value(definition, rows.get(definition.key))
    yield everywhere
    if definition.key in PER_QUEUE:
        for key in rows:
            if key.startswith(definition.key + "@"):
                yield _value(replace(define(key), default=everywhere.value), rows[key])


def _value(definition: Definition, row: Optional[Setting]) -> Value:
    if row is None:
        return Value(definition, definition.tidy(definition.default))
    return Value(definition, definition.tidy(json.loads(row.value)), row.changed_at, row.changed_by)


def find(session: Session, key: str) -> Value:
    """One setting with its value. Raises SettingError, and NotFound for a queue that never had a job."""
    return _value(_define(session, key), session.get(Setting, key))


def _define(session: Session, key: str) -> Definition:
    """The definition of a setting, with the default of a queue's own value. Raises as `find` does."""
    found = define(key)
    if found.queue is None:
        return found
    # A removed queue may still have finished jobs.
    if not NAME.match(found.queue) or session.get(Queue, found.queue) is None:
        raise NotFound(f"no such queue: {found.queue[:128]!r}. A queue exists once a job has named it.")
    return replace(found, default=find(session, found.base).value)


def history(session: Session, key: str, limit: Optional[int] = 50) -> list[Change]:
    """The changes of one setting, newest first. Raises as `find` does."""
    definition = _define(session, key)
    return [_as_change(definition, event) for event in events_of(session, "setting:" + key, limit)]


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


def set_setting(key: str, text: object, actor: str, *, seen: Optional[int] = None, confirmed: bool = False) -> Value:
    """Change one setting and record it, in a transaction of its own.

    `seen` is the newest change that the caller knows (0: none). `confirmed`: also if the value deletes something, see
    `setting_deletions.py`. Raises SettingError, Outdated, NeedsConfirmation, and NotFound for a queue that never had a
    job; then nothing is stored.
    """
    return _change(key, lambda _, definition: definition.parse(text), actor, seen, confirmed)


def unset_setting(key: str, actor: str, *, seen: Optional[int] = None, confirmed: bool = False) -> Value:
    """Reset a setting to its default. Raises as `set_setting` does."""
    return _change(key, lambda *_: None, actor, seen, confirmed)


def revert_setting(
    key: str, change_id: int, actor: str, *, seen: Optional[int] = None, confirmed: bool = False
) -> Value:
    """Restore the value before a change. Raises as `set_setting` does, and NotFound."""

    def value_before(session: Session, definition: Definition) -> Optional[Number]:
        event = session.get(Event, change_id)
        if event is None or event.subject != "setting:" + key:
            raise NotFound(f"this change of {key} is not on record.")
        old = _as_change(definition, event)
        return None if old.before_default else definition.parse(old.before)

    return _change(key, value_before, actor, seen, confirmed, reverts=change_id)


def _change(
    key: str,
    choose: Callable[[Session, Definition], Optional[Number]],
    actor: str,
    seen: Optional[int],
    confirmed: bool,
    *,
    reverts: Optional[int] = None,
) -> Value:
    """Store the value that `choose` returns, None for the default."""
    if not confirmed:
        with reading() as session:  # before the transaction that writes: a large table takes a while to count
            _require_confirmation(session, key, choose, seen)
    with writing() as session:
        definition = _define(session, key)
        return _store(session, definition, choose(session, definition), actor, seen, reverts=reverts)


def _require_confirmation(
    session: Session, key: str, choose: Callable[[Session, Definition], Optional[Number]], seen: Optional[int]
) -> None:
    value = find(session, key)
    new = choose(session, _define(session, key))
    _check_seen(session, key, seen)
    definition = value.definition
    new = definition.tidy(definition.default) if new is None else new
    deletion = of_change(session, definition, load(session), value.value, new)
    if deletion is not None:
        raise NeedsConfirmation(deletion)


def _store(
    session: Session,
    definition: Definition,
    value: Optional[Number],
    actor: str,
    seen: Optional[int],
    *,
    reverts: Optional[int] = None,
) -> Value:
    """Store a value, None for the default, and record the change. Raises Outdated."""
    key = definition.key
    if seen is not None:
        session.execute(select(Control.id).with_for_update())  # the second of two concurrent changes sees the first
    _check_seen(session, key, seen)
    row = session.get(Setting, key)
    detail: dict[str, Any] = {"from": definition.tidy(definition.default if row is None else json.loads(row.value))}
    if row is None:
        detail["from_default"] = True
    if value is None:
        after = Value(definition, definition.tidy(definition.default))
        if session.execute(delete(Setting).where(Setting.key == key).returning(Setting.key)).first() is None:
            return after
        detail.update(to=definition.default, default=True)
    else:
        now = clock.now()
        after = Value(definition, value, now, actor)
        session.merge(Setting(key=key, value=json.dumps(value), changed_at=now, changed_by=actor))
        detail["to"] = value
    session.flush()
    if definition.base in PER_QUEUE or key == "max_database_size":
        session.execute(delete(RetentionMark))
    bump_revision(session)
    change = {"before": detail["from"], "after": detail["to"]}
    if reverts is not None:
        detail["reverts"] = reverts
    record(session, "config", [("setting:" + key, None)], actor, detail, changes=[change])
    return after


def _check_seen(session: Session, key: str, seen: Optional[int]) -> None:
    if seen is None:
        return
    newest = history(session, key, 1)
    if newest and newest[0].id != seen:
        raise Outdated(newest[0])


def bump_revision(session: Session) -> None:
    session.execute(text(BUMP_REVISION))
