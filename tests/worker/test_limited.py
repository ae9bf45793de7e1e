"""Claims of limited jobs: no slot leaks, no rate is exceeded, keys are fair, and others do not wait."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any, Callable, Optional

import pytest
from flask import Flask
from sqlalchemy import select, update

from tests import factories
from tests.worker.conftest import Queue, assignment
from tests.worker.test_claims import ended
from tests.worker_connection import worker_connection
from webapp.core.statements import TRY_LIMITED_LOCK
from webapp.core.storage.transaction import Connection
from webapp.db.engines import reading, writing
from webapp.db.models import Job, Schedule
from webapp.jobs import actions, canary, editing, queue_actions
from webapp.jobs.filters import JobFilter
from webapp.jobs.flow import limits
from webapp.lib import clock
from webapp.schedules import actions as schedule_actions
from webapp.schedules import spec as schedule_spec
from webapp.schedules.decider import Decider
from worker.attempt import Claim
from worker.loop import limited
from worker.loop.dispatcher import Dispatcher

ANA = "person:ana"


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "AGAIN_AFTER", 0.0)


class Team:
    """Workers that take turns in this process. Each has its own connection."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.held: dict[str, tuple[Dispatcher, Claim]] = {}

    def worker(self, slots: int = 1, *had: str, **options: Any) -> Dispatcher:
        connection = worker_connection()
        self.connections.append(connection)
        queues = options.get("queues")
        row = factories.make_worker(slots=slots, labels=json.dumps(had), queues=queues and json.dumps(queues))
        asked = replace(assignment(slots, had, queues), order=options.get("order"))
        return Dispatcher(connection, row.id, asked, lambda: 10.0, list)

    def takes(self, worker: Dispatcher) -> list[str]:
        claims = worker.turn()
        self.held.update({claim.id: (worker, claim) for claim in claims})
        return [claim.id for claim in claims]

    def ends(self, job_id: str, kind: str = "completed") -> Dispatcher:
        """The worker settles at its next turn."""
        worker, claim = self.held.pop(job_id)
        worker.done(ended(claim, kind))
        return worker


@pytest.fixture
def team(app: Flask) -> Any:
    one = Team()
    yield one
    for connection in one.connections:
        connection.close()


Limit = Callable[..., Any]


def limit(key: str, most: Optional[int] = None, rate: Optional[str] = None) -> None:
    limits.set_limit(key, most, rate, None, ANA)


@pytest.mark.postgresql
def test_no_more_jobs_of_a_key_run_than_its_limit_says(queue: Queue, team: Team) -> None:
    limit("db", 2)
    for number in range(5):
        queue.enqueue("true", id=f"j{number}", limits="db")
    first, second = team.worker(4), team.worker(4)
    assert team.takes(first) == ["j0", "j1"]
    assert team.takes(second) == []
    assert team.takes(team.ends("j0")) == ["j2"]
    assert team.takes(second) == []


@pytest.mark.postgresql
def test_a_pattern_limits_each_of_its_keys(queue: Queue, team: Team) -> None:
    limit("customer-*", 1)
    limit("customer-big", 2)
    for job_id, key in (("a", "1"), ("b", "1"), ("c", "2"), ("d", "big"), ("e", "big")):
        queue.enqueue("true", id=job_id, limits=f"customer-{key}")
    assert team.takes(team.worker(8)) == ["a", "c", "d", "e"]


@pytest.mark.postgresql
def test_an_exclusive_job_runs_alone_and_is_not_starved_by_later_ones(queue: Queue, team: Team) -> None:
    limit("warehouse", 5)
    queue.enqueue("true", id="a", limits="warehouse")
    queue.enqueue("true", id="rebuild", limits="warehouse:exclusive")
    queue.enqueue("true", id="b", limits="warehouse")
    first, second = team.worker(2), team.worker(2)
    assert team.takes(first) == ["a"]
    assert team.takes(second) == []  # b must not overtake it
    assert team.takes(team.ends("a")) == ["rebuild"]
    assert team.takes(second) == []
    assert team.takes(team.ends("rebuild")) == ["b"]


def test_a_job_of_two_keys_keeps_one_slot_of_the_free_one_until_the_other_is_free(queue: Queue, team: Team) -> None:
    limit("s", 2)
    limit("t", 1)
    for job_id, keys in (("t1", "t"), ("both", "s,t"), ("s1", "s"), ("s2", "s"), ("s3", "s")):
        queue.enqueue("true", id=job_id, limits=keys)
    first = team.worker(2)
    assert team.takes(first) == ["t1", "s1"]
    second = team.worker(4)
    assert team.takes(second) == []  # one slot of s waits for `both`
    assert team.takes(team.ends("t1")) == ["both"]
    assert team.takes(second) == []


def test_a_limit_of_zero_holds_back_its_jobs_only(queue: Queue, team: Team) -> None:
    limit("s", 1)
    limit("closed", 0)
    queue.enqueue("true", id="a", limits="s,closed")
    queue.enqueue("true", id="b", limits="s")
    assert team.takes(team.worker(4)) == ["b"]


def test_a_lost_claim_frees_its_slot_only_when_the_job_is_taken_back(queue: Queue, team: Team) -> None:
    """No counter: what runs is what the table says."""
    limit("db", 1)
    queue.enqueue("true", id="a", limits="db")
    queue.enqueue("true", id="b", limits="db")
    first, second = team.worker(), team.worker()
    assert team.takes(first) == ["a"]
    assert team.takes(second) == []
    factories.change_job("a", state="pending", token=None, worker_id=None, losses=1)
    assert team.takes(second) == ["a"]
    assert team.takes(team.worker()) == []


@pytest.mark.postgresql
@pytest.mark.parametrize("kind", ["completed", "failed", "cancelled", "released", "unclaimed"])
def test_every_end_of_an_attempt_frees_its_slot(queue: Queue, team: Team, kind: str) -> None:
    limit("db", 1)
    queue.enqueue("true", id="a", limits="db", priority=-1, max_retries=5)
    worker = team.worker()
    assert team.takes(worker) == ["a"]
    queue.enqueue("true", id="b", limits="db")
    assert team.takes(team.ends("a", kind)) == ["b"]


@pytest.mark.postgresql
def test_a_rate_lets_so_many_jobs_start_in_any_window(queue: Queue, team: Team, monkeypatch: Any) -> None:
    limit("mail", rate="3/min")
    for number in range(9):
        queue.enqueue("true", id=f"j{number}", limits="mail")
    worker = team.worker(9)
    assert team.takes(worker) == ["j0", "j1", "j2"]
    assert team.takes(worker) == []
    assert 0 < (worker._next_due or 0) - clock.now() <= 60 * clock.SECOND
    with worker._claims as turn:
        turn.execute("UPDATE limit_starts SET started_at = started_at - :past WHERE number < 3", {"past": 60_000_000})
    assert team.takes(worker) == ["j3", "j4"]
    assert team.takes(worker) == []
    with worker._claims as turn:  # only the last starts are kept
        assert [number for (number,) in turn.fetch("SELECT number FROM limit_starts ORDER BY 1")] == [3, 4, 5]


def test_a_job_that_waits_for_a_rate_holds_no_slot(queue: Queue, team: Team) -> None:
    limit("s", 1)
    limit("r", rate="1/day")
    queue.enqueue("true", id="a", limits="r")
    queue.enqueue("true", id="b", limits="r,s")
    queue.enqueue("true", id="c", limits="s")
    assert team.takes(team.worker(4)) == ["a", "c"]


@pytest.mark.postgresql
def test_a_queue_has_a_limit_that_its_jobs_inherit(queue: Queue, team: Team) -> None:
    worker, named = team.worker(4), team.worker(4, queues=["mail", "default"])
    assert team.takes(worker) == []
    queue.enqueue("true", id="m0", queue="mail")
    queue.enqueue("true", id="m1", queue="mail")
    queue.enqueue("true", id="other")
    limit("queue:mail", 1)
    assert team.takes(worker) == ["m0", "other"]
    assert team.takes(named) == []
    assert team.takes(team.ends("m0")) == ["m1"]
    queue.enqueue("true", id="m2", queue="mail")
    limits.remove_limit("queue:mail", ANA)
    assert team.takes(named) == ["m2"]


def test_a_lane_of_many_blocked_jobs_hides_no_other(queue: Queue, team: Team, monkeypatch: Any) -> None:
    monkeypatch.setattr(limited, "HEAD", 4)
    limit("a", 1)
    limit("b", 1)
    for number in range(12):
        queue.enqueue("true", id=f"a{number}", limits="a", priority=5)
    queue.enqueue("true", id="b0", limits="b")
    queue.enqueue("true", id="plain", priority=-5)
    worker = team.worker(4)
    assert team.takes(worker) == ["a0", "b0", "plain"]


@pytest.mark.parametrize("begun", [False, True])
def test_a_worker_looks_again_soon_until_it_has_seen_every_lane(
    queue: Queue, team: Team, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setattr(limited, "HEAD", 2)
    monkeypatch.setattr(limited, "MOST_LANES", 2)
    limit("zero-*", 0)
    limit("*", 1)
    for number in range(6):
        queue.enqueue("true", limits=f"zero-{number}", priority=5)
    worker = team.worker()
    if begun:
        assert team.takes(worker) == []
    queue.enqueue("true", id="last", limits="a" if begun else "zz")
    limit("any", 1)  # a change begins a round, in the middle of the one before
    looks = 0
    while not team.takes(worker):
        looks += 1
        assert worker.due_in() < 1
        assert looks < 9
    assert list(team.held) == ["last"]
    idle = team.worker()
    assert [team.takes(idle) for _ in range(4)] == [[]] * 4
    assert idle.due_in() > 1  # a whole round found none


@pytest.mark.postgresql
def test_priority_and_age_decide_between_limited_and_other_jobs(queue: Queue, team: Team) -> None:
    limit("s", 5)
    for job_id, keys, priority in (("o1", "", 0), ("s1", "s", 0), ("o2", "", 0), ("s2", "s", 9), ("o3", "", 8)):
        queue.enqueue("true", id=job_id, priority=priority, **({"limits": keys} if keys else {}))
    for options in ({}, {"queues": ["default"]}):
        worker = team.worker(1, **options)
        order = []
        for _ in range(5):
            [job_id] = team.takes(worker)
            order.append(job_id)
            team.ends(job_id, "released")
            factories.change_job(job_id, priority=-50)  # after the release it is last
        assert order == ["s2", "o3", "o1", "s1", "o2"]
        worker.accept_no_more()
        worker.turn()
        for job_id, priority in (("o1", 0), ("s1", 0), ("o2", 0), ("s2", 9), ("o3", 8)):
            factories.change_job(job_id, priority=priority)


def test_a_job_for_another_worker_keeps_its_place_in_its_key(queue: Queue, team: Team) -> None:
    limit("s", 1)
    queue.enqueue("true", id="gpu", limits="s", requires="gpu")
    queue.enqueue("true", id="any", limits="s")
    plain = team.worker()
    assert team.takes(plain) == ["any"]  # no worker can run the other one
    able = team.worker(1, "gpu")
    queue.enqueue("true", id="any2", limits="s")
    assert team.takes(team.ends("any")) == []
    assert team.takes(able) == ["gpu"]


def test_a_paused_queue_holds_no_slot(queue: Queue, team: Team) -> None:
    limit("s", 1)
    queue.enqueue("true", id="a", limits="s", queue="mail")
    queue.enqueue("true", id="b", limits="s")
    queue_actions.pause_queue("mail", ANA)
    assert team.takes(team.worker(2)) == ["b"]


def test_a_limited_job_whose_worker_died_runs_alone(queue: Queue, team: Team, monkeypatch: Any) -> None:
    monkeypatch.setattr("worker.loop.selection.EXCLUSIVE_WAIT", -1)
    limit("s", 3)
    queue.enqueue("true", id="o1")
    worker = team.worker(3)
    assert team.takes(worker) == ["o1"]
    queue.enqueue("true", id="lost", limits="s")
    factories.change_job("lost", losses=1)
    queue.enqueue("true", id="o2")
    assert team.takes(worker) == []  # it makes room
    assert team.takes(team.ends("o1")) == ["lost"]
    assert team.takes(worker) == []


@pytest.mark.parametrize("door", ["run_now", "requeue", "retry", "edit", "canary", "schedule", "schedule run now"])
def test_no_door_leads_around_a_limit(queue: Queue, team: Team, door: str) -> None:
    limit("s", 1)
    queue.enqueue("true", id="a", limits="s")
    assert team.takes(team.worker()) == ["a"]
    second = enter_by(door)
    assert team.takes(team.worker()) == []
    assert (queue.job(second).state, queue.job(second).limits) == ("pending", "s")


def enter_by(door: str) -> str:
    """Make a second job with the key `s` pending. Returns its id."""
    if door.startswith("schedule"):
        job = {"command": "true", "limits": ["s"]}
        schedule_actions.add(schedule_spec.parse({"name": "n", "every": "1h", "job": job}), ANA)
        if door == "schedule run now":
            return schedule_actions.run_now("n", ANA)
        with writing() as session:
            due = clock.now() - clock.SECOND
            session.execute(update(Schedule).values(next_fire_at=due, cursor=due - 1))
        connection = worker_connection()
        Decider(connection).decide()
        connection.close()
        with reading() as session:
            return session.scalars(select(Job.id).where(Job.schedule == "n")).one()
    state = {"run_now": "scheduled", "retry": "failed"}.get(door, "dead")
    factories.make_job(state, id="b", limits="s", **({"run_at": 1} if door == "retry" else {}))
    if door == "canary":
        canary.start(JobFilter(), ANA)
    elif door == "edit":
        editing.edit("b", {"command": "false"}, ANA)
    elif door != "retry":
        actions.apply(door, ["b"], ANA)
    return "b"


@pytest.mark.postgresql
@pytest.mark.only("postgresql")
def test_only_one_worker_chooses_at_a_time(queue: Queue, team: Team) -> None:
    """With a check in each transaction and no lock, both would start a job."""
    limit("s", 1)
    for job_id in ("a", "b"):
        queue.enqueue("true", id=job_id, limits="s")
    first, second = team.worker(), team.worker()
    with first._claims as turn:
        assert turn.fetch(TRY_LIMITED_LOCK)[0][0]
        assert team.takes(second) == []
        assert second.due_in() < 1  # it tries again soon
    assert team.takes(second) == ["a"]
    assert team.takes(first) == []


# --- the order of queues ---


def fill_two_queues(queue: Queue) -> None:
    limit("s", 50)
    for number in range(12):
        queue.enqueue("true", id=f"b{number}", queue="b", priority=5)
        queue.enqueue("true", id=f"a{number}", queue="a", **({"limits": "s"} if number % 2 else {}))


def test_in_strict_order_a_queue_starts_jobs_only_if_those_before_have_none(queue: Queue, team: Team) -> None:
    fill_two_queues(queue)
    worker = team.worker(9, queues=["a", "b"], order="strict")
    assert [job_id[0] for job_id in team.takes(worker)] == ["a"] * 9
    another = team.worker(9, queues=["a", "b"], order="strict")
    assert Counter(job_id[0] for job_id in team.takes(another)) == {"a": 3, "b": 6}


@pytest.mark.postgresql
def test_by_weights_each_slot_goes_to_a_queue_by_chance_and_none_stays_free(
    queue: Queue, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_two_queues(queue)
    monkeypatch.setattr("random.choices", lambda names, weights, k: [names[0]] * (k * weights[0] // sum(weights)))
    monkeypatch.setattr("random.sample", lambda names, k: sorted(names, reverse=True)[:k])
    worker = team.worker(8, queues=["a", "b"], order=[3, 1])
    assert Counter(job_id[0] for job_id in team.takes(worker)) == {"a": 6, "b": 2}
    another = team.worker(16, queues=["a", "b"], order=[3, 1])
    assert Counter(job_id[0] for job_id in team.takes(another)) == {"a": 6, "b": 10}


def test_a_release_wakes_other_workers_only_if_it_leaves_them_something(
    queue: Queue, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited, "HEAD", 3)
    limit("one", 1)
    limit("two", 2)
    for number in range(6):
        queue.enqueue("true", id=f"a{number}", limits="one")
    worker = team.worker()
    assert team.takes(worker) == ["a0"]
    woken: list[bool] = []
    monkeypatch.setattr("worker.loop.claims.Turn.wake_workers", lambda _: woken.append(True))
    assert team.takes(team.ends("a0")) == ["a1"]
    assert woken == []
    queue.enqueue("true", id="b", limits="two")  # behind a lane of blocked jobs
    assert team.takes(team.ends("a1")) == ["a2"]
    assert woken == [True]
