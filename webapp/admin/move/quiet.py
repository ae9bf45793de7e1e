"""Brings the source to rest: its workers take no more, what runs comes to its end, then they leave.

Nothing is cut short and no attempt is lost. Until they are told to leave, all of it can be taken back.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Callable, Optional

from sqlalchemy import literal_column, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from webapp.admin.move.sides import MoveError
from webapp.core.locks import Busy
from webapp.db.engines import reading
from webapp.db.models import Control, Job, Worker
from webapp.jobs import operations
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock

LOOK = 0.3  # seconds between two looks at what runs
KEEPER_LOOK = 3.0  # seconds between two looks for workers that died
LEAVING = 20.0  # seconds that idle workers may take to end; one that does not is told by the mark


@dataclass(frozen=True)
class Running:
    """A job that runs, and where."""

    id: str
    started_at: int
    host: str

    def __str__(self) -> str:
        return f"{self.id} ({max(0, clock.now() - self.started_at) // clock.SECOND} s, on {self.host})"


def running() -> list[Running]:
    """What runs in the queue of this context, the longest first."""
    statement = (
        select(Job.id, Job.started_at, Worker.host)
        .outerjoin(Worker, Worker.id == Job.worker_id)
        .where(in_state("processing"))
        .order_by(Job.started_at)
    )
    with reading() as session:
        return [Running(id_, at or 0, host or "a machine unknown") for id_, at, host in session.execute(statement)]


def workers(*wishes: str) -> list[str]:
    """Ids of workers that run and were last told one of these, or anything."""
    statement = select(Worker.id).where(Worker.state == literal_column("'running'"))
    if wishes:
        statement = statement.where(Worker.requested_state.in_(wishes))
    with reading() as session:
        return list(session.scalars(statement))


class Quiet:
    """The workers of the queue of this context, while a move wants them quiet.

    `look_after` gives back what dead workers held, as a keeper does: there may be no keeper any more.
    """

    def __init__(self, actor: str, look_after: Callable[[], None], say: Callable[[str], None]) -> None:
        self._actor = actor
        self._look_after = look_after
        self._say = say
        self._quieted: set[str] = set()
        self._looked_at = -KEEPER_LOOK

    def settle(self, patience: Optional[float]) -> None:
        """Have the workers take no more, and wait until nothing runs; at most so many seconds, or as long as it takes.

        Raises MoveError when that was too short.
        """
        until = time.monotonic() + patience if patience is not None else None
        told: set[str] = set()
        while True:
            self._hush()
            found = running()
            if not found:
                return
            if until is not None and time.monotonic() > until:
                raise MoveError(f"still running: {', '.join(map(str, found))}. Give them longer: --wait SECONDS.")
            if not {one.id for one in found} <= told:
                told |= {one.id for one in found}
                self._say(
                    f"Waiting for what runs: {', '.join(map(str, found))}. Ctrl-C: do not move, let workers go on. "
                    "Ctrl-C there, in `up` or `worker start`: hand it back, to run again at the new address."
                )
            self._look()
            time.sleep(LOOK)

    def dismiss(self) -> None:
        """Have the workers and their supervisors end, and wait for that a while. It cannot be taken back."""
        self._quieted = set()
        if operations.wish_of_workers("stop", None, self._actor).moved:
            self._say("The workers end. Start them again once the queue has moved.")
        until = time.monotonic() + LEAVING
        while workers() and time.monotonic() < until:
            self._look()
            time.sleep(LOOK)

    def put_back(self) -> None:
        """Let those take jobs again that were quieted here."""
        if self._quieted:
            operations.wish_of_workers("run", sorted(self._quieted), self._actor)
            self._say("Nothing was moved; the workers take jobs again.")

    def _hush(self) -> None:
        """Once more each time: others may have been started."""
        loud = workers("run")
        if loud:
            self._quieted |= set(operations.wish_of_workers("quiet", loud, self._actor).moved)

    def _look(self) -> None:
        if time.monotonic() - self._looked_at < KEEPER_LOOK:
            return
        with suppress(Busy, DBAPIError, OSError):  # the next look sees the same
            self._look_after()
        self._looked_at = time.monotonic()


def end_rows(connection: Connection) -> None:
    """Write down that no worker runs any more, which stops those that have not heard, and is so at the new address."""
    still = Worker.state == literal_column("'running'")
    connection.execute(update(Worker).where(still).values(state="stopped", stopped_at=clock.now()))
    connection.execute(update(Control).values(revision=Control.revision + 1))
