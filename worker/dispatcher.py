"""The thread of a worker that talks to the database: settles what ended, claims what fits, notices what people asked.

It never touches a process: claims go to the main thread through `inbox`, cancellations through `to_stop`, and what
ended comes back through `done()`. While the database is out of reach it keeps what it has to tell and tries again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Callable, Optional

from webapp import backoff, clock
from webapp.config import Config
from webapp.db import WorkerConnection
from webapp.settings import Settings
from worker.claims import Claim, Claims, Ended, Turn
from worker.listener import Listener
from worker.output import Capture
from worker.wakeup import Wakeup

log = logging.getLogger("queuectl.worker")

LIVE_AFTER = 1.0  # seconds that a command runs before its output is stored live, and between two such stores
CONTROL_LOOK = 0.5  # seconds between looks at what people asked, while all slots are busy
COMPLAIN_EVERY = 60.0  # seconds between two lines about the same trouble
LONE_PATIENCE = 5.0  # seconds that a job which must run alone waits before a busy worker makes room for it


class Dispatcher(threading.Thread):
    """See the module. `wake_main` is called after anything was put into `inbox` or `to_stop`, or at the end."""

    def __init__(
        self,
        config: Config,
        connection: Callable[[], WorkerConnection],
        worker_id: str,
        slots: int,
        queues: Optional[Sequence[str]],
        drain: bool,
        captures: Callable[[], list[tuple[Claim, Capture]]],
        wake_main: Callable[[], None],
    ) -> None:
        super().__init__(name="dispatcher", daemon=True)
        self.inbox: deque[Claim] = deque()
        self.to_stop: deque[str] = deque()  # tokens
        self.settings = Settings()
        self.stop_asked = False  # a person asked this worker to stop, or all that was to be drained is done
        self.expired = False  # others took this worker for dead
        self.outdated = False  # the database is a newer version's
        self.finished = False
        self.completed = self.failed = 0
        self._config = config
        self._connect = connection
        self._worker_id = worker_id
        self._slots = slots
        self._queues = queues
        self._drain = drain
        self._captures = captures
        self._wake_main = wake_main
        self._accepting = True
        self._quiet = False
        self._quiet_wanted = False
        self._outbox: deque[Ended] = deque()
        self._held: dict[str, Claim] = {}
        self._open_queues: list[str] = []
        self._revision = -1
        self._next_due: Optional[int] = None
        self._asked: set[str] = set()
        self._stored: dict[str, int] = {}  # token → how far its live output is stored
        self._live_at = 0.0
        self._lone_since: Optional[float] = None
        self._unsure = False  # a commit failed: the database may hold claims for us that we do not know
        self._complained = ("", 0.0)
        self._wakeup: Optional[Wakeup] = None
        self._listener = Listener(connection, worker_id, self._stop_these)

    # --- from the main thread ---

    def done(self, ended: Ended) -> None:
        self._outbox.append(ended)
        self.notify()

    def accept_no_more(self) -> None:
        """Settle what is held, then finish."""
        self._accepting = False
        self.notify()

    def be_quiet(self) -> None:
        """Take no more until a person says otherwise."""
        self._quiet_wanted = True
        self.notify()

    def notify(self) -> None:
        if self._wakeup is not None:
            self._wakeup.notify()

    # --- the thread ---

    def run(self) -> None:
        connection = self._connect()
        claims = Claims(connection, self._worker_id)
        self._wakeup = Wakeup(self._config)
        self._listener.start()
        trouble = 0.0
        try:
            while not self.expired and (self._accepting or self._held or self._outbox):
                try:
                    self._listener.turn_began = time.monotonic()
                    busy = self._turn(claims)
                    self._listener.turn_began = None
                    trouble = 0.0
                except connection.errors as error:
                    trouble = min(1.0, trouble * 2 or 0.05)
                    self._unsure, self._revision = True, -1
                    self._complain(str(error).strip())
                    time.sleep(trouble)
                    self._reconnect(connection)
                    continue
                if not busy:
                    self._wait(self._wakeup)
        except Exception:
            log.exception("the dispatcher failed")
        finally:
            self.finished = True
            self._listener.end()
            self._wake_main()
            connection.close()

    def _complain(self, trouble: str) -> None:
        """Once a minute for the same trouble: a disk may be full for a night."""
        before, at = self._complained
        now = time.monotonic()
        if trouble == before and now - at < COMPLAIN_EVERY:
            return
        self._complained = (trouble, now)
        log.warning("the database cannot be used, trying again: %s", trouble)

    def _reconnect(self, connection: WorkerConnection) -> None:
        try:
            connection.reconnect()
        except connection.errors as error:
            log.debug("cannot connect to the database: %s", str(error).strip())

    def _wait(self, wakeup: Wakeup) -> None:
        if self._outbox:
            return
        idle = self._free(self._held.values()) > 0
        timeout = wakeup.slow_look if idle else CONTROL_LOOK
        if idle and self._next_due is not None:
            timeout = min(timeout, max(0.0, (self._next_due - clock.now()) / clock.SECOND))
        if self._held:
            timeout = min(timeout, LIVE_AFTER)
        # A full worker does not care for commits; each of its neighbours' would wake it.
        wakeup.wait(timeout, for_commits=idle)

    def _free(self, holding: Collection[Claim]) -> int:
        """Slots that a claim may fill beside these."""
        leaving = self._quiet or self.stop_asked or self.expired or not self._accepting
        if leaving or any(claim.alone for claim in holding):
            return 0
        return max(0, self._slots - len(holding))

    def _turn(self, claims: Claims) -> bool:
        """One transaction. True when there may be more to do at once."""
        ended = list(self._outbox)
        settled: list[tuple[Ended, Optional[str]]] = []
        stored: dict[str, int] = {}
        claimed: list[Claim] = []
        recovered: list[Claim] = []
        drained = False
        quiet_wanted = self._quiet_wanted
        with claims as turn:
            look = turn.look()
            if look.revision != self._revision or quiet_wanted:
                self._notice(turn, quiet_wanted)
            if self._unsure:
                recovered = [claim for claim in turn.held(self.settings) if claim.token not in self._held]
            for one in ended:
                settled.append((one, turn.settle(one, self.settings, self._backoff(one))))
                if one.claim.token in self._stored:
                    turn.drop_output(one.claim)
            self._store_live(turn, stored)
            if look.next_due is not None and look.next_due <= turn.now:
                turn.promote()  # also while all slots are busy: what is due is pending, whoever may take it
            leaving = {one.claim.token for one in ended}
            holding = [claim for token, claim in self._held.items() if token not in leaving] + recovered
            free = self._free(holding)
            if free > 0:
                claimed = self._claim(turn, free, look.lone_waiting, holding=bool(holding))
                drained = self._drain and not claimed and not turn.anything_left(self._queues)
        self._next_due = look.next_due if look.next_due is None or look.next_due > turn.now else turn.now
        self._revision, self._unsure = look.revision, False
        self._quiet_wanted = self._quiet_wanted and not quiet_wanted  # only now: the transaction might have failed
        self._committed(settled, stored, recovered + claimed)
        if drained and not self._held:
            self.stop_asked = True
            self._wake_main()
        # Something was there, and there is room: there may be more.
        return bool(claimed) and self._free(self._held.values()) > 0

    def _claim(self, turn: Turn, free: int, lone_waiting: bool, holding: bool) -> list[Claim]:
        queues = [name for name in self._open_queues if self._queues is None or name in self._queues]
        if not queues:
            return []
        if lone_waiting and not holding:
            self._lone_since = None
            alone = turn.claim(queues, 1, self.settings, lone=True)
            if alone:
                return alone
        elif lone_waiting and turn.lone_waiting(queues):
            self._lone_since = self._lone_since or time.monotonic()
            if time.monotonic() - self._lone_since > LONE_PATIENCE:
                return []
        else:
            self._lone_since = None
        return turn.claim(queues, free, self.settings)

    def _notice(self, turn: Turn, quiet_wanted: bool) -> None:
        """Read again what people may have changed."""
        self.settings = turn.settings()
        self._open_queues = turn.open_queues()
        if quiet_wanted:
            turn.be_quiet()
        self.outdated = turn.is_outdated()
        wish, state = turn.wish()
        self.expired = state != "running"
        self._quiet = wish == "quiet"
        if (wish == "stop" or self.outdated) and not self.stop_asked:
            self.stop_asked = True
            self._wake_main()
        asked = turn.asked_to_stop()
        new, self._asked = asked - self._asked, asked
        if new:
            self._stop_these(new)

    def _stop_these(self, tokens: Iterable[str]) -> None:
        """Have the main thread end these, after it has looked into `inbox`."""
        self.to_stop.extend(tokens)
        self._wake_main()

    def _backoff(self, ended: Ended) -> float:
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
                turn.store_output(claim, capture, chunks)
                stored[claim.token] = chunks[-1].position + len(chunks[-1].data)

    def _committed(
        self,
        settled: list[tuple[Ended, Optional[str]]],
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
        for claim in claimed:
            self._held[claim.token] = claim
            self.inbox.append(claim)
        self._listener.need(bool(self._held))
        if claimed:
            # One that was recovered may have been cancelled meanwhile, which the main thread could not heed before.
            self._stop_these(claim.token for claim in claimed if claim.token in self._asked)


def _tell(ended: Ended, state: Optional[str]) -> None:
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
