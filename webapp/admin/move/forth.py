"""A queue moves: each step, in order, from wherever an earlier run was ended. See the package for the whole."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Callable, Optional

from sqlalchemy import delete, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from webapp.admin.move import checks, copying, marks, quiet
from webapp.admin.move.examining import Report, examine
from webapp.admin.move.marks import COPYING, DONE, PREPARED, UNDONE, Move
from webapp.admin.move.sides import MoveError, Side, Teller
from webapp.core import relocated, schema
from webapp.db import audit, migrations
from webapp.db.engines import Base
from webapp.db.models import Job
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock


def move(
    target: Side,
    actor: str,
    teller: Teller,
    *,
    look_after: Callable[[], None],
    patience: Optional[float] = None,
) -> None:
    """Move the queue of this context to `target`, or go on with that where an earlier run was ended.

    `look_after` does what a keeper does, see quiet.py; `patience` are the seconds that running jobs may take. Raises
    MoveError, and DBAPIError where a database is out of reach; what is done by then stands, and can be gone on with.
    """
    source = Side.here()
    ours = marks.departure(source)
    if ours is None or ours.phase in (PREPARED, UNDONE):
        report = examine(target, teller)
        _refuse_what_does_not_fit(report)
        ours = _prepare(source, target)
        _mark_when_quiet(source, ours, actor, teller, look_after, patience)
    theirs = _counterpart(target, ours)
    if theirs.phase == COPYING:
        _copy(source, target, theirs, teller)
        _open(target, ours.id)
    if ours.phase != DONE:
        _close(source, target, ours.id)
    marks.take_off(target, ours.id)


def _refuse_what_does_not_fit(report: Report) -> None:
    if report.faults:
        raise MoveError(f"{report.target.address} cannot be used: {' '.join(report.faults)}")
    if report.misfits:
        more = f" and {len(report.misfits) - 1} more" if len(report.misfits) > 1 else ""
        raise MoveError(f"{report.misfits[0]}{more}. A dry run names them all: --dry-run.")


def _prepare(source: Side, target: Side) -> Move:
    """Write down that this move is meant, and make the target ready for it: empty tables that nobody can use."""
    new = Move(secrets.token_hex(8), "from", target.address, PREPARED, None, clock.now(), {})
    with source.writing() as connection:
        known = [move.id for move in marks.moves(connection, "from")]
        marks.begin(connection, new)
    if checks.standing(target, known) == checks.OURS:
        with target.writing() as connection:
            _drop_all(connection)
    with target.app.app_context():
        migrations.ensure_current(target.config)
    _make_unusable(source, target, new, known)
    return new


def _make_unusable(source: Side, target: Side, new: Move, known: Collection[str]) -> None:
    def work(connection: Connection) -> None:
        checks.standing_of(connection, target.address, known)  # somebody may have been quicker
        for name in checks.MADE_BY_ITSELF:
            connection.execute(delete(Base.metadata.tables[name]))
        marks.set_revision(connection, relocated.UNFINISHED)
        marks.begin(connection, Move(new.id, "to", source.address, COPYING, None, new.at, {}))

    marks.alone(target, work)


def _drop_all(connection: Connection) -> None:
    """All that migrations and an earlier move have made: tables, and the functions of their triggers."""
    functions = []
    if connection.dialect.name == "postgresql":
        statement = (
            "SELECT DISTINCT CAST(CAST(tgfoid AS regprocedure) AS text) FROM pg_trigger"
            " JOIN pg_class ON pg_class.oid = tgrelid"
            " WHERE NOT tgisinternal AND relnamespace = CAST(current_schema() AS regnamespace)"
            " AND relname = ANY(CAST(:names AS text[]))"
        )
        names = [table.name for table in copying.tables()]
        functions = list(connection.scalars(text(statement), {"names": names}))
    Base.metadata.drop_all(connection)
    marks.forget(connection)
    connection.execute(text("DROP TABLE alembic_version"))
    for function in functions:
        connection.exec_driver_sql(f"DROP FUNCTION {function}")


def _mark_when_quiet(
    source: Side,
    ours: Move,
    actor: str,
    teller: Teller,
    look_after: Callable[[], None],
    patience: Optional[float],
) -> None:
    workers = quiet.Quiet(actor, look_after, teller.say)
    try:
        while True:
            workers.settle(patience)
            workers.dismiss()
            if marks.alone(source, lambda connection: _mark(connection, ours, actor)):
                return
    except BaseException:
        workers.put_back()
        raise


def _mark(connection: Connection, ours: Move, actor: str) -> bool:
    """Refuse all writes from now on; but not while anything runs, which a worker may just have begun."""
    if connection.execute(select(Job.seq).where(in_state("processing")).limit(1)).first() is not None:
        return False
    quiet.end_rows(connection)
    with Session(connection) as session:
        audit.note(session, "move", ["database"], actor, details=[{"after": {"address": ours.address}}])
        session.flush()
    words = relocated.on_its_way(ours.address, clock.now())
    marks.note(connection, ours.id, phase=COPYING, words=words)
    marks.freeze(connection, words)
    return True


def _counterpart(target: Side, ours: Move) -> Move:
    """The target's own record of this move. Raises MoveError where the address has another database by now."""
    found = marks.arrival(target, ours.id)
    if found is not None and found.phase == UNDONE:
        raise MoveError("this move was being taken back. Complete that with --undo; then it can be begun anew.")
    if found is None:
        raise MoveError(
            f"{target.address} is not the copy that was begun at {ours.address}. Name that one, or let the queue go on "
            "here: --undo, with --force if the copy is lost."
        )
    return found


def _copy(source: Side, target: Side, theirs: Move, teller: Teller) -> None:
    counts = checks.counts(source)
    total = sum(counts.values())
    sums = copying.copy(source, target, theirs.id, theirs.progress, teller.stage("copy", total))
    with source.reading() as connection:
        counters = copying.counters(connection)
    with target.writing() as connection:
        copying.set_counters(connection, counters)
        if not target.is_sqlite:
            connection.execute(text("ANALYZE"))  # or the first claims are planned for empty tables
    tick = teller.stage("verify", total)
    wrong = []
    for table in copying.tables():
        wanted, found = sums[table.name], copying.sum_up(target, table, tick)
        if wanted != found or wanted.rows != counts[table.name]:
            wrong.append(f"{table.name} ({counts[table.name]:,} rows here, {found.rows:,} there)")
    with target.reading() as connection:
        if copying.counters(connection) != counters:
            wrong.append("the counters of ids")
    if wrong:
        raise MoveError(f"the copy is not equal: {', '.join(wrong)}. Take it back with --undo, then begin anew.")


def _open(target: Side, move_id: str) -> None:
    """From here on the target is the queue."""
    with target.writing() as connection:
        marks.note(connection, move_id, phase=DONE)
        marks.set_revision(connection, schema.HEAD)


def _close(source: Side, target: Side, move_id: str) -> None:
    """The source says so, too."""

    def say_moved(connection: Connection) -> None:
        words = relocated.moved(target.address, clock.now())
        marks.note(connection, move_id, phase=DONE, words=words)
        marks.freeze(connection, words)

    marks.alone(source, say_moved)
