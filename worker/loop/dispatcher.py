"""A worker's side of the database: it settles results, claims jobs, and reads what people requested.

It never touches a process and waits for nothing but the database; `due_in()` says when the next turn is needed. While
the database is unavailable it keeps the results and tries again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import Callable, Optional

from webapp.core import statements
from webapp.core.labels import LabelSet
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.core.storage.relocated import Relocated
from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from worker import shortage
from worker.attempt import AttemptResult, Claim
from worker.loop.capacity import Capacity
from worker.loop.claims import Claims, QueueState, Turn
from worker.loop.selection import Selection
from worker.loop.settling import Reports, judge, log_failure
from worker.messages import Assignment
from worker.runner.output import Capture

log = logging.getLogger("queuectl.worker")

LIVE_OUTPUT_EVERY = 1.0  # seconds between two stores of live output; also before the first
CHECK_REQUESTS_EVERY = 0.5  # seconds between checks for requests while all slots are busy, or while it drains
COMPLAIN_EVERY = 60.0  # seconds between two log lines about the same error
CLAIM_AGAIN_AFTER = 0.05  # seconds until the next claim, if other workers may have skipped jobs
HELD_BY_OTHERS = 0.25  # seconds until the next try, if another transaction holds a due job's row
UNSURE = 60.0  # seconds in which a server may still finish a commit whose connection is lost


class Dispatcher:
    """See the module. One thread calls `turn()`; any thread may use what stands under 'from any thread'."""

    def __init__(
        self,
        connection: Connection,
        worker_id: str,
        assignment: Assignment,
        check_every: Callable[[], float],
        captures: Callable[[], list[tuple[Claim, Capture]]],
    ) -> None:
        """`check_every`: seconds after which an idle worker checks for work without a signal."""
        self.to_stop: deque[str] = deque()  # tokens of running jobs that people cancelled
        self.settings = Settings()
        self.stop_requested = False  # by a person, or because everything is drained
        self.expired = False  # this worker was marked lost
        self.outdated = False  # a newer version uses the database
        self.moved = False  # the queue is in another database
        self.completed = self.failed = 0
        self._connection = connection
        self._worker_id = worker_id
        self._claims = Claims(connection, worker_id)
        self.capacity = Capacity(
            assignment.slots,
            lambda running: shortage.processes_allow(assignment.slots, assignment.count, running)[0],
        )
        self._selection = Selection(assignment)
        self._drain = assignment.drain
        self._check_every = check_every
        self._captures = captures
        self._accepting = True
        self._quiet = False
        self._signalled_state = ""  # REQUEST_QUIET or REQUEST_RUN: requested by a signal, not yet recorded
        self._short = ""  # a shortage that is not yet recorded
        self._stop_recorded = False
        self._outbox: deque[AttemptResult] = deque()
        self._held: dict[str, Claim] = {}
        self._revision = -1
        self._next_due: Optional[int] = None
        self._cancelled: set[str] = set()
        self._followed: set[str] = set()  # tokens of jobs that got a follower while they ran
        self._stored: dict[str, int] = {}  # token → position up to which its live output is stored
        self._reports = Reports()
        self._retry_rules: dict[str, str] = {}  # of queues
        self._live_at = 0.0
        self._crowded = False  # more jobs were pending than a claim from all queues reads
        self._claims_again = False
        self._unsure = False  # a commit failed: the database may hold claims that this worker does not know
        self._sure_at = 0.0  # until when a commit without an answer may still succeed, on the monotonic clock
        self._turn_at = 0.0  # when the next turn is due in any case, on the monotonic clock
        self._retry_pause = 0.0  # seconds until the next try, while the database is unavailable
        self._complained = ("", 0.0)

    # --- from any thread ---

    def done(self, ended: AttemptResult) -> None:
        """Settle this result at the next turn."""
        self._outbox.append(ended)

    def leave(self, moved: Relocated) -> None:
        """Give up: a queue is moved only when nothing runs, so this worker has lost its claims."""
        if not self.moved:
            log.error("%s", moved)
        self.moved = self.expired = True

    def accept_no_more(self) -> None:
        """Settle the held jobs, then finish."""
        self._accepting = False

    def be_quiet(self) -> None:
        """Claim no more jobs until a person or a signal resumes this worker."""
        self._signalled_state = statements.REQUEST_QUIET

    def resume(self) -> None:
        """Claim jobs again after `be_quiet()`."""
        self._signalled_state = statements.REQUEST_RUN

    @property
    def finished(self) -> bool:
        """Nothing is held or unsettled, and no more jobs are claimed."""
        return not (self._accepting or self._held or self._outbox)

    @property
    def holds(self) -> bool:
        return bool(self._held)

    @property
    def has_room(self) -> bool:
        """Whether it can claim more jobs."""
        return self._free(self._held.values()) > 0

    # --- turns ---

    def due_in(self) -> float:
        """Seconds until the next turn is due; 0: now."""
        if (self._outbox or self._signalled_state or self._short or self._has_stop_to_record) and not self._retry_pause:
            return 0.0
        return max(0.0, self._turn_at - time.monotonic())

    def give_back(self, claims: Sequence[Claim], reason: str, running: int) -> None:
        """Undo these claims at the next turn, and claim fewer jobs for a while.

        The machine has no room for their commands beside the `running` ones.
        """
        now = clock.now()
        for claim in claims:
            self.done(AttemptResult(claim, "unclaimed", "short", now, now, error=f"could not be started yet: {reason}"))
        if self.capacity.shrink(running, reason):
            self.tell_shortage()

    def tell_shortage(self) -> None:
        """Log that this worker runs fewer jobs than it has slots, and record it at the next turn."""
        self._short = self.capacity.describe()
        log.warning("worker %s %s", self._worker_id, self._short)

    def turn(self) -> list[Claim]:
        """Do everything in one transaction; return the new claims, which the caller starts."""
        if self.capacity.grow(len(self._held)):
            log.info("worker %s runs %d jobs at a time again", self._worker_id, self.capacity.slots)
        try:
            claimed = self._claim_fast_path() if self._only_claims else None
            if claimed is None:
                claimed = self._turn()
        except Relocated as moved:
            self.leave(moved)
            return []
        except self._connection.errors as error:
            self._retry_pause = min(1.0, self._retry_pause * 2 or 0.05)
            self._turn_at = time.monotonic() + self._retry_pause
            self._unsure, self._revision = True, -1
            self._reports.forget()
            self._sure_at = time.monotonic() + UNSURE
            self._complain(str(error).strip())
            with contextlib.suppress(*self._connection.errors):
                self._connection.reconnect()
            return []
        self._retry_pause = 0.0
        has_room = self.has_room
        # It found jobs and still has room: there may be more.
        self._turn_at = 0.0 if claimed and has_room else time.monotonic() + self._rest(idle=has_room)
        # More workers than the statement allows for may have been claiming the first jobs, of all or of a label set.
        self._claims_again = not (claimed or self._claims_again or self._connection.is_sqlite)
        may_be_skipped = self._crowded or self._selection.may_be_skipped
        if self._claims_again and may_be_skipped and has_room:
            self._turn_at = min(self._turn_at, time.monotonic() + CLAIM_AGAIN_AFTER)
        if self._selection.look_again_at is not None and has_room:
            self._turn_at = min(self._turn_at, self._selection.look_again_at)
        return claimed

    def _rest(self, *, idle: bool) -> float:
        check_every = self._check_every()
        rest = check_every if idle and not self._drain else min(CHECK_REQUESTS_EVERY, check_every)
        if idle and self._next_due is not None:
            rest = min(rest, max(0.0, (self._next_due - clock.now()) / clock.SECOND))
        return min(rest, LIVE_OUTPUT_EVERY) if self._held else rest

    def _complain(self, error: str) -> None:
        """Log the same error once a minute: a disk may be full for a night."""
        before, at = self._complained
        now = time.monotonic()
        if error != before or now - at >= COMPLAIN_EVERY:
            self._complained = (error, now)
            log.warning("the database cannot be used, trying again: %s", error)

    def _free(self, holding: Collection[Claim]) -> int:
        """The number of free slots beside these claims. One message is sent beside the slots."""
        free = self.capacity.slots - len(holding)
        if free < 0 or self._takes_nothing:
            return 0
        messages = 0
        for claim in list(holding):  # a copy, because the worker's turn may change it meanwhile
            if claim.run_exclusively:
                return 0
            messages += claim.queue == SYSTEM_QUEUE
        return free + min(messages, 1)

    @property
    def _takes_nothing(self) -> bool:
        return self._quiet or self.stop_requested or self.expired or not self._accepting

    def _may_send(self, holding: Collection[Claim]) -> bool:
        """Whether to look for a message although no slot is free: hung commands must not hold up the news of them."""
        beside = not any(claim.queue == SYSTEM_QUEUE or claim.run_exclusively for claim in holding)
        return beside and self.capacity.slots > 0 and not self._takes_nothing

    @property
    def _has_stop_to_record(self) -> bool:
        return not (self._accepting or self._stop_recorded or self.stop_requested)

    @property
    def _only_claims(self) -> bool:
        """Whether a turn would only claim, on PostgreSQL, where a claim alone costs less."""
        if self._connection.is_sqlite:
            return False
        more = self._outbox or self._held or self._signalled_state or self._short or self._unsure or self._drain
        return self.has_room and self._selection.has_fast_path and not more

    def _claim_fast_path(self) -> Optional[list[Claim]]:
        found = self._selection.claim_fast_path(self._claims, self.capacity.slots, self.settings, self._revision)
        if found is None:
            return None
        state, claimed = found
        self._next_due, self._crowded = state.next_due, state.crowded
        self._committed([], {}, claimed)
        return claimed

    def _turn(self) -> list[Claim]:
        ended = list(self._outbox)
        stored: dict[str, int] = {}
        claimed: list[Claim] = []
        recovered: list[Claim] = []
        forgotten: set[str] = set()
        drained = False
        signalled_state, stop_to_record, short = self._signalled_state, self._has_stop_to_record, self._short
        leaving = {one.claim.token for one in ended}
        with self._claims as turn:
            state = turn.read_state()
            if signalled_state:
                turn.request_state(signalled_state)
            if state.revision != self._revision or signalled_state:
                self._read_changes(turn)
            if short:
                turn.record_shortage(self.capacity.shown, short)
            if stop_to_record:
                turn.request_state(statements.REQUEST_STOP)
            if self._unsure:
                recorded = turn.held(self.settings)
                # Once marked lost, it holds none: claims that maintenance took over keep its name for a while.
                recovered = [claim for claim in recorded if claim.token not in self._held and not self.expired]
                forgotten = self._held.keys() - {claim.token for claim in recorded} - leaving
            settled, due = self._settle(turn, ended)
            released = self._selection.released([one.claim for one in ended], state)
            self._store_live(turn, stored)
            state, promoted = self._promote(turn, state, ended)
            holding = [claim for token, claim in self._held.items() if token not in leaving] + recovered
            free = self._free(holding)
            if free > 0:
                claimed = self._selection.claim(turn, free, state, self.settings, holding=bool(holding))
                # What is due is decided in bounded steps: the last one may unblock a job that this worker runs.
                is_due = state.next_due is not None and state.next_due <= turn.now
                drained = self._drain and not (claimed or is_due) and self._selection.is_drained(turn)
                released = released and self._selection.leaves_some
            elif self._may_send(holding):
                claimed = turn.claim([LabelSet(SYSTEM_QUEUE)], 1, self.settings)
            if promoted or drained or released or any(entered in {"failed", "pending"} for _, entered in settled):
                turn.wake_workers()
        if free > 0 and self._selection.opens_at is not None:
            due.append(self._selection.opens_at)
        self._next_due = _next_due(state, turn.now, due, promoted)
        self._revision, self._crowded = state.revision, state.crowded
        self._unsure = time.monotonic() < self._sure_at
        # Only after the commit, because the transaction might have failed.
        if self._signalled_state == signalled_state:
            self._signalled_state = ""
        if self._short == short:
            self._short = ""
        self._stop_recorded = self._stop_recorded or stop_to_record
        self._committed(settled, stored, recovered + claimed)
        if forgotten:
            # After a server's crash or failover, other workers may run these jobs now.
            log.warning("%d claims are no longer in the database; ending their commands", len(forgotten))
            self.to_stop.extend(forgotten)
        if drained and not self._held:
            self.stop_requested = True
        return recovered + claimed

    def _settle(
        self, turn: Turn, ended: Sequence[AttemptResult]
    ) -> tuple[list[tuple[AttemptResult, Optional[str]]], list[int]]:
        """The results as the retry rules see them, with their jobs' new states; and when the retries are due."""
        settled: list[tuple[AttemptResult, Optional[str]]] = []
        due: list[int] = []
        # By sequence, as a submit locks the parents of its jobs: in another order, the two could wait for each other.
        for result in sorted(ended, key=lambda one: one.claim.seq):
            one, wait = judge(result, self.settings, self._retry_rules)
            if one.report is not None:
                self._reports.store_last(turn, one.claim, one.report)
            state = turn.settle(one, self.settings, wait)
            settled.append((one, state))
            if state == "failed":
                due.append(turn.now + clock.seconds(wait or 0))
            if one.claim.token in self._stored or self._unsure:
                turn.drop_output(one.claim)
        return settled, due

    def _promote(self, turn: Turn, state: QueueState, ended: list[AttemptResult]) -> tuple[QueueState, int]:
        """Promote what is due, also while all slots are busy: another worker may run the jobs."""
        if any(one.claim.followed or one.claim.token in self._followed for one in ended):
            state = state._replace(next_due=statements.ENDED_PARENT)
        is_due = state.next_due is not None and state.next_due <= turn.now
        return state, turn.promote(state.next_due) if is_due else 0

    def _read_changes(self, turn: Turn) -> None:
        """Read everything that people may have changed."""
        self.settings = turn.settings()
        self._retry_rules = turn.retry_rules()
        self._selection.read_changes(turn)
        self.outdated = turn.is_outdated()
        requested, state = turn.requested_state()
        self.expired = state != "running"
        self._quiet = requested == "quiet"
        self.stop_requested = self.stop_requested or requested == "stop" or self.outdated
        before, self._cancelled = self._cancelled, turn.tokens(statements.CANCELLED)
        self.to_stop.extend(self._cancelled - before)
        self._followed = turn.tokens(statements.FOLLOWED)

    def _store_live(self, turn: Turn, stored: dict[str, int]) -> None:
        now = time.monotonic()
        if not self._held or now - self._live_at < LIVE_OUTPUT_EVERY:
            return
        self._live_at = now
        for claim, capture in self._captures():
            before = self._stored.get(claim.token, 0)
            chunks = capture.since(before) if claim.token in self._held else []
            if chunks:
                if self._unsure:
                    turn.drop_output(claim, before)  # a commit without an answer may have stored it
                turn.store_output(claim, capture, chunks)
                stored[claim.token] = chunks[-1].position + len(chunks[-1].data)
            if claim.token in self._held:
                self._reports.store(turn, claim, capture.report)

    def _committed(
        self,
        settled: list[tuple[AttemptResult, Optional[str]]],
        stored: dict[str, int],
        claimed: list[Claim],
    ) -> None:
        """Update this object after a commit."""
        self._stored.update(stored)
        for one, state in settled:
            self._outbox.popleft()
            self._held.pop(one.claim.token, None)
            self._stored.pop(one.claim.token, None)
            self.completed += state == "completed"
            self.failed += state in {"failed", "dead"}
            if state in {None, "failed", "dead"}:
                log_failure(one, state)
        if claimed and not self._held:
            self._live_at = time.monotonic()
        for claim in claimed:
            self._held[claim.token] = claim
            if claim.token in self._cancelled:  # a recovered job may have been cancelled meanwhile
                self.to_stop.append(claim.token)


def _next_due(state: QueueState, now: int, retries: list[int], promoted: int) -> Optional[int]:
    soonest = now
    if state.next_due is not None and state.next_due <= now and not promoted:
        soonest += clock.seconds(HELD_BY_OTHERS)
    return min((max(due, soonest) for due in (state.next_due, *retries) if due is not None), default=None)
