"""A move is taken back: the source is the queue again, and the copy none, unless something was done there meanwhile."""

from __future__ import annotations

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from webapp.admin.move import checks, copying, marks
from webapp.admin.move.marks import DONE, UNDONE, Move
from webapp.admin.move.sides import MoveError, Side, Teller
from webapp.core import relocated
from webapp.db import audit
from webapp.lib import clock

# What differs when a console or a worker was merely started, and is of no use to anybody at the other address.
PASSING = ("control", "sessions", "setup_links", "supervisors", "throttles", "workers")


def undo(target: Side, actor: str, teller: Teller, *, force: bool = False) -> None:
    """Let the queue of this context be used here again, and its copy no more.

    Raises MoveError where something was done at the target since; with `force` that is given up, and so is a target
    that is out of reach, which then must never be used again.
    """
    source = Side.here()
    ours = marks.departure(source)
    if ours is None or ours.phase == UNDONE:
        raise MoveError(
            f"the queue at {source.address} was not moved. To take a move back that led here, name the old database in "
            "QUEUECTL_DATABASE_URL, and this one with --to."
        )
    try:
        _give_up(source, target, ours, teller, force)
    except (MoveError, DBAPIError) as error:
        if not force:
            raise
        teller.say(f"The other database is left as it is: {error}")

    def take_off(connection: Connection) -> None:
        marks.thaw(connection)
        marks.note(connection, ours.id, phase=UNDONE, words=None)
        with Session(connection) as session:
            audit.note(session, "move_back", ["database"], actor, details=[{"before": {"address": ours.address}}])
            session.flush()

    marks.alone(source, take_off)


def _give_up(source: Side, target: Side, ours: Move, teller: Teller, force: bool) -> None:
    """Have the target refuse all writes for good; raises MoveError, and changes nothing, where it was used."""
    found = marks.arrival(target, ours.id)
    if found is None:
        if target.address != ours.address and not force:
            raise MoveError(f"the queue was moved to {ours.address}. Name that: --to {ours.address}")
        return  # nothing of it has arrived there
    words = relocated.given_up(source.address, clock.now())

    def freeze(connection: Connection) -> None:
        marks.note(connection, ours.id, words=words)
        marks.freeze(connection, words)

    marks.alone(target, freeze)
    if found.phase == DONE and not force:
        differences = _differences(source, target, teller)
        if differences:
            marks.take_off(target, ours.id)
            raise MoveError(
                f"the queue at {target.address} was used since: {', '.join(differences)}. To come back with all of it, "
                "move it from there to an empty database; to give that up, say --force."
            )

    def close(connection: Connection) -> None:
        marks.thaw(connection)
        marks.set_revision(connection, relocated.UNFINISHED)
        marks.note(connection, ours.id, phase=UNDONE)
        marks.freeze(connection, words)

    marks.alone(target, close)


def _differences(source: Side, target: Side, teller: Teller) -> list[str]:
    tables = [table for table in copying.tables() if table.name not in PASSING]
    tick = teller.stage("compare", sum(checks.counts(source).values()) * 2)
    found = []
    for table in tables:
        here, there = (copying.sum_up(side, table, tick) for side in (source, target))
        if here != there:
            found.append(f"{table.name} ({here.rows:,} rows here, {there.rows:,} there)")
    return found
