"""Batches: jobs that belong together. They join at enqueue; the batch ends when it is closed and all have ended.

No counters are stored: the state of a batch follows from the states of its jobs. `batch_callbacks.py` decides when it
has ended. A requeue of one of its jobs begins its next generation, if a callback was decided in this one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional

from webapp.core import events, job_spec
from webapp.core.job_spec import NAME, NAME_RULE, FieldError, SpecError
from webapp.core.storage.transaction import Transaction
from webapp.lib import clock
from webapp.lib.text import shorten

NOT_IN_CALLBACK = ("id", "after")  # the same job may be enqueued for several generations

_INSERT = """
INSERT INTO batches (name, created_at, created_by, closed_at, on_done, on_death, generation)
VALUES (:name, :now, :actor, :closed, :on_done, :on_death, 1) ON CONFLICT (name) DO NOTHING
"""
_FIND = "SELECT closed_at, on_done, on_death FROM batches WHERE name = :name"
_SET_CALLBACKS = "UPDATE batches SET on_done = :on_done, on_death = :on_death WHERE name = :name"
_CLOSE = "UPDATE batches SET closed_at = :now WHERE name = :name AND closed_at IS NULL"
_LOCK = "SELECT name FROM batches WHERE name = ANY(:names) ORDER BY name FOR NO KEY UPDATE"
_REOPEN = """
UPDATE batches SET generation = generation + 1, ended_at = NULL
WHERE name {listed} AND EXISTS (SELECT 1 FROM batch_callbacks
                                WHERE batch = batches.name AND generation = batches.generation)
"""


class Batch(NamedTuple):
    """The batch of a call's jobs. `is_open`: a new one stays open. The callbacks are jobs as JSON, see `callback`."""

    name: str
    is_open: bool = False
    on_done: Optional[str] = None
    on_death: Optional[str] = None


def read(data: object) -> Batch:
    """Read a batch from its name, or from {"name": …, "open": …, "on_done": job, "on_death": job}. Raises SpecError."""
    given: Any = {"name": data} if isinstance(data, str) else data
    if not isinstance(given, Mapping):
        raise SpecError([FieldError("batch", "expected a name, or an object with a name.")])
    errors = [
        FieldError(shorten(str(key), 60), "is not a known key. Known keys: name, open, on_done, on_death.")
        for key in given
        if key not in ("name", "open", "on_done", "on_death")
    ]
    name, is_open = given.get("name"), given.get("open")
    if not isinstance(name, str) or not NAME.match(name):
        errors.append(FieldError("batch", f"{shorten(ascii(name), 60)} is not a name; expected {NAME_RULE}."))
    if not isinstance(is_open, (bool, type(None))):
        errors.append(FieldError("open", "expected true or false."))
    callbacks: dict[str, Optional[str]] = {}
    for field in ("on_done", "on_death"):
        try:
            callbacks[field] = None if given.get(field) is None else callback(field, given[field])
        except SpecError as error:  # noqa: PERF203 -- all errors are reported
            errors += error.errors
    if errors:
        raise SpecError(errors)
    return Batch(str(name), bool(is_open), **callbacks)


def callback(field: str, data: object) -> str:
    """A job to enqueue later, as canonical JSON. Raises SpecError, with the callback in front of each field."""
    try:
        job_spec.parse(data)
    except SpecError as error:
        named = [(f"{field}.{one.field}" if one.field else field, one.message) for one in error.errors]
        raise SpecError([FieldError(*one) for one in named]) from None
    given = {key: value for key, value in dict(data).items() if value is not None}  # type: ignore[call-overload]
    wrong = [key for key in NOT_IN_CALLBACK if key in given]
    if wrong:
        raise SpecError([FieldError(f"{field}.{key}", "is not allowed in a callback.") for key in wrong])
    return json.dumps(given, sort_keys=True)


def join(transaction: Transaction, batch: Batch, actor: str) -> None:
    """Make the batch, or check that jobs may join it, until the commit. Raises SpecError if it is closed."""
    now = clock.now()
    values = {"name": batch.name, "on_done": batch.on_done, "on_death": batch.on_death}
    closed = None if batch.is_open else now
    if transaction.execute(_INSERT, {**values, "now": now, "actor": actor, "closed": closed}).rowcount == 1:
        after = {"open": batch.is_open, **{key: value for key, value in values.items() if key != "name" and value}}
        events.record_change(transaction, "create_batch", f"batch:{batch.name}", actor, after=after)
        return
    # The process that closes it waits for this transaction.
    find = _FIND if transaction.is_sqlite else f"{_FIND} FOR NO KEY UPDATE"
    closed_at, on_done, on_death = transaction.execute(find, {"name": batch.name}).fetchone()
    if closed_at is not None:
        text = f"the batch {batch.name!r} was closed at {str(clock.to_iso(closed_at))[:19]}Z. Choose another name."
        raise SpecError([FieldError("batch", text)])
    wanted = {"on_done": batch.on_done or on_done, "on_death": batch.on_death or on_death}
    for field, before in (("on_done", on_done), ("on_death", on_death)):
        if before not in (None, wanted[field]):
            raise SpecError([FieldError(field, f"the batch {batch.name!r} already has a different one.")])
    if wanted != {"on_done": on_done, "on_death": on_death}:
        transaction.execute(_SET_CALLBACKS, {**wanted, "name": batch.name})
        events.record_change(transaction, "edit_batch", f"batch:{batch.name}", actor, after=wanted)


def close(transaction: Transaction, name: str, actor: str) -> bool:
    """Close a batch: no more jobs can join. False: it was already closed, or there is no such batch."""
    if transaction.execute(_CLOSE, {"name": name, "now": clock.now()}).rowcount != 1:
        return False
    events.record_change(transaction, "close_batch", f"batch:{name}", actor)
    return True


def reopen(execute: Callable[[str, Mapping[str, Any]], Any], names: Sequence[str], *, is_sqlite: bool) -> None:
    """Jobs of these batches run again. Locks the batches, so that nothing is decided about them meanwhile."""
    if not is_sqlite:
        execute(_LOCK, {"names": list(names)})
    listed = "IN (SELECT value FROM json_each(:names))" if is_sqlite else "= ANY(:names)"
    execute(_REOPEN.format(listed=listed), {"names": json.dumps(list(names)) if is_sqlite else list(names)})
