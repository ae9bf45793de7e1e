"""Roll-ups and the attempts after the watermark together equal a count of all attempts."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

import pytest
from flask import Flask
from sqlalchemy import event, func, insert, select, text, update
from sqlalchemy.orm import Session

from tests import factories
from tests.deadline import DEADLINE
from webapp.core.notices import SYSTEM_QUEUE
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, CommandHour, Control, Event, Job, Minute
from webapp.insight import rollups, trends
from webapp.insight.rollups import Sum
from webapp.insight.windows import RANGES
from webapp.lib import clock, histograms
from webapp.lib.clock import HOUR, MINUTE
from webapp.lib.command_patterns import command_shape

SECOND = clock.SECOND
BEGIN = clock.parse_iso("2026-11-24T03:12:31Z")
QUEUES = ("default", "mail", "media")
COMMANDS = ("send-invoice 17", "send-invoice 4", "/opt/x/report.sh --day 3", "true", "sync north", "sync south")


@dataclass(frozen=True)
class Seen:
    """An ended attempt as the test generated it."""

    finished_at: int
    queue: str
    command: str
    state: str
    died: bool
    wait: int
    run: int


@dataclass
class History:
    """Commits in their order, and what a count must give once each is done."""

    commits: list[tuple[int, Callable[[Any], None], Optional[Seen]]] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    def commit_until(self, now: int) -> None:
        with writing() as session:
            while self.commits and self.commits[0][0] <= now:
                _, apply, seen = self.commits.pop(0)
                apply(session)
                if seen is not None:
                    self.seen.append(seen)


def move(seq: int, state: str, **values: Any) -> Callable[[Any], None]:
    held = state == "processing"
    ended = state in ("completed", "dead", "cancelled")
    fixed = {"token": "t" if held else None, "worker_id": "w" if held else None, "finished_at": 1 if ended else None}
    return lambda session: session.execute(update(Job).where(Job.seq == seq).values(state=state, **fixed, **values))


def make_up(luck: random.Random, jobs: int, span: int, longest: int = 240) -> History:
    """Jobs that run, fail, are retried, lost, cancelled, die and are requeued, and commit up to half a minute late."""
    history, commits = History(), list[Any]()
    for number in range(jobs):
        commits += _life(luck, number + 1, BEGIN + luck.randrange(span), longest)
    history.commits = sorted(commits, key=lambda one: one[0])
    return history


def _life(luck: random.Random, seq: int, at: int, longest: int) -> Iterator[Any]:
    queue, command = luck.choice(QUEUES), luck.choice(COMMANDS)
    values = {"seq": seq, "id": f"j{seq}", "command": command, "queue": queue, "priority": 0, "state": "pending",
              "run_at": at, "created_at": at, "created_by": "person:test", "changed_at": at, "attempts": 0,
              "failures": 0, "losses": 0, "lone_losses": 0}  # fmt: skip
    yield at, lambda session: session.execute(insert(Job), values), None
    due, free, number = at, 0, 0
    while True:
        number += 1
        started = max(due, free) + luck.randrange(1, 90 * SECOND)
        yield started, move(seq, "processing", attempts=number, started_at=started), None
        finished = started + luck.randrange(1, longest * SECOND)
        at = finished + luck.choice((1, SECOND, 29 * SECOND))
        state = luck.choice(("completed", "completed", "failed", "failed", "failed", "lost", "released", "cancelled"))
        finished = at if state == "lost" else finished
        died = state == "failed" and luck.random() < 0.4
        seen = Seen(finished, queue, command, state, died, started - max(due, free), finished - started)
        yield at, _settle(seq, number, state, started, finished, due, died), seen
        free = finished
        if state == "failed" and not died:
            due = at + luck.randrange(1, 120 * SECOND)
            if luck.random() < 0.2:
                at += luck.randrange(1, SECOND)
                yield at, _moved(seq, "cancel", at, "cancelled"), None
                due = at = at + luck.randrange(1, 60 * SECOND)
                yield at, _moved(seq, "requeue", at, "pending"), None
        elif died and luck.random() < 0.6:
            due = at = at + luck.randrange(1, 200 * SECOND)
            yield at, _moved(seq, "requeue", at, "pending"), None
        elif state not in ("lost", "released"):
            return


def _settle(seq: int, number: int, state: str, started: int, finished: int, due: int, died: bool) -> Any:
    values = {"job_seq": seq, "number": number, "state": state, "reason": "exit", "worker_id": "w", "output": b"",
              "started_at": started, "finished_at": finished, "due_at": due, "output_runs": "",
              "output_dropped": 0}  # fmt: skip
    enters = {"failed": "dead" if died else "failed", "lost": "pending", "released": "pending"}.get(state, state)

    def apply(session: Any) -> None:
        session.execute(insert(Attempt), values)
        move(seq, enters)(session)

    return apply


def _moved(seq: int, verb: str, at: int, enters: str) -> Any:
    def apply(session: Any) -> None:
        session.execute(insert(Event), {"at": at, "verb": verb, "actor": "person:ana", "subject": "j", "job_seq": seq})
        move(seq, enters)(session)

    return apply


def fold_all() -> None:
    while rollups.fold():  # one call stops after a second
        pass


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the clock."""
    return lambda now: monkeypatch.setattr(clock, "now", lambda: now)


@pytest.fixture(autouse=True)
def _queues(app: Flask) -> None:
    for name in QUEUES:
        factories.make_queue(name)


def total_of_all_time() -> rollups.Sum:
    with reading() as session:
        return rollups.sum_of(session.scalars(select(Minute).where(Minute.at == 0)).one())


def count(seen: list[Seen], since: int, until: int) -> tuple[int, int, int, int, Counter[int], Counter[int]]:
    here = [one for one in seen if since <= one.finished_at <= until]
    states = Counter(one.state for one in here)
    runs = Counter(histograms.bucket(one.run) for one in here if one.state in ("completed", "failed"))
    waits = Counter(histograms.bucket(one.wait) for one in here)
    return states["completed"], states["failed"], sum(one.died for one in here), states["lost"], waits, runs


def check(seen: list[Seen], now: int) -> None:
    """The data at this moment equal a count."""
    for wanted in RANGES.values():
        with reading() as session:
            shown = trends.trend(session, wanted)
        for begin, one in shown.points:
            assert (one.completed, one.failed, one.dead, one.lost, one.waits, one.runs) == count(
                seen, begin, min(begin + wanted.step - 1, now)
            ), f"{wanted.key} from {begin}"
        assert shown.points[-1][0] <= now < shown.points[-1][0] + wanted.step
        with reading() as session:
            parts = {queue: trends.trend(session, wanted, queue).points for queue in QUEUES}
            assert trends.trend(session, wanted, split=True).queues == {
                queue: points for queue, points in parts.items() if any(one.ended for _, one in points)
            }
        for begin, one in shown.points:
            of_queues = Sum()
            for points in parts.values():
                of_queues.add(dict(points)[begin])
            assert of_queues == one, f"the queues of {wanted.key} from {begin}"
        here = [one for one in seen if one.finished_at >= shown.commands_since and one.state in ("completed", "failed")]
        runs = Counter(command_shape(one.command) for one in here)
        failures = Counter(command_shape(one.command) for one in here if one.state == "failed")
        assert {one.shape: one.runs for one in shown.busiest} == runs
        assert {one.shape: one.failures for one in shown.failing} == failures


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3))
def test_folded_and_unfolded_attempts_together_equal_a_count_at_any_moment(
    seed: int, at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "FOLD_BATCH", 7)
    luck = random.Random(seed)
    history = make_up(luck, 40, 2 * HOUR)
    now = BEGIN
    while history.commits:
        now += luck.choice((luck.randrange(1, 25 * MINUTE), luck.randrange(1, 30 * SECOND)))
        history.commit_until(now)
        at(now)
        for _ in range(luck.choice((0, 1, 2))):
            rollups.fold()
        check(history.seen, now)
    at(now + rollups.FOLD_DELAY + 1)
    fold_all()
    with reading() as session:
        total = session.scalars(select(func.sum(Minute.completed)).where(Minute.queue == "*1")).one()
    assert total == sum(one.state == "completed" for one in history.seen)
    all_ = total_of_all_time()
    assert (all_.completed, all_.failed, all_.dead, all_.lost, all_.waits, all_.runs) == count(history.seen, 0, 2**62)


def test_an_attempt_that_commits_half_a_minute_after_it_finished_is_not_missed(at: Callable[[int], None]) -> None:
    def ends(moment: int) -> None:
        job = factories.make_job("completed", finished_at=moment)
        factories.make_attempt(job, 1, "completed", started_at=moment, finished_at=moment)

    ends(BEGIN)
    at(BEGIN + 35 * SECOND)
    rollups.fold()
    ends(BEGIN + 6 * SECOND)
    for now in (BEGIN + 36 * SECOND, BEGIN + 10 * MINUTE):
        at(now)
        for _ in range(2):
            with reading() as session:
                assert trends.trend(session, RANGES["1h"]).total.completed == 2
            rollups.fold()


def test_a_week_is_folded_in_small_transactions_and_pruned_when_it_is_old(
    at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "FOLD_BATCH", 20)
    history = make_up(random.Random(5), 60, 7 * clock.DAY)
    now = BEGIN + 7 * clock.DAY + 20 * MINUTE
    history.commit_until(now)
    at(now)
    check(history.seen, now)
    assert rollups.fold(longest=0) <= 20
    check(history.seen, now)
    fold_all()
    check(history.seen, now)
    with reading() as session:
        assert session.scalars(select(Control.folded_until)).one() > now - clock.DAY
    total = total_of_all_time()
    assert sum(total.waits.values()) == len(
        [one for one in history.seen if one.finished_at <= now - rollups.FOLD_DELAY]
    )
    at(now + 9 * clock.DAY)
    rollups.prune()
    assert total_of_all_time() == total, "a counter must not shrink"
    with reading() as session:
        assert session.scalar(select(func.count()).select_from(Minute)) == 1
        assert session.scalar(select(func.count()).select_from(CommandHour)) == 0


def test_processes_that_fold_at_the_same_time_fold_nothing_twice(
    app: Flask, at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "FOLD_BATCH", 5)
    history = make_up(random.Random(6), 50, HOUR)
    now = BEGIN + 3 * HOUR
    history.commit_until(now)
    at(now)
    folded: list[int] = []
    together = threading.Barrier(4)

    def keep() -> None:
        with app.app_context():
            together.wait()
            for _ in range(200):
                number = rollups.fold()
                folded.append(number)
                if not number:
                    return

    folders = [threading.Thread(target=keep) for _ in range(4)]
    for folder in folders:
        folder.start()
    for folder in folders:
        folder.join(DEADLINE)
    fold_all()
    check(history.seen, now)


def test_an_idle_queue_writes_nothing_and_a_second_fold_changes_nothing(at: Callable[[int], None]) -> None:
    at(BEGIN)
    assert rollups.fold() == 0
    history = make_up(random.Random(7), 10, MINUTE)
    now = BEGIN + 12 * HOUR
    history.commit_until(now)
    at(now)
    assert rollups.fold() == len(history.seen)
    assert rollups.fold() == 0
    check(history.seen, now)


def test_more_attempts_in_one_microsecond_than_a_batch_are_folded_together(
    at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "FOLD_BATCH", 3)
    job = factories.make_job("completed", attempts=8, finished_at=BEGIN)
    for number in range(1, 8):
        factories.make_attempt(job, number, "completed", started_at=BEGIN - 5, finished_at=BEGIN)
    factories.make_attempt(job, 8, "completed", started_at=BEGIN + 1, finished_at=BEGIN + 2)
    at(BEGIN + HOUR // 2)
    assert rollups.fold(longest=60) == 8
    with reading() as session:
        assert trends.trend(session, RANGES["1h"]).total.completed == 8


def test_a_job_that_was_discarded_after_it_was_folded_still_counts(at: Callable[[int], None]) -> None:
    history = make_up(random.Random(8), 10, MINUTE)
    now = BEGIN + HOUR // 2
    history.commit_until(now)
    at(now)
    fold_all()
    with writing() as session:
        session.query(Job).where(Job.state != "processing").delete()
    check([one for one in history.seen if one.finished_at < now - rollups.FOLD_DELAY], now)


def test_a_clock_that_was_set_back_leaves_charts_right(at: Callable[[int], None]) -> None:
    history = make_up(random.Random(9), 20, 10 * MINUTE, longest=20)
    history.commit_until(BEGIN + HOUR)
    at(BEGIN + clock.DAY)  # it jumps ahead, and is put right
    fold_all()
    now = BEGIN + 45 * MINUTE
    at(now)
    assert rollups.fold() == 0
    with reading() as session:
        assert session.scalars(select(Control.folded_until)).one() < now
    before = total_of_all_time()
    fold_all()
    check([one for one in history.seen if one.finished_at <= now], now)
    assert total_of_all_time().completed >= before.completed


def test_attempts_of_the_queue_of_the_product_itself_are_passed_and_not_counted(at: Callable[[int], None]) -> None:
    for minute, queue in enumerate((SYSTEM_QUEUE, "mail")):
        moment = BEGIN + minute * MINUTE
        job = factories.make_job("completed", queue=queue, finished_at=moment)
        factories.make_attempt(job, 1, "completed", started_at=moment, finished_at=moment)
        at(moment + 2 * MINUTE)
        assert rollups.fold() == 1, "they do not stay unfolded"
    with reading() as session:
        assert set(session.scalars(select(Minute.queue))) == {"mail", "*30 mail", "*", *rollups.SUMS}


def test_unfolded_attempts_are_found_by_index() -> None:
    plans: list[str] = []
    with engines.read_engine().connect() as connection:
        session = Session(connection)
        if not engines.is_sqlite():
            session.execute(text("SET LOCAL enable_seqscan = off"))

        def see(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
            if "FROM attempts" in statement and "EXPLAIN" not in statement:
                explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()  # type: ignore[arg-type]
                plans.append("\n".join(str(row[-1]) for row in rows))

        event.listen(connection, "before_cursor_execute", see)
        rollups.sum_up(session, BEGIN, BEGIN + HOUR, 5)
    [plan] = plans
    assert "ix_attempts_finished" in plan
    assert "Seq Scan" not in plan
    assert "SCAN " not in plan
    assert "TEMP B-TREE" not in plan


def test_commands_beyond_the_cap_are_summed_as_one_and_none_is_lost(
    at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "MAX_SHAPES", 3)
    monkeypatch.setattr(rollups, "FOLD_BATCH", 4)
    runs = {"often": 9, "sometimes": 4, "failing": 2, "once": 1, "also": 1, "rarely": 1}
    moment = BEGIN
    for command, number in runs.items():
        for _ in range(number):
            moment += SECOND
            job = factories.make_job("completed", command=command, finished_at=moment)
            state = "failed" if command == "failing" else "completed"
            factories.make_attempt(job, 1, state, started_at=moment - SECOND, finished_at=moment)
    at(BEGIN + HOUR // 2)
    fold_all()
    with reading() as session:
        shown = trends.trend(session, RANGES["1h"])
        stored = session.scalar(select(func.count()).select_from(CommandHour))
    assert {one.shape: one.runs for one in shown.busiest} == {
        "often": 9, "sometimes": 4, "failing": 2, rollups.REST: 3}  # fmt: skip
    assert stored == 4
    assert [(one.shape, one.failures, one.mean) for one in shown.failing] == [("failing", 2, 1.0)]


def test_a_rate_covers_the_time_since_the_first_run_of_the_last_five_minutes(
    at: Callable[[int], None],
) -> None:
    begin = BEGIN // MINUTE * MINUTE
    for number in range(120):
        moment = begin + number * SECOND
        job = factories.make_job("completed", queue="mail", finished_at=moment)
        factories.make_attempt(job, 1, "completed", started_at=moment - SECOND, finished_at=moment)
    for now, rate in ((begin + 2 * MINUTE, 60), (begin + 4 * MINUTE, 30), (begin + 12 * MINUTE, None)):
        at(now)
        for _ in range(2):
            with reading() as session:
                assert trends.queue_rates(session, ["mail"]).get("mail") == rate
                assert trends.trend(session, RANGES["1h"]).rate == (rate or 0)
            rollups.fold()
    assert trends.drain_time(212, 60) == 210
    assert trends.drain_time(0, 60) is None
    assert trends.drain_time(5, None) is None


def test_the_rate_of_all_queues_is_the_sum_of_their_rates(at: Callable[[int], None]) -> None:
    begin = BEGIN // MINUTE * MINUTE

    def run(*ended: tuple[str, int]) -> None:
        for queue, minute in ended:
            moment = begin + minute * MINUTE
            job = factories.make_job("completed", queue=queue, finished_at=moment)
            factories.make_attempt(job, 1, "completed", started_at=moment - SECOND, finished_at=moment)

    run(("a", 0), ("b", 0), ("b", 1), ("c", 1), ("d", 2))
    for folds in (False, True):
        at(begin + 3 * MINUTE)
        if folds:
            rollups.fold()
            at(begin + 4 * MINUTE)
            run(("b", 3), ("e", 3))
        with reading() as session:
            rates = trends.queue_rates(session, ["a", "b", "c", "d", "e"])
            assert len(rates) == 4 + folds
            assert trends.trend(session, RANGES["1h"]).rate == pytest.approx(sum(rates.values()))


def test_on_a_very_busy_queue_the_data_end_a_moment_ago(
    at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trends, "MAX_UNFOLDED", 10)
    for number in range(30):
        moment = BEGIN + number * SECOND
        job = factories.make_job("completed", finished_at=moment)
        factories.make_attempt(job, 1, "completed", started_at=moment, finished_at=moment)
    at(BEGIN + 40 * SECOND)
    with reading() as session:
        shown = trends.trend(session, RANGES["1h"])
    assert (shown.total.completed, shown.until, shown.is_late) == (10, BEGIN + 10 * SECOND, False)
    at(BEGIN + HOUR // 2)
    with reading() as session:
        assert trends.trend(session, RANGES["1h"]).is_late
        assert trends.queue_rates(session, ["default"]) == {}
