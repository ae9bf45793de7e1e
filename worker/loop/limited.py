"""Claims of limited jobs: those that name keys, and those of queues that have a limit.

One worker at a time chooses among them, by SQLite's write lock or by a lock of PostgreSQL. It counts what runs in the
table of jobs, so a claim that is lost, released or settled frees its slot by itself. Starts of keys with a rate are
recorded in the transaction of the claim.

It goes through the waiting jobs in claim order. A job that must wait for a slot closes the keys that are full, and
reserves a slot in its other keys. So jobs with the same key start in order, and a job with several keys does not wait
for ever. A job that only waits for a rate reserves nothing.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Callable, NamedTuple, Optional

from webapp.core import labels
from webapp.core.flow.limits import Key, Limit, Limits
from webapp.core.labels import LabelSet
from webapp.core.settings import Settings
from webapp.core.statements import (
    ADD_START,
    DROP_STARTS,
    LIMITED_FIRST,
    LIMITED_LANES,
    STARTS,
    TAKING_WORKERS,
    TRY_LIMITED_LOCK,
)
from worker.attempt import Claim
from worker.loop.claims import Turn
from worker.loop.settling import Row

HEAD = 64  # jobs to read in claim order; if none of them may start, also the first job of each lane
MOST_LANES = 2000  # to read at a time; the next choice goes on behind them
AGAIN_AFTER = 0.05  # seconds until a worker looks again for jobs that had to wait; doubles while it finds none
MOST_IN_VAIN = 3  # doublings, and one


class Candidate(NamedTuple):
    """A waiting job that has keys. Its fields are the columns of the statements."""

    seq: int
    priority: int
    run_at: int
    losses: int
    limits: str
    queue: str
    requires: str

    @property
    def order(self) -> tuple[int, int, int]:
        """The order in which jobs are claimed."""
        return -self.priority, self.run_at, self.seq


class Starts:
    """The starts of a key with a rate. One more may happen if the start `rate` numbers before has left the window."""

    def __init__(self, limit: Limit, rows: Sequence[Row], now: int) -> None:
        """`rows`: those of STARTS."""
        self._rate, self._per, self._now = limit.rate or 0, limit.per or 0, now
        self.last = rows[0][2] if rows else 0
        # A start far in the future was stamped before the machine's clock was set back.
        self._at = {number: at for number, at, _ in rows if at <= now + self._per}
        self.admitted = 0

    def opens_at(self, reserved: int) -> int:
        """From when one more start may happen beside those that were admitted and reserved."""
        number = self.last + self.admitted + reserved + 1 - self._rate
        started_at = self._now if number > self.last else self._at.get(number)
        return 0 if started_at is None else started_at + self._per


class Verdict(NamedTuple):
    """What a job waits for: the time when its rates allow a start, and its keys without a free slot."""

    keys: Sequence[tuple[Key, Limit]]
    opens_at: int
    full: Collection[str]
    fits: bool


class Admission:
    """Which of the waiting jobs may start now. Jobs are judged in claim order."""

    def __init__(
        self,
        limits: Limits,
        running: Iterable[tuple[str, str, int]],
        now: int,
        read_starts: Callable[[str, Limit], Starts],
    ) -> None:
        """`running`: queue, keys and number of running jobs."""
        self.opens_at: Optional[int] = None  # when a job may start that only waits for a rate
        self._limits, self._now, self._read_starts = limits, now, read_starts
        self._shared: Counter[str] = Counter()
        self._exclusive: Counter[str] = Counter()
        self._reserved: set[str] = set()
        self._closed: set[str] = set()
        self._starts: dict[str, Starts] = {}
        for queue, text, number in running:
            for key, _ in limits.keys_of(queue, text):
                self._add(key, number)

    def judge(self, queue: str, text: str) -> Verdict:
        keys = self._limits.keys_of(queue, text)
        # Rates first: a job that waits for one must not hold slots meanwhile.
        opens_at = max((self._opens_at(key.name, limit) for key, limit in keys), default=0)
        if opens_at > self._now:
            self.opens_at = opens_at if self.opens_at is None else min(self.opens_at, opens_at)
            return Verdict(keys, opens_at, (), False)
        full = [key.name for key, limit in keys if self._is_full(key, limit)]
        return Verdict(keys, opens_at, full, not full)

    def start(self, verdict: Verdict) -> None:
        for key, limit in verdict.keys:
            self._add(key, 1)
            if limit.rate is not None:
                self._starts_of(key.name, limit).admitted += 1

    def reserve(self, verdict: Verdict) -> None:
        """Let no later job take what this waiting job needs."""
        if verdict.opens_at > self._now or any(limit.most == 0 for _, limit in verdict.keys):
            return  # it may wait for long
        self._closed.update(verdict.full)
        for key, _ in verdict.keys:
            if key.exclusive:
                self._closed.add(key.name)
            elif key.name not in verdict.full:
                self._reserved.add(key.name)

    def starts_of(self, queue: str, text: str) -> list[tuple[str, Limit, Starts]]:
        """The keys of a job that have a rate."""
        keys = self._limits.keys_of(queue, text)
        return [(key.name, limit, self._starts_of(key.name, limit)) for key, limit in keys if limit.rate is not None]

    def _add(self, key: Key, number: int) -> None:
        (self._exclusive if key.exclusive else self._shared)[key.name] += number

    def _is_full(self, key: Key, limit: Limit) -> bool:
        name = key.name
        if name in self._closed or self._exclusive[name] or limit.most == 0:
            return True
        taken = self._shared[name] + (name in self._reserved)
        return taken > 0 if key.exclusive else limit.most is not None and taken >= limit.most

    def _opens_at(self, name: str, limit: Limit) -> int:
        return 0 if limit.rate is None else self._starts_of(name, limit).opens_at(int(name in self._reserved))

    def _starts_of(self, name: str, limit: Limit) -> Starts:
        if name not in self._starts:
            self._starts[name] = self._read_starts(name, limit)
        return self._starts[name]


class Runnable(NamedTuple):
    """Which jobs this worker may run. `queues` None: those of all queues."""

    queues: Optional[frozenset[str]]
    labels: frozenset[str]
    paused: frozenset[str]
    limits: Limits
    limited_sets: Sequence[LabelSet]  # of queues that have a limit and are not paused, for any worker

    def allows(self, queue: str, requires: str) -> bool:
        return (self.queues is None or queue in self.queues) and labels.suffice(self.labels, requires)


_NOTHING = Admission(Limits(), (), 0, lambda _, limit: Starts(limit, (), 0))


class LimitedClaims:
    """One worker's choice among limited jobs.

    Attributes:
        opens_at: when a job may start that only waits for a rate, or None.
        alone_waits: a job waits that this worker must run alone, and it runs others.
        leaves_some: jobs may start that this worker did not choose: it has no room, may not run them, or another worker
            was choosing.
        look_at: until when this worker need not look again, on the monotonic clock, because it found none.
    """

    def __init__(self) -> None:
        self.opens_at: Optional[int] = None
        self.alone_waits = False
        self.leaves_some = self.was_locked = False
        self.look_at = 0.0
        self._in_vain = 0  # choices in a row that found none
        self._admission = _NOTHING
        self._after = ""  # the keys of the last lane that was read, if there are more
        self._round_from: Optional[str] = None  # where a round through all lanes began; None: it is complete
        self._is_past_end = False  # in this round

    @property
    def has_more_lanes(self) -> bool:
        """Whether a round through the lanes is not complete, so that this worker must look again."""
        return self._round_from is not None

    def look_at_all(self) -> None:
        """Any lane may have got a free slot: look at once, and begin a new round."""
        self.look_at, self._round_from = 0.0, None

    def choose(
        self, turn: Turn, runnable: Runnable, n: int, *, named: bool, holding: bool, for_all: bool
    ) -> list[Candidate]:
        """Up to `n` jobs that may start now, in claim order.

        Args:
            named: whether jobs that name keys wait.
            holding: whether this worker runs others.
            for_all: look on behind the last one, to know whether other workers must be woken.
        """
        self.opens_at, self.alone_waits = None, False
        self.was_locked = self.leaves_some = not (turn.is_sqlite or turn.fetch(TRY_LIMITED_LOCK)[0][0])
        picked: list[Candidate] = []
        if not self.was_locked:
            walk = _Walk(turn, runnable, n, holding=holding, for_all=for_all)
            picked = self._choose(walk, named=named)
        # Several idle workers wait for the same moment. Those that come in vain look less often.
        self._in_vain = 0 if picked else min(self._in_vain + 1, MOST_IN_VAIN)
        self.look_at = time.monotonic() + AGAIN_AFTER * 2 ** (self._in_vain - 1) if self._in_vain else 0.0
        return picked

    def take(self, turn: Turn, jobs: Sequence[Candidate], settings: Settings) -> list[Claim]:
        """Claim jobs that `choose` returned, and record the starts of their keys."""
        claims = turn.take_these([job.seq for job in jobs], settings)
        last: dict[str, tuple[int, Limit]] = {}
        for claim in claims:
            for name, limit, starts in self._admission.starts_of(claim.queue, claim.limits):
                starts.last, starts.admitted = starts.last + 1, starts.admitted - 1
                turn.execute(ADD_START, {"key": name, "number": starts.last, "at": turn.now})
                last[name] = starts.last, limit
        for name, (number, limit) in last.items():  # only the last ones matter
            turn.execute(DROP_STARTS, {"key": name, "number": number - (limit.rate or 0)})
        return claims

    def _choose(self, walk: _Walk, *, named: bool) -> list[Candidate]:
        turn, runnable, n = walk.turn, walk.runnable, walk.n
        rows = turn.fetch(turn.sql.running)
        turn.now = max([turn.now, *(now for *_, now in rows if now is not None)])

        def read_starts(name: str, limit: Limit) -> Starts:
            most = n + 2  # each admitted start needs one, and one may be reserved
            found = turn.fetch(STARTS, {"key": name, "rate": limit.rate, "n": most})
            return Starts(limit, found, turn.now)

        running = [(queue, text, number) for queue, text, number, _ in rows]
        self._admission = walk.admission = Admission(runnable.limits, running, turn.now, read_starts)
        first = _candidates(turn.fetch(LIMITED_FIRST, {"n": HEAD})) if named else []
        jobs = sorted([*first, *_first_of_sets(turn, runnable.limited_sets, n)], key=_order)
        later: list[Candidate] = []
        if len(first) == HEAD:
            end = first[-1].order
            jobs, later = [job for job in jobs if job.order <= end], [job for job in jobs if job.order > end]
        walk.through(jobs)
        if len(first) < HEAD:
            self._round_from = None  # these are all
        elif not walk.has_seen_enough:
            seen = {job.seq for job in first}
            walk.through(sorted([*later, *(job for job in self._lanes(turn) if job.seq not in seen)], key=_order))
        self.opens_at, self.alone_waits = self._admission.opens_at, walk.alone_waits
        self.leaves_some = walk.leaves_some or (walk.is_done and not walk.for_all)
        return walk.picked

    def _lanes(self, turn: Turn) -> list[Candidate]:
        if self._round_from is None:
            self._round_from, self._is_past_end = self._after, False
        lanes = _candidates(turn.fetch(LIMITED_LANES, {"after": self._after, "n": MOST_LANES}))
        if len(lanes) == MOST_LANES:
            self._after = max(job.limits for job in lanes)
            is_complete = self._is_past_end and self._after >= self._round_from
        else:
            self._after, is_complete = "", self._is_past_end or not self._round_from
            self._is_past_end = True
        if is_complete:
            self._round_from = None
        return lanes


class _Walk:
    """Goes through waiting jobs in claim order and picks those that this worker may start."""

    def __init__(self, turn: Turn, runnable: Runnable, n: int, *, holding: bool, for_all: bool) -> None:
        self.turn, self.runnable, self.n, self.for_all = turn, runnable, n, for_all
        self.admission = _NOTHING
        self.picked: list[Candidate] = []
        self.alone_waits = self.leaves_some = False
        self._holding = holding
        self._workers: Optional[list[Runnable]] = None

    @property
    def is_done(self) -> bool:
        return len(self.picked) == self.n or any(job.losses for job in self.picked)

    @property
    def has_seen_enough(self) -> bool:
        return self.is_done and (self.leaves_some or not self.for_all)

    def through(self, jobs: Iterable[Candidate]) -> None:
        for job in jobs:
            if self.has_seen_enough:
                return
            if job.queue in self.runnable.paused:
                continue
            mine = self.runnable.allows(job.queue, job.requires)
            verdict = self.admission.judge(job.queue, job.limits)
            # A job whose worker died runs alone in its worker.
            alone = bool(job.losses) and (self._holding or bool(self.picked))
            if verdict.fits and mine and not alone and not self.is_done:
                self.admission.start(verdict)
                self.picked.append(job)
            elif mine or self._another_may_run(job.queue, job.requires):
                self.admission.reserve(verdict)
                self.leaves_some = self.leaves_some or verdict.fits
                self.alone_waits = self.alone_waits or (mine and alone and verdict.fits)

    def _another_may_run(self, queue: str, requires: str) -> bool:
        """Whether another worker takes such jobs. Else a job that waits for one must not hold up others."""
        if self._workers is None:
            self._workers = [
                Runnable(
                    frozenset(json.loads(queues)) if queues else None,
                    labels.of_worker(json.loads(had) if had else (), host),
                    *self.runnable[2:],
                )
                for queues, had, host in self.turn.fetch(TAKING_WORKERS)
            ]
        return any(one.allows(queue, requires) for one in self._workers)


def _order(job: Candidate) -> tuple[int, int, int]:
    return job.order


def _candidates(rows: Iterable[Row]) -> list[Candidate]:
    return [Candidate(*row) for row in rows]


def _first_of_sets(turn: Turn, label_sets: Sequence[LabelSet], n: int) -> list[Candidate]:
    """The first `n` jobs of each of these label sets that name no keys."""
    if not label_sets:
        return []
    if turn.is_sqlite:
        return _candidates(turn.fetch(turn.sql.of_sets, {"sets": json.dumps(label_sets), "n": n}))
    queues, requirements = zip(*label_sets)
    asked = {"queues": list(queues), "requirements": list(requirements), "n": n}
    return _candidates(turn.fetch(turn.sql.of_sets, asked))
