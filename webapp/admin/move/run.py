"""Moves a queue, and takes a move back: each step in order, from the point where an earlier run ended.

The package docstring has the plan.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from typing import Callable, Optional

from sqlalchemy import delete, select, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from webapp.admin.move import checks, copying, marker
from webapp.admin.move.copying import Sum
from webapp.admin.move.databases import MoveError, Reporter, Side, Tick
from webapp.admin.move.drain import Drain
from webapp.admin.move.marker import COPYING, DONE, PREPARED, UNDONE, Move
from webapp.core import audit_lines
from webapp.core.statements import RULE_MOVE, SKIP_DUE_FIRES
from webapp.core.storage import relocated, schema
from webapp.db import migrations
from webapp.db.engines import Base
from webapp.db.models import Job, Worker
from webapp.jobs.lifecycle import in_state
from webapp.jobs.worker_actions import RUNNING
from webapp.lib import clock

# Tables that change when a console or worker merely starts. Their rows are useless at another address. `schedules`
# changes at the end of a move; a later change of them is in the audit trail, too. The same holds for `channels`, in
# which the dispatcher notes the sender. A message that was sent meanwhile is in `deliveries`.
NOT_COMPARED = (
    *("alerts", "channels", "control", "notices"),
    *("schedules", "sessions", "setup_links", "supervisors", "throttles", "workers"),
)


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
            connection.execute(text(SKIP_DUE_FIRES), {"now": clock.now(), "rule": RULE_MOVE})
    if ours.phase != DONE:
        _close(source, target, ours.id)
    marker.unblock_target(target, ours.id)


def _prepare(source: Side, target: Side) -> Move:
    """Record the move in the source, and create the target's tables, empty and unusable."""
    new = Move(secrets.token_hex(8), "from", target.address, PREPARED, None, clock.now())
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
        marker.add(connection, Move(new.id, "to", source.address, COPYING, None, new.at))

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
    marker.MOVES.drop(connection, checkfirst=True)
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
    # Also in the copy. The new revision stops workers that missed the request.
    connection.execute(update(Worker).where(RUNNING).values(state="stopped", stopped_at=clock.now()))
    connection.execute(text(schema.BUMP_REVISION))
    line = audit_lines.lines("move", ["database"], actor, details=[{"after": {"address": ours.address}}])
    connection.execute(text(audit_lines.LINE), line)
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
    wanted = {name: Sum(rows, sums[name].value) for name, rows in counts.items()}
    wrong = _differences(wanted, target, reporter.stage("verify", total))
    with target.reading() as connection:
        if copying.counters(connection) != counters:
            wrong.append("the counters of ids")
    if wrong:
        raise MoveError(f"the copy is not equal: {', '.join(wrong)}. Undo the move with --undo, then start again.")


def _differences(wanted: Mapping[str, Sum], target: Side, tick: Tick) -> list[str]:
    """The tables of the target that do not have these sums, with their number of rows."""
    found = {name: copying.sum_up(target, Base.metadata.tables[name], tick) for name in wanted}
    return [
        f"{name} ({one.rows:,} rows here, {found[name].rows:,} there)"
        for name, one in wanted.items()
        if one != found[name]
    ]


def _close(source: Side, target: Side, move_id: str) -> None:
    """Record in the source that the move is done."""

    def work(connection: Connection) -> None:
        words = relocated.moved(target.address, clock.now())
        marker.update_move(connection, move_id, phase=DONE, words=words)
        marker.block_writes(connection, words)

    marker.run_exclusively(source, work)


# --- the way back ----------------------------------------------------------------------------------------------------


def undo(target: Side, actor: str, reporter: Reporter, *, force: bool = False) -> None:
    """Let the queue of the current application be used again, and its copy no more.

    Raises MoveError if the copy has changed. With `force` these changes are given up. A copy that cannot be reached is
    left as it is then, and must never be used again.
    """
    source = Side.here()
    ours = marker.outgoing_move(source)
    if ours is None or ours.phase == UNDONE:
        raise MoveError(
            f"the queue at {source.address} was not moved. To undo a move to this database, set "
            "QUEUECTL_DATABASE_URL to the old database, and --to to this one."
        )
    try:
        _give_up_copy(source, target, ours, reporter, force)
    except (MoveError, DBAPIError) as error:
        if not force:
            raise
        reporter.say(f"The other database is left unchanged: {error}")

    def unblock(connection: Connection) -> None:
        marker.unblock_writes(connection)
        connection.execute(text(SKIP_DUE_FIRES), {"now": clock.now(), "rule": RULE_MOVE})
        marker.update_move(connection, ours.id, phase=UNDONE, words=None)
        line = audit_lines.lines("move_back", ["database"], actor, details=[{"before": {"address": ours.address}}])
        connection.execute(text(audit_lines.LINE), line)

    marker.run_exclusively(source, unblock)


def _give_up_copy(source: Side, target: Side, ours: Move, reporter: Reporter, force: bool) -> None:
    """Block all writes of the target for good. Raises MoveError, and changes nothing, if it was used."""
    found = marker.incoming_move(target, ours.id)
    if found is None:
        if target.address != ours.address and not force:
            raise MoveError(f"the queue was moved to {ours.address}. Use --to {ours.address}")
        return  # the move never reached the target
    words = relocated.given_up(source.address, clock.now())

    def block(connection: Connection) -> None:
        marker.update_move(connection, ours.id, words=words)
        marker.block_writes(connection, words)

    marker.run_exclusively(target, block)
    if found.phase == DONE and not force:
        tick = reporter.stage("compare", sum(checks.counts(source).values()) * 2)
        compared = [table for table in copying.tables() if table.name not in NOT_COMPARED]
        wanted = {table.name: copying.sum_up(source, table, tick) for table in compared}
        differences = _differences(wanted, target, tick)
        if differences:
            marker.unblock_target(target, ours.id)
            raise MoveError(
                f"the queue at {target.address} was used since: {', '.join(differences)}. To keep these changes, move "
                "the queue from there to an empty database. To discard them, use --force."
            )

    def close(connection: Connection) -> None:
        marker.unblock_writes(connection)
        marker.set_revision(connection, relocated.UNFINISHED)
        marker.update_move(connection, ours.id, phase=UNDONE)
        marker.block_writes(connection, words)

    marker.run_exclusively(target, close)
