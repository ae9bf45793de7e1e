"""Enqueue: store all jobs of a call or none, with their queues, label sets and audit lines.

In plain SQL, see `core/transaction.py`: a SQLAlchemy session takes five times as long as the INSERT, and callers and
idle workers wait for it. People and programs call `actions.enqueue`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, NamedTuple, Optional

from webapp.core import audit_lines, labels
from webapp.core.flow import batches, dependencies, limits, unique_keys
from webapp.core.flow.batches import Batch
from webapp.core.flow.unique_keys import TRIES, Holder, Wanted
from webapp.core.job_spec import FieldError, IdTaken, JobSpec, KeyTaken, SpecError
from webapp.core.storage import relocated
from webapp.core.storage.database import Database
from webapp.core.storage.schema import BUMP_REVISION
from webapp.core.storage.transaction import Transaction, transaction_on
from webapp.lib import clock
from webapp.lib.ids import new_job_id

STORE_BATCH = 10_000  # rows between two calls of `stored`
AUDITED_SINGLY = 100  # jobs of one call with a line each in the audit trail; larger calls have one line

MOST_LABEL_SETS = 1000  # of one queue: workers and pages query each of them

# A removed queue still has its row. On PostgreSQL a lock keeps it until the commit; inserting a job takes it too.
_HAS_QUEUE = "SELECT 1 FROM queues WHERE name = :name AND removed_at IS NULL"
_HAS_LABEL_SET = "SELECT 1 FROM lanes WHERE queue = :queue AND requires = :requires"
ADD_QUEUE = "INSERT INTO queues (name) VALUES (:name) ON CONFLICT (name) DO UPDATE SET removed_at = NULL"
ADD_LABEL_SET = (
    "INSERT INTO lanes (queue, requires) VALUES (:queue, :requires) ON CONFLICT (queue, requires) DO NOTHING"
)


class _Row(NamedTuple):
    """A new row of `jobs`. The fields are its columns."""

    id: str
    command: str
    queue: str
    requires: str
    priority: int
    state: str
    run_at: int
    max_retries: Optional[int]
    timeout: Optional[float]
    cwd: Optional[str]
    env: Optional[str]
    created_at: int
    created_by: str
    changed_at: int
    form_key: Optional[str]
    batch: Optional[str]
    schedule: Optional[str]
    limits: str
    unique_key: Optional[str]
    unique_while: Optional[str]
    unique_until: Optional[int]
    retry: Optional[str]
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    lone_losses: int = 0
    followed: Optional[int] = None


_Job = tuple[_Row, JobSpec, int]  # with its place in the call


def enqueue(
    database: Database,
    specs: Sequence[JobSpec],
    actor: str,
    *,
    form_key: Optional[str] = None,
    batch: Optional[Batch] = None,
    stored: Optional[Callable[[int], None]] = None,
    found: Optional[dict[str, str]] = None,
    held: Optional[dict[int, Holder]] = None,
) -> list[str]:
    """Store all jobs or none; return their ids in order. Of a job that is not stored because another one holds its
    unique key, this is the other one's id. Jobs may follow each other.

    Args:
        form_key: makes the call idempotent. A second call with this key stores nothing and returns the first one's ids.
        batch: the batch that all these jobs join; also without jobs.
        stored: called before the commit with the number of jobs stored so far.
        found: if given, a job whose id is taken is not stored again; its id and the state of the stored job go here.
        held: if given, the holder for each place in `specs` whose job was not stored goes here.

    Raises IdTaken if a stored job has the id of one, SpecError if two jobs in `specs` have the same, KeyTaken if a
    unique key is held. Each of the errors has the `place` of its job in `specs`.
    """
    now = clock.now()
    keys: list[str] = []
    if form_key is not None:
        keys = [f"{form_key}.{place}" if place else form_key for place in range(len(specs))]
    rows = [
        _row(spec, actor, now, keys[place] if keys else None, batch and batch.name) for place, spec in enumerate(specs)
    ]
    given = _given_ids(specs)
    order = dependencies.in_order(specs)

    def store() -> list[str]:
        with transaction_on(database) as transaction:
            before = _stored_before(transaction, keys)
            if before:
                return before
            taken = dict(transaction.select_where_in("SELECT id, state FROM jobs", "id", list(given)))
            if taken:
                relocated.refuse(transaction.execute, is_sqlite=transaction.is_sqlite)
                if found is None:
                    raise _id_taken(taken, given)
            jobs = [(rows[place], specs[place], place) for place in order if rows[place].id not in taken]
            if batch is not None and (jobs or not rows):
                batches.join(transaction, batch, actor)
            check_names(transaction, specs)
            instead = _store(transaction, jobs, actor, stored, may_return=True)
        if found is not None:
            found.update(taken)
        if held is not None:
            held.update(instead)
        return _ids(rows, instead)

    try:
        return store()
    except database.key_taken:
        # PostgreSQL only: another transaction stored one of these ids or keys after our check. Now the check finds it.
        return store()


def store(
    transaction: Transaction, specs: Sequence[JobSpec], actor: str, *, schedule: Optional[str] = None
) -> list[str]:
    """Store jobs in the caller's transaction; return their ids in order. `schedule`: the name of theirs, if any.

    An id that a spec has must be new. A channel that is gone hears nothing: the jobs run all the same. A job whose
    unique key is held is refused, also if it asks for the holder's id. Raises SpecError before anything is stored.
    """
    return store_fires(transaction, [(spec, actor, schedule) for spec in specs])


def store_fires(transaction: Transaction, jobs: Sequence[tuple[JobSpec, str, Optional[str]]]) -> list[str]:
    """The same for jobs of many schedules. Each job has its actor and its schedule. Audited actors must be the same."""
    now = clock.now()
    rows = [_row(spec, actor, now, schedule=schedule) for spec, actor, schedule in jobs]
    made = [(row, spec, place) for place, (row, (spec, _, _)) in enumerate(zip(rows, jobs))]
    return _ids(rows, _store(transaction, made, rows[0].created_by) if rows else {})


def _ids(rows: Sequence[_Row], instead: Mapping[int, Holder]) -> list[str]:
    return [instead[place].id if place in instead else row.id for place, row in enumerate(rows)]


def check_names(transaction: Transaction, specs: Sequence[JobSpec]) -> None:
    """Raises SpecError if jobs name channels or limits that do not exist."""
    channels = _channels(transaction, specs)
    errors = _unknown_limits(transaction, specs)
    errors += [
        FieldError("notify", f"no such channel: {name!r}. `manage.py channel list` shows all.", place)
        for place, spec in enumerate(specs)
        for name in spec.notify
        if name not in channels
    ]
    if errors:
        raise SpecError(errors)


def _unknown_limits(transaction: Transaction, specs: Sequence[JobSpec]) -> list[FieldError]:
    """Jobs that name no limits cost no statement."""
    keys = {key.name: None for spec in specs for key in map(limits.read_key, spec.limits)}
    if not keys:
        return []
    found = transaction.select_where_in(limits.READ, "key", list(keys))
    known = limits.Limits([*found, *transaction.execute(limits.READ_PATTERNS).fetchall()])
    return [
        FieldError("limits", limits.no_limit(name), place)
        for place, spec in enumerate(specs)
        for name in known.unknown(spec.limits)
    ]


def _channels(transaction: Transaction, specs: Iterable[JobSpec]) -> dict[str, int]:
    """The ids of the channels that jobs name. Jobs that name none cost no statement."""
    names = {name for spec in specs for name in spec.notify}
    return dict(transaction.select_where_in("SELECT name, id FROM channels", "name", sorted(names)))


def _watch(transaction: Transaction, jobs: Sequence[_Job]) -> None:
    """Store which channels hear of the end of these jobs."""
    watched = {row.id: (row, spec) for row, spec, _ in jobs if spec.notify}
    if not watched:
        return
    channels = _channels(transaction, [spec for _, spec in watched.values()])
    found = transaction.select_where_in("SELECT id, seq FROM jobs", "id", list(watched))
    watches = []
    for job_id, seq in found:
        row, spec = watched[job_id]
        watches += [(seq, channels[name], row.created_by) for name in spec.notify if name in channels]
    if watches:
        transaction.insert("job_watches", ("job_seq", "channel_id", "created_by"), watches)


def _store(
    transaction: Transaction,
    jobs: Sequence[_Job],
    actor: str,
    stored: Optional[Callable[[int], None]] = None,
    *,
    may_return: bool = False,
) -> dict[int, Holder]:
    """Store jobs, but not those whose unique key another job holds: these places and holders are returned.

    Raises KeyTaken if the rule of such a job is to refuse it, or to return the holder unless `may_return`.
    """
    wanted = [Wanted(row.id, place, spec.unique, spec.after) for row, spec, place in jobs if spec.unique is not None]
    if not wanted:
        _insert(transaction, jobs, actor, stored)
        return {}
    keys = {one.unique.key for one in wanted}
    several = len(keys) > 1 or any(one.unique.on_conflict == "replace" for one in wanted)
    for tries_left in reversed(range(TRIES)):
        held = unique_keys.holders(transaction.execute, keys, is_sqlite=transaction.is_sqlite, lock=several)
        answer = unique_keys.resolve(wanted, held, may_return=may_return)
        if answer.refused:
            raise _key_taken(answer.refused, {one.place: one.unique.key for one in wanted})
        try:
            with transaction.savepoint():
                unique_keys.cancel_replaced(transaction, answer.cancelled, actor)
                _insert(transaction, [job for job in jobs if job[2] not in answer.instead], actor, stored)
            break
        except (transaction.key_taken, unique_keys.Claimed):  # PostgreSQL: another transaction was faster
            if not tries_left:
                raise
    return answer.instead


def _key_taken(refused: Mapping[int, Holder], keys: Mapping[int, str]) -> KeyTaken:
    places = sorted(refused)
    errors = [FieldError("unique", f"{keys[place]!r} {refused[place].text}.", place) for place in places]
    return KeyTaken(errors, [refused[place] for place in places])


def _insert(
    transaction: Transaction, jobs: Sequence[_Job], actor: str, stored: Optional[Callable[[int], None]] = None
) -> None:
    rows, edges, runs_parent = _with_dependencies(transaction, jobs)
    new = _ensure_label_sets(transaction, rows)
    for start in range(0, len(rows), STORE_BATCH):
        transaction.insert("jobs", _Row._fields, rows[start : start + STORE_BATCH])
        if stored is not None:
            stored(min(start + STORE_BATCH, len(rows)))
    _audit(transaction, rows, actor)
    if new or runs_parent:  # last, because this locks the row until the commit
        transaction.execute(BUMP_REVISION)
    _watch(transaction, jobs)
    if edges:
        dependencies.store(transaction, edges)


def _with_dependencies(
    transaction: Transaction, jobs: Sequence[_Job]
) -> tuple[list[_Row], Sequence[dependencies.Edge], bool]:
    """The rows, with those that must wait blocked, and what they wait for. Parents come before their followers.

    Also, whether a worker runs one of the parents.
    """
    rows = [row for row, _, _ in jobs]
    following = [(row.id, spec.after, place) for row, spec, place in jobs if spec.after]
    if not following:
        return rows, (), False
    edges, runs_parent = dependencies.resolve(transaction, following, [row.id for row in rows])
    blocked = {edge.child_id for edge in edges if not edge.met}
    parents = {edge.parent_id for edge in edges if edge.parent_seq is None}
    return (
        [
            row._replace(
                state="blocked" if row.id in blocked else row.state, followed=1 if row.id in parents else row.followed
            )
            for row in rows
        ],
        edges,
        runs_parent,
    )


def _row(
    spec: JobSpec,
    actor: str,
    now: int,
    form_key: Optional[str] = None,
    batch: Optional[str] = None,
    schedule: Optional[str] = None,
) -> _Row:
    unique = spec.unique
    due = spec.run_at if spec.run_at is not None else now + clock.seconds(spec.delay or 0)
    return _Row(
        id=spec.id or new_job_id(),
        command=spec.command,
        queue=spec.queue,
        requires=labels.text_of(spec.requires) if spec.requires else "",
        priority=spec.priority,
        state="scheduled" if due > now else "pending",
        # A time in the past counts as now, so jobs of equal priority run in the order of their arrival.
        run_at=max(due, now),
        max_retries=spec.max_retries,
        timeout=spec.timeout,
        cwd=spec.cwd,
        env=json.dumps(dict(spec.env)) if spec.env else None,
        created_at=now,
        created_by=actor,
        changed_at=now,
        form_key=form_key,
        batch=batch,
        schedule=schedule,
        limits=limits.text_of(spec.limits) if spec.limits else "",
        unique_key=unique.key if unique else None,
        unique_while=unique.while_ if unique else None,
        unique_until=now + clock.seconds(unique.seconds) if unique and unique.seconds else None,
        retry=spec.retry,
    )


def _given_ids(specs: Sequence[JobSpec]) -> dict[str, int]:
    """The ids that callers chose, with their places in `specs`. Raises SpecError for duplicates."""
    places: dict[str, int] = {}
    for place, spec in enumerate(specs):
        if spec.id is None:
            continue
        if spec.id in places:
            message = f"jobs {places[spec.id] + 1} and {place + 1} have the same id {spec.id!r}. Ids must differ."
            raise SpecError([FieldError("id", message, place)])
        places[spec.id] = place
    return places


def _stored_before(transaction: Transaction, keys: Sequence[str]) -> list[str]:
    """The jobs that an earlier call with these keys stored, without those discarded since."""
    found = dict(transaction.select_where_in("SELECT form_key, id FROM jobs", "form_key", keys))
    return [found[key] for key in keys if key in found]


def _id_taken(states: Mapping[str, str], places: Mapping[str, int]) -> IdTaken:
    errors = [
        FieldError("id", f"{job_id!r} is already used by a {state} job. Choose another id.", places[job_id])
        for job_id, state in states.items()
    ]
    return IdTaken(sorted(errors, key=lambda error: error.place or 0))


def _ensure_label_sets(transaction: Transaction, rows: Sequence[_Row]) -> bool:
    """Add missing queues and label sets. Returns whether there were any, so that workers must read them again."""

    def missing(statement: str, named: Iterable[dict[str, str]]) -> list[dict[str, str]]:
        return [values for values in named if transaction.execute(statement, values).fetchone() is None]

    has_queue = _HAS_QUEUE if transaction.is_sqlite else f"{_HAS_QUEUE} FOR KEY SHARE"
    queues = missing(has_queue, [{"name": name} for name in sorted({row.queue for row in rows})])
    wanted = sorted({(row.queue, row.requires) for row in rows if row.requires})
    label_sets = missing(_HAS_LABEL_SET, [{"queue": queue, "requires": requires} for queue, requires in wanted])
    if not queues and not label_sets:
        return False
    for name in {label_set["queue"] for label_set in label_sets}:
        (number,) = transaction.execute("SELECT count(*) FROM lanes WHERE queue = :name", {"name": name}).fetchone()
        if number + sum(label_set["queue"] == name for label_set in label_sets) > MOST_LABEL_SETS:
            raise too_many_label_sets(name)
    transaction.execute_many(ADD_QUEUE, queues)
    transaction.execute_many(ADD_LABEL_SET, label_sets)
    return True


def too_many_label_sets(queue: str) -> SpecError:
    message = f"jobs of the queue {queue} already require {MOST_LABEL_SETS:,} different sets of labels."
    return SpecError([FieldError("requires", f"{message} Use one of those sets, or another queue.")])


def _audit(transaction: Transaction, rows: Sequence[_Row], actor: str) -> None:
    """One line for each job, or one line for a large call."""
    if not rows or not audit_lines.is_audited(actor):
        return
    if len(rows) > AUDITED_SINGLY:
        detail = {"after": {"jobs": len(rows), "first": rows[0].id, "last": rows[-1].id}}
        lines = audit_lines.lines("enqueue", ["jobs"], actor, details=[detail])
    else:
        details = [{"after": {**audit_lines.command_in_brief(row.command), **_changes(row)}} for row in rows]
        lines = audit_lines.lines("enqueue", [f"job:{row.id}" for row in rows], actor, details=details)
    transaction.execute_many(audit_lines.LINE, lines)


def _changes(row: _Row) -> dict[str, str]:
    changes = {"queue": row.queue, "requires": row.requires, "limits": row.limits, "state": row.state}
    return {key: value for key, value in changes.items() if value}
