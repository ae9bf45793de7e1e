"""Takes a move back: the source is the queue again, unless something changed in the copy."""

from __future__ import annotations

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from webapp.admin.move import checks, copying, marker
from webapp.admin.move.databases import MoveError, Reporter, Side
from webapp.admin.move.marker import DONE, UNDONE, Move
from webapp.core import relocated
from webapp.db import audit
from webapp.lib import clock

# Tables that change when a console or worker merely starts. Their rows are useless at another address.
NOT_COMPARED = ("control", "sessions", "setup_links", "supervisors", "throttles", "workers")


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
        marker.update_move(connection, ours.id, phase=UNDONE, words=None)
        with Session(connection) as session:
            audit.note(session, "move_back", ["database"], actor, details=[{"before": {"address": ours.address}}])
            session.flush()

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
        differences = _differences(source, target, reporter)
        if differences:
            marker.unblock_target(target, ours.id)
            raise MoveError(
                f"the queue at {target.address} was used since: {', '.join(differences)}. To keep these changes, move "
                "the queue from there to an empty database. To give them up, use --force."
            )

    def close(connection: Connection) -> None:
        marker.unblock_writes(connection)
        marker.set_revision(connection, relocated.UNFINISHED)
        marker.update_move(connection, ours.id, phase=UNDONE)
        marker.block_writes(connection, words)

    marker.run_exclusively(target, close)


def _differences(source: Side, target: Side, reporter: Reporter) -> list[str]:
    tick = reporter.stage("compare", sum(checks.counts(source).values()) * 2)
    found = []
    for table in copying.tables():
        if table.name not in NOT_COMPARED:
            here, there = (copying.sum_up(side, table, tick) for side in (source, target))
            if here != there:
                found.append(f"{table.name} ({here.rows:,} rows here, {there.rows:,} there)")
    return found
