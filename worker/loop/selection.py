"""Which jobs a worker may run, and which of them it claims first."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence
from typing import Optional

from webapp.core import labels
from webapp.core.flow.limits import Limits
from webapp.core.labels import LabelSet
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.core.statements import CLAIM_LOOKAHEAD, EXCLUSIVE_IN, LEFT_IN
from worker import processes
from worker.attempt import Claim
from worker.loop.claims import Claims, QueueState, Served, Turn, order_of
from worker.loop.limited import Candidate, LimitedClaims, Runnable
from worker.loop.settling import Row
from worker.messages import Assignment

EXCLUSIVE_WAIT = 5.0  # seconds that an exclusive job waits before a busy worker makes room for it


class Selection:
    """See the module. `read_changes` reads what people may have changed; `claim` claims."""

    def __init__(self, assignment: Assignment) -> None:
        # Every worker sends messages too.
        self._queues = None if assignment.queues is None else frozenset({*assignment.queues, SYSTEM_QUEUE})
        self._labels = labels.of_worker(assignment.labels, processes.host_name())
        self._named, self._order = list(assignment.queues or ()), assignment.order
        self._drain = assignment.drain
        self._served = Served(self._labels)  # for a worker of all queues
        self._label_sets: list[LabelSet] = []  # to drain: which must be empty
        self._open_label_sets: list[LabelSet] = []  # for a worker of named queues: whose jobs it may run
        self._runnable = Runnable(self._queues, self._labels, frozenset(), Limits(), ())
        self._limited_queues: frozenset[str] = frozenset()
        self._limited = LimitedClaims()
        self._released = False  # in this turn, see `released`
        self._exclusive_since: Optional[float] = None
        self.look_again_at: Optional[float] = None  # for limited jobs, on the monotonic clock; None: when it is woken

    def read_changes(self, turn: Turn) -> None:
        paused, limits = turn.paused_queues(), turn.limits()
        limited_sets: list[LabelSet] = []
        if self._queues is not None or self._drain or limits.of_queues:
            every = turn.label_sets()
            mine = [(label_set, is_open) for label_set, is_open in every if self._may_run(label_set)]
            # A message that cannot be sent may wait for a day.
            self._label_sets = [label_set for label_set, _ in mine if label_set.queue != SYSTEM_QUEUE]
            limited_sets = [one for one, is_open in every if is_open and limits.of_queue(one.queue) is not None]
            self._limited_queues = frozenset(one.queue for one in limited_sets)
            self._open_label_sets = [one for one, is_open in mine if is_open and one.queue not in self._limited_queues]
        else:
            self._limited_queues = frozenset()
        # Jobs of queues with a limit are claimed with the other limited jobs.
        self._served = Served(self._labels, paused | self._limited_queues)
        self._runnable = Runnable(self._queues, self._labels, paused, limits, limited_sets)
        self._limited.look_at_all()

    @property
    def opens_at(self) -> Optional[int]:
        """When a limited job may start that only waits for a rate, or None."""
        return self._limited.opens_at

    def released(self, ended: Iterable[Claim], state: QueueState) -> bool:
        """Whether the end of these jobs may let limited jobs start. Then this worker looks for them at once.

        Other workers must look only if it `leaves_some`.
        """
        limited = ((claim.limits and state.limited_waiting) or claim.queue in self._limited_queues for claim in ended)
        self._released = any(limited)
        if self._released:
            self._limited.look_at_all()
        return self._released

    @property
    def leaves_some(self) -> bool:
        """Whether limited jobs may start that this worker did not claim at its last look."""
        return self._limited.leaves_some

    def is_drained(self, turn: Turn) -> bool:
        return not turn.exists(LEFT_IN, self._label_sets)

    @property
    def may_be_skipped(self) -> bool:
        """Whether other workers that claim at the same moment may hide jobs from this one."""
        return len(self._open_label_sets) > 1

    @property
    def has_fast_path(self) -> bool:
        """Whether one statement can claim all that this worker may run."""
        has_any = self._queues is None or bool(self._open_label_sets)
        return has_any and not self._runnable.limited_sets and self._order is None

    def claim_fast_path(
        self, claims: Claims, n: int, settings: Settings, revision: int
    ) -> Optional[tuple[QueueState, list[Claim]]]:
        """See `Claims.claim_fast_path`."""
        which = self._served if self._queues is None else self._open_label_sets
        later = time.monotonic() < self._limited.look_at
        found = claims.claim_fast_path(which, n, settings, revision, limited_later=later)
        self.look_again_at = self._limited.look_at if found is not None and found[0].limited_waiting else None
        return found

    def claim(self, turn: Turn, n: int, state: QueueState, settings: Settings, *, holding: bool) -> list[Claim]:
        """Claim up to `n` jobs. `holding`: whether this worker runs others."""
        self._limited.leaves_some = True  # until it has looked
        waits = False
        if state.exclusive_waiting:
            open_sets = turn.exclusive_label_sets(self._served) if self._queues is None else self._open_label_sets
            if not holding and open_sets:
                claimed = turn.claim(open_sets, 1, settings, run_exclusively=True)
                if claimed:
                    return claimed
            waits = holding and turn.exists(EXCLUSIVE_IN, open_sets)
        limited = self._choose_limited(turn, n, state, holding=holding)
        if not (waits or self._limited.alone_waits):
            self._exclusive_since = None
        else:
            self._exclusive_since = self._exclusive_since or time.monotonic()
            if time.monotonic() - self._exclusive_since > EXCLUSIVE_WAIT:
                self._limited.leaves_some = True
                return []
        return self._claim_in_order(turn, n, state, settings, limited)

    def _choose_limited(self, turn: Turn, n: int, state: QueueState, *, holding: bool) -> list[Candidate]:
        self.look_again_at = None
        if not (state.limited_waiting or self._runnable.limited_sets):
            self._limited.opens_at, self._limited.alone_waits, self._limited.leaves_some = None, False, False
            return []
        if time.monotonic() < self._limited.look_at:
            # Jobs that nothing limits do not pay for those that must wait.
            self.look_again_at = self._limited.look_at
            return []
        named, for_all = state.limited_waiting, self._released
        rows = self._limited.choose(turn, self._runnable, n, named=named, holding=holding, for_all=for_all)
        if self._limited.was_locked or (self._limited.has_more_lanes and not rows):
            self.look_again_at = self._limited.look_at
        return rows

    def _claim_in_order(
        self, turn: Turn, n: int, state: QueueState, settings: Settings, limited: list[Candidate]
    ) -> list[Claim]:
        if any(job.losses for job in limited):  # it runs alone
            return self._limited.take(turn, limited[:1], settings)
        claimed: list[Claim] = []
        for queue, most in self._steps(n):
            left = min(most, n - len(claimed))
            if left <= 0:
                continue
            label_sets, jobs = self._open_label_sets, limited
            if queue is not None:
                label_sets = [one for one in label_sets if one.queue == queue]
                jobs = [job for job in jobs if job.queue == queue]
            if jobs:
                jobs = _first_of(jobs, self._peek(turn, label_sets, left), left)
                limited = [job for job in limited if job not in jobs]
                claimed += self._limited.take(turn, jobs, settings)
                left -= len(jobs)
            if left > 0 and self._queues is None:
                claimed += turn.claim_first(self._served, left, settings, crowded=state.crowded)
            elif left > 0 and label_sets:
                claimed += turn.claim(label_sets, left, settings)
        # Another worker must know when a rate opens if this one has no room then.
        unseen = bool(limited) or (self._limited.opens_at is not None and len(claimed) >= n)
        self._limited.leaves_some = self._limited.leaves_some or unseen
        return claimed

    def _steps(self, n: int) -> list[tuple[Optional[str], int]]:
        """A queue, and how many jobs at most to claim from it, one after the other, until `n` are claimed.

        None: from all queues, by priority and age. By weights, each free slot goes to a queue drawn at random; what a
        queue cannot use goes to the others.
        """
        if self._order is None:
            return [(None, n)]
        drawn, rest = list[str](), self._named
        if not isinstance(self._order, str):
            drawn = random.choices(rest, self._order, k=n)  # noqa: S311  keeps no secret
            rest = random.sample(rest, len(rest))
        return [(SYSTEM_QUEUE, n), *((queue, drawn.count(queue)) for queue in dict.fromkeys(drawn)),
                *((queue, n) for queue in rest)]  # fmt: skip

    def _peek(self, turn: Turn, label_sets: Sequence[LabelSet], n: int) -> list[Row]:
        """The jobs without limits that would be claimed."""
        if self._queues is not None:
            return turn.first_of(label_sets, n, turn.sql.peek)
        rows = turn.fetch(turn.sql.peek_head, {"n": n + CLAIM_LOOKAHEAD})
        return [row for row in rows if self._served.allows(*row[-2:])][:n]

    def _may_run(self, label_set: LabelSet) -> bool:
        served = self._queues is None or label_set.queue in self._queues
        return served and labels.suffice(self._labels, label_set.requires)


def _first_of(limited: Sequence[Candidate], others: Sequence[Row], n: int) -> list[Candidate]:
    """The limited jobs among the first `n` jobs of both: priority and age decide, not the way to claim them."""
    first = set(sorted([*(job.order for job in limited), *map(order_of, others)])[:n])
    return [job for job in limited if job.order in first]
