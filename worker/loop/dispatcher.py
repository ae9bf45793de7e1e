"""What a worker has to say to the database, turn by turn: it settles what ended, claims what fits, notices what people
asked.

It never touches a process, and it waits for nothing but the database: `due_in()` says when the next turn is needed.
While the database is out of reach it keeps what it has to tell and tries again.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Collection
from typing import Callable, Optional

from webapp.core import backoff, labels
from webapp.core.labels import LabelSet
from webapp.core.relocated import Relocated
from webapp.core.settings import Settings
from webapp.core.transaction import Connection
from webapp.lib import clock
from worker.assignment import Assignment
from worker.attempt import AttemptResult, Claim
from worker.loop.claims import Claims, Turn
from worker.runner.output import Capture

log = logging.getLogger("queuectl.worker")

LIVE_AFTER = 1.0  # seconds that a command runs before its output is stored live, and between two such stores
CONTROL_LOOK = 0.5  # seconds between looks at what people asked, while all slots are busy, or while it drains
COMPLAIN_EVERY = 60.0  # seconds between two lines about the same trouble
LOOK_AGAIN = 0.05  # seconds
HELD_BY_OTHERS = 0.25  # seconds until what is due is looked at again, where another transaction holds its row
UNSURE = 60.0  # seconds in which a server may still finish a commit whose connection is lost
LONE_PATIENCE = 5.0  # seconds that a job which must run alone waits before a busy worker makes room for it


class Dispatcher:
    """See the module. `turn()` belongs to one thread; what stands under 'from any thread' does not."""

    def __init__(
        self,
        connection: Connection,
        worker_id: str,
        assignment: Assignment,
        slow_look: Callable[[], float],
        captures: Callable[[], list[tuple[Claim, Capture]]],
    ) -> None:
        """`slow_look`: seconds after which an idle worker looks for work that nobody told it of."""
        self.to_stop: deque[str] = deque()  # tokens of running jobs that people cancelled
        self.settings = Settings()
        self.stop_asked = False  # a person asked this worker to stop, or all that was to be drained is done
        self.expired = False  # others took this worker for dead
        self.outdated = False  # the database is a newer version's
        self.moved = False  # the queue is in another database
        self.completed = self.failed = 0
        self._connection = connection
        self._claims = Claims(connection, worker_id)
        self._slots = assignment.slots
        self._queues = assignment.queues
        self._labels = assignment.has
        self._drain = assignment.drain
        self._slow_look = slow_look
        self._captures = captures
        self._accepting = True
        self._quiet = False
        self._quiet_wanted = False
        self._stop_told = False  # that it takes no more stands in the database
        self._outbox: deque[AttemptResult] = deque()
        self._held: dict[str, Claim] = {}
        self._label_sets: list[LabelSet] = []  # whose jobs it may run, and those of them whose queue is not paused
        self._open_label_sets: list[LabelSet] = []
        self._revision = -1
        self._next_due: Optional[int] = None
        self._asked: set[str] = set()
        self._stored: dict[str, int] = {}  # token → how far its live output is stored
        self._live_at = 0.0
        self._lone_since: Optional[float] = None
        self._looks_again = False
        self._unsure = False  # a commit failed: the database may hold claims for us that we do not know
        self._sure_at = 0.0  # until when one whose answer was lost may still come to pass, on the monotonic clock
        self._look_at = 0.0  # when the next turn is due, whatever happens; on the monotonic clock
        self._trouble = 0.0  # seconds until the next try, while the database is out of reach
        self._complained = ("", 0.0)

    # --- from any thread ---

    def done(self, ended: AttemptResult) -> None:
        """To be settled."""
        self._outbox.append(ended)

    def leave(self, moved: Relocated) -> None:
        """The queue was moved, which it is only when nothing runs: whatever this worker still holds, it has lost."""
        if not self.moved:
            log.error("%s", moved)
        self.moved = self.expired = True

    def accept_no_more(self) -> None:
        """Settle what is held, then finish."""
        self._accepting = False

    def be_quiet(self) -> None:
        """Take no more until a person says otherwise."""
        self._quiet_wanted = True

    @property
    def finished(self) -> bool:
        """Nothing is held, nothing is to be told, and nothing more is taken."""
        return not (self._accepting or self._held or self._outbox)

    @property
    def holds(self) -> bool:
        return bool(self._held)

    @property
    def has_room(self) -> bool:
        """Whether it would take more jobs, if there were any."""
        return self._free(list(self._held.values())) > 0  # a copy: the worker's turn may change it meanwhile

    # --- turns ---

    def due_in(self) -> float:
        """Seconds until the next turn is due; 0: now."""
        if (self._outbox or self._quiet_wanted or self._has_stop_to_tell) and not self._trouble:
            return 0.0
        return max(0.0, self._look_at - time.monotonic())

    def turn(self) -> list[Claim]:
        """Do all that there is to do, in one transaction; return what this worker holds from now on and is to start."""
        try:
            claimed = self._glance() if self._has_nothing_to_tell else None
            if claimed is None:
                claimed = self._turn()
        except Relocated as moved:
            self.leave(moved)
            return []
        except self._connection.errors as error:
            self._trouble = min(1.0, self._trouble * 2 or 0.05)
            self._look_at = time.monotonic() + self._trouble
            self._unsure, self._revision = True, -1
            self._sure_at = time.monotonic() + UNSURE
            self._complain(str(error).strip())
            self._reconnect()
            return []
        self._trouble = 0.0
        # Something was there, and there is room: there may be more.
        self._look_at = 0.0 if claimed and self.has_room else time.monotonic() + self._rest()
        # More workers than the statement looks past may have been taking what stood at the heads of the lanes.
        self._looks_again = not (claimed or self._looks_again or self._connection.is_sqlite)
        if self._looks_again and len(self._open_label_sets) > 1 and self.has_room:
            self._look_at = min(self._look_at, time.monotonic() + LOOK_AGAIN)
        return claimed

    def _rest(self) -> float:
        idle = self.has_room
        slow_look = self._slow_look()
        rest = slow_look if idle and not self._drain else min(CONTROL_LOOK, slow_look)
        if idle and self._next_due is not None:
            rest = min(rest, max(0.0, (self._next_due - clock.now()) / clock.SECOND))
        return min(rest, LIVE_AFTER) if self._held else rest

    def _complain(self, trouble: str) -> None:
        """Once a minute for the same trouble: a disk may be full for a night."""
        before, at = self._complained
        now = time.monotonic()
        if trouble == before and now - at < COMPLAIN_EVERY:
            return
        self._complained = (trouble, now)
        log.warning("the database cannot be used, trying again: %s", trouble)

    def _reconnect(self) -> None:
        try:
            self._connection.reconnect()
        except self._connection.errors as error:
            log.debug("cannot connect to the database: %s", str(error).strip())

    def _free(self, holding: Collection[Claim]) -> int:
        """Slots that a claim may fill beside these."""
        leaving = self._quiet or self.stop_asked or self.expired or not self._accepting
        if leaving or any(claim.alone for claim in holding):
            return 0
        return max(0, self._slots - len(holding))

    @property
    def _has_stop_to_tell(self) -> bool:
        """Whether it takes no more, and nobody could know."""
        return not (self._accepting or self._stop_told or self.stop_asked)

    @property
    def _has_nothing_to_tell(self) -> bool:
        """Whether all that it wants to know is if there is a job; where to ask that alone costs less."""
        news = self._outbox or self._held or self._quiet_wanted or self._unsure or self._drain
        return not self._connection.is_sqlite and self.has_room and bool(self._open_label_sets) and not news

    def _glance(self) -> Optional[list[Claim]]:
        found = self._claims.claim_fast_path(self._open_label_sets, self._slots, self.settings, self._revision)
        if found is None:
            return None
        look, claimed = found
        self._next_due = look.next_due
        self._committed([], {}, claimed)
        return claimed

    def _turn(self) -> list[Claim]:
        ended = list(self._outbox)
        settled: list[tuple[AttemptResult, Optional[str]]] = []
        stored: dict[str, int] = {}
        claimed: list[Claim] = []
        recovered: list[Claim] = []
        forgotten: set[str] = set()
        drained = False
        quiet_wanted, stop_to_tell = self._quiet_wanted, self._has_stop_to_tell
        with self._claims as turn:
            look = turn.look()
            if look.revision != self._revision or quiet_wanted:
                self._notice(turn, quiet_wanted)
            if stop_to_tell:
                turn.be_stopping()
            if self._unsure:
                recorded = turn.held(self.settings)
                # Taken for dead, it holds none: what a keeper has seized stands under its name for a while.
                recovered = [claim for claim in recorded if claim.token not in self._held and not self.expired]
                forgotten = self._held.keys() - {claim.token for claim in recorded} - {one.claim.token for one in ended}
            retry_due = []
            for one in ended:
                wait = self._backoff(one)
                settled.append((one, turn.settle(one, self.settings, wait)))
                if settled[-1][1] == "failed":
                    retry_due.append(turn.now + clock.seconds(wait))
                if one.claim.token in self._stored or self._unsure:
                    turn.drop_output(one.claim)
            self._store_live(turn, stored)
            promoted = 0
            if look.next_due is not None and look.next_due <= turn.now:
                promoted = turn.promote()  # also while all slots are busy: what is due is pending, whoever may take it
            leaving = {one.claim.token for one in ended}
            holding = [claim for token, claim in self._held.items() if token not in leaving] + recovered
            free = self._free(holding)
            if free > 0:
                claimed = self._claim(turn, free, look.lone_waiting, holding=bool(holding))
                drained = self._drain and not claimed and not turn.anything_left(self._label_sets)
            if promoted or drained or any(state in {"failed", "pending"} for _, state in settled):
                turn.ring()
        soonest = turn.now
        if look.next_due is not None and look.next_due <= turn.now and not promoted:
            soonest += clock.seconds(HELD_BY_OTHERS)  # somebody holds what is due: no use in asking all the time
        due = [max(due, soonest) for due in (look.next_due, *retry_due) if due is not None]
        self._next_due = min(due, default=None)
        self._revision = look.revision
        self._unsure = time.monotonic() < self._sure_at
        # Only now: the transaction might have failed.
        self._quiet_wanted = self._quiet_wanted and not quiet_wanted
        self._stop_told = self._stop_told or stop_to_tell
        self._committed(settled, stored, recovered + claimed)
        if forgotten:
            # A server that crashed, or another in its place, may not know of them: others may run these jobs by now.
            log.warning("claims that the database does not know any more: %d; their commands are ended", len(forgotten))
            self.to_stop.extend(forgotten)
        if drained and not self._held:
            self.stop_asked = True
        return recovered + claimed

    def _claim(self, turn: Turn, free: int, lone_waiting: bool, holding: bool) -> list[Claim]:
        if not self._open_label_sets:
            return []
        if lone_waiting and not holding:
            self._lone_since = None
            alone = turn.claim(self._open_label_sets, 1, self.settings, lone=True)
            if alone:
                return alone
        elif lone_waiting and turn.lone_waiting(self._open_label_sets):
            self._lone_since = self._lone_since or time.monotonic()
            if time.monotonic() - self._lone_since > LONE_PATIENCE:
                return []
        else:
            self._lone_since = None
        return turn.claim(self._open_label_sets, free, self.settings)

    def _notice(self, turn: Turn, quiet_wanted: bool) -> None:
        """Read again what people may have changed."""
        self.settings = turn.settings()
        mine = [(label_set, is_open) for label_set, is_open in turn.label_sets() if self._may_run(label_set)]
        self._label_sets = [label_set for label_set, _ in mine]
        self._open_label_sets = [label_set for label_set, is_open in mine if is_open]
        if quiet_wanted:
            turn.be_quiet()
        self.outdated = turn.is_outdated()
        wish, state = turn.wish()
        self.expired = state != "running"
        self._quiet = wish == "quiet"
        self.stop_asked = self.stop_asked or wish == "stop" or self.outdated
        asked = turn.asked_to_stop()
        new, self._asked = asked - self._asked, asked
        self.to_stop.extend(new)

    def _may_run(self, label_set: LabelSet) -> bool:
        served = self._queues is None or label_set.queue in self._queues
        return served and labels.suffice(self._labels, label_set.requires)

    def _backoff(self, ended: AttemptResult) -> float:
        if ended.kind != "failed":
            return 0.0
        now = self.settings
        luck = random.random()  # noqa: S311  to spread retries, not to keep a secret
        return backoff.delay(ended.claim.failures + 1, now.backoff_base, now.backoff_max, now.backoff_jitter, luck)

    def _store_live(self, turn: Turn, stored: dict[str, int]) -> None:
        now = time.monotonic()
        if not self._held or now - self._live_at < LIVE_AFTER:
            return
        self._live_at = now
        for claim, capture in self._captures():
            before = self._stored.get(claim.token, 0)
            chunks = capture.since(before) if claim.token in self._held else []
            if chunks:
                if self._unsure:
                    turn.drop_output(claim, before)  # it may be there: a commit's answer was lost
                turn.store_output(claim, capture, chunks)
                stored[claim.token] = chunks[-1].position + len(chunks[-1].data)

    def _committed(
        self,
        settled: list[tuple[AttemptResult, Optional[str]]],
        stored: dict[str, int],
        claimed: list[Claim],
    ) -> None:
        """What was written stands: bring this side up to it."""
        self._stored.update(stored)
        for one, state in settled:
            self._outbox.popleft()
            self._held.pop(one.claim.token, None)
            self._stored.pop(one.claim.token, None)
            self.completed += state == "completed"
            self.failed += state in {"failed", "dead"}
            _tell(one, state)
        if claimed and not self._held:
            self._live_at = time.monotonic()
        self._held.update((claim.token, claim) for claim in claimed)
        # One that was recovered may have been cancelled meanwhile.
        self.to_stop.extend(claim.token for claim in claimed if claim.token in self._asked)


def _tell(ended: AttemptResult, state: Optional[str]) -> None:
    facts = {"job": ended.claim.id, "attempt": ended.claim.attempt, "state": state, "reason": ended.reason}
    if state is None:
        log.warning(
            "job %s: its claim was gone when attempt %d ended", ended.claim.id, ended.claim.attempt, extra=facts
        )
    elif state in {"failed", "dead"}:
        log.info(
            "job %s: attempt %d failed (%s), now %s",
            ended.claim.id,
            ended.claim.attempt,
            ended.error,
            state,
            extra=facts,
        )
    else:
        log.debug("job %s: %s", ended.claim.id, state, extra=facts)
