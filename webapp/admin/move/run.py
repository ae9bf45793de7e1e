"""Moves a queue: each step in order, from the point where an earlier run ended. The package docstring has the plan."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Callable, Optional

from sqlalchemy import delete, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from webapp.admin.move import checks, copying, marker
from webapp.admin.move.databases import MoveError, Reporter, Side
from webapp.admin.move.drain import Drain, end_worker_rows
from webapp.admin.move.marker import COPYING, DONE, PREPARED, UNDONE, Move
from webapp.core import relocated, schema
from webapp.db import audit, migrations
from webapp.db.engines import Base
from webapp.db.models import Job
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock


def move(
    target: Side,
    actor: str,
    reporter: Reporter,
    *,
    look_after: Callable[[], None],
    patience: Optional[float] = None,
) -> None:
    """Move the queue of the current application to `target`, or continue an earlier run.

    `look_after` recovers jobs of lost workers, see drain.py. Running jobs may take `patience` seconds. Raises
    MoveError, and DBAPIError if a database cannot be reached; the next run continues from there.
    """
    source = Side.here()
    ours = marker.outgoing_move(source)
    if ours is None or ours.phase in (PREPARED, UNDONE):
        report = checks.examine(target, reporter)
        if report.faults:
            raise MoveError(f"{target.address} cannot be used: {' '.join(report.faults)}")
        if report.misfits:
            more = f" and {len(report.misfits) - 1} more" if len(report.misfits) > 1 else ""
            raise MoveError(f"{report.misfits[0]}{more}. --dry-run lists all of them.")
        ours = _prepare(source, target)
        _drain_and_block(source, ours, actor, Drain(actor, look_after, reporter.say), patience)
    theirs = _target_record(target, ours)
    if theirs.phase == COPYING:
        _copy(source, target, theirs, reporter)
        with target.writing() as connection:  # from here on the target is the queue
            marker.update_move(connection, ours.id, phase=DONE)
            marker.set_revision(connection, schema.HEAD)
    if ours.phase != DONE:
        _close(source, target, ours.id)
    marker.unblock_target(target, ours.id)


def _prepare(source: Side, target: Side) -> Move:
    """Record the move in the source, and create the target's tables, empty and unusable."""
    new = Move(secrets.token_hex(8), "from", target.address, PREPARED, None, clock.now(), {})
    with source.writing() as connection:
        known = [move.id for move in marker.moves(connection, "from")]
        marker.add(connection, new)
    if checks.target_state(target, known) == checks.OURS:
        with target.writing() as connection:
            _drop_all(connection)
    with target.app.app_context():
        migrations.ensure_current(target.config)
    _make_unusable(source, target, new, known)
    return new


def _make_unusable(source: Side, target: Side, new: Move, known: Collection[str]) -> None:
    def work(connection: Connection) -> None:
        checks.state_of(connection, target.address, known)  # again, because another process may have used it
        for name in checks.FILLED_WHEN_NEW:
            connection.execute(delete(Base.metadata.tables[name]))
        marker.set_revision(connection, relocated.UNFINISHED)
        marker.add(connection, Move(new.id, "to", source.address, COPYING, None, new.at, {}))

    marker.run_exclusively(target, work)


def _drop_all(connection: Connection) -> None:
    """Drop all that migrations and an earlier move created: tables, and the functions of their triggers."""
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
    marker.drop_table(connection)
    connection.execute(text("DROP TABLE alembic_version"))
    for function in functions:
        connection.exec_driver_sql(f"DROP FUNCTION {function}")


def _drain_and_block(source: Side, ours: Move, actor: str, drain: Drain, patience: Optional[float]) -> None:
    try:
        while True:
            drain.wait_until_idle(patience)
            drain.stop_workers()
            if marker.run_exclusively(source, lambda connection: _block(connection, ours, actor)):
                return
    except BaseException:
        drain.resume_workers()
        raise


def _block(connection: Connection, ours: Move, actor: str) -> bool:
    """Refuse all writes from now on. False: a worker has just started a job."""
    if connection.execute(select(Job.seq).where(in_state("processing")).limit(1)).first() is not None:
        return False
    end_worker_rows(connection)
    with Session(connection) as session:
        audit.note(session, "move", ["database"], actor, details=[{"after": {"address": ours.address}}])
        session.flush()
    words = relocated.on_its_way(ours.address, clock.now())
    marker.update_move(connection, ours.id, phase=COPYING, words=words)
    marker.block_writes(connection, words)
    return True


def _target_record(target: Side, ours: Move) -> Move:
    """The target's record of this move. Raises MoveError if another database is at this address now."""
    found = marker.incoming_move(target, ours.id)
    if found is not None and found.phase == UNDONE:
        raise MoveError("this move is being undone. Complete the undo with --undo, then start a new move.")
    if found is None:
        raise MoveError(
            f"{target.address} is not the copy that was started at {ours.address}. Use that address, or take the move "
            "back with --undo (and --force if the copy is lost)."
        )
    return found


def _copy(source: Side, target: Side, theirs: Move, reporter: Reporter) -> None:
    counts = checks.counts(source)
    total = sum(counts.values())
    sums = copying.copy(source, target, theirs.id, theirs.progress, reporter.stage("copy", total))
    with source.reading() as connection:
        counters = copying.counters(connection)
    with target.writing() as connection:
        copying.set_counters(connection, counters)
        if not target.is_sqlite:
            connection.execute(text("ANALYZE"))  # without it the first claims are planned for empty tables
    tick = reporter.stage("verify", total)
    wrong = []
    for table in copying.tables():
        wanted, found = sums[table.name], copying.sum_up(target, table, tick)
        if wanted != found or wanted.rows != counts[table.name]:
            wrong.append(f"{table.name} ({counts[table.name]:,} rows here, {found.rows:,} there)")
    with target.reading() as connection:
        if copying.counters(connection) != counters:
            wrong.append("the counters of ids")
    if wrong:
        raise MoveError(f"the copy is not equal: {', '.join(wrong)}. Undo the move with --undo, then start again.")


def _close(source: Side, target: Side, move_id: str) -> None:
    """Record in the source that the move is done."""

    def work(connection: Connection) -> None:
        words = relocated.moved(target.address, clock.now())
        marker.update_move(connection, move_id, phase=DONE, words=words)
        marker.block_writes(connection, words)

    marker.run_exclusively(source, work)
