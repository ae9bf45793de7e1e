"""A supervisor's row in the database, which its children keep for it: that it lives, and how many workers people want.

The supervisor itself holds no connection. Its keeper reads what people wish and passes it on; it starts more workers,
or no other in the place of one that leaves. Workers that are too many are asked to stop as a person would ask them,
through their rows: those that run least first, then the newest. So none is cut short, and a keeper's death loses
nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time

from sqlalchemy import Row, func, literal_column, select, text, update
from sqlalchemy.orm import Session

from webapp.db.engines import reading, writing
from webapp.db.models import Job, Supervisor, Worker
from webapp.jobs import worker_actions
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from worker import processes
from worker.assignment import Assignment
from worker.loop.heartbeat import ANNOUNCE, supervisor_row
from worker.messages import ELSEWHERE, END, TAKEN_OVER, Wanted

log = logging.getLogger("queuectl.keeper")

PATIENCE = 1.0  # seconds for the write lock; the next look tries again
BEAT = 20.0  # seconds between two signs of life on the row


class Scaling:
    """A keeper's part in it. `news` is the pipe to the supervisor."""

    def __init__(self, assignment: Assignment, news: int) -> None:
        self._assignment = assignment
        self._id = assignment.supervisor_id
        self._news = news
        self._beat_at = -BEAT
        self._over = False
        self._ended = False

    def tick(self) -> None:
        """Show that the supervisor lives; pass on what people want; ask workers that are too many to stop."""
        if self._assignment.drain:
            return
        with reading() as session:
            ended = session.scalar(select(Supervisor.stopped_at).where(Supervisor.id == self._id))
        if ended is None:  # else it only has to be told: its queue may take no writes any more
            self._beat()
        with reading() as session:
            row = session.get(Supervisor, self._id)
            if row is None:
                return  # it could not be written so far
            wanted = row.wanted if row.stopped_at is None else 0
            workers = self._workers(session)
            busy = _busy(session) if len(workers) > wanted else {}
        staying = [worker for worker in workers if worker.wish != "stop"]
        if len(staying) > wanted:
            # One that died and has its successor already is not too many.
            staying = [worker for worker in staying if processes.is_alive(worker.pid, worker.pid_started)]
            staying.sort(key=lambda worker: (busy.get(worker.id, 0), -worker.started_at))
            self._ask_to_stop([worker.id for worker in staying[: max(0, len(staying) - wanted)]])
        leaving = tuple(worker.pid for worker in workers if worker.wish == "stop")
        then = END if row.stopped_at is not None else ""
        self._tell(Wanted(wanted, leaving, then, len(workers)))

    def taken_over(self) -> None:
        """A newer version has the database: nothing more is written to it."""
        self._over = True
        self._tell(Wanted(0, (), TAKEN_OVER))

    def moved(self, words: str) -> None:
        """The queue is in another database: nothing more can be written to this one."""
        if not self._over:
            log.error("%s", words)
        self._over = True
        self._tell(Wanted(0, (), ELSEWHERE))

    def end(self) -> None:
        """The supervisor was told to stop, or is gone: no more workers come."""
        if self._over or self._ended:
            return
        with writing(PATIENCE) as session:
            ended = Supervisor.id == self._id, Supervisor.stopped_at.is_(None)
            session.execute(update(Supervisor).where(*ended).values(stopped_at=clock.now()))
        self._ended = True

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at < BEAT:
            return
        with writing(PATIENCE, wakes_workers=False) as session:
            session.execute(text(ANNOUNCE), supervisor_row(self._assignment))
            session.execute(update(Supervisor).where(Supervisor.id == self._id).values(seen_at=clock.now()))
        self._beat_at = time.monotonic()

    def _workers(self, session: Session) -> list[Row[tuple[str, int, float, str, int]]]:
        columns = (Worker.id, Worker.pid, Worker.pid_started, Worker.wish, Worker.started_at)
        running = Worker.state == literal_column("'running'")
        return list(session.execute(select(*columns).where(Worker.supervisor_id == self._id, running)))

    def _ask_to_stop(self, worker_ids: list[str]) -> None:
        with writing(PATIENCE) as session:
            asked = worker_actions.request_stop(session, worker_ids, "rule:scale")
        log.info("workers that are too many were asked to stop: %s", ", ".join(asked))

    def _tell(self, wanted: Wanted) -> None:
        with contextlib.suppress(OSError):  # it is gone, or stands still: it will hear the next line
            os.write(self._news, wanted.line())


def _busy(session: Session) -> dict[str, int]:
    """How many jobs each worker runs."""
    statement = select(Job.worker_id, func.count()).where(in_state("processing")).group_by(Job.worker_id)
    return {worker_id: number for worker_id, number in session.execute(statement).tuples() if worker_id}
