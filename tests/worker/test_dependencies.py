"""Jobs that follow other jobs: when they start, and what people do when a parent failed."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Callable, Optional

import pytest
from sqlalchemy import select, text

from tests import factories
from tests.deadline import DEADLINE
from tests.worker.conftest import Queue, assignment
from tests.worker.test_claims import ended
from tests.worker_connection import worker_connection
from webapp.core import job_spec
from webapp.core.flow import dependencies
from webapp.core.job_spec import SpecError
from webapp.core.statements import Statements
from webapp.core.storage.transaction import Connection
from webapp.db.engines import reading, writing
from webapp.db.models import Dependency, Event, Job
from webapp.jobs import actions
from worker.attempt import Claim
from worker.loop.dispatcher import Dispatcher

ANA = "person:ana"


class Player:
    """Workers without processes: it claims jobs, ends them as told, and may die with what it holds."""

    def __init__(self, connection: Connection, slots: int = 4) -> None:
        self.connection = connection
        self.slots = slots
        self.started: list[str] = []
        self.ends: dict[str, str] = {}  # id → kind of its next end; else it completes
        self.held: list[Claim] = []
        self._numbers = iter(range(1000))
        self.start()

    def start(self) -> None:
        worker = factories.make_worker(id=f"w{next(self._numbers)}").id
        self.dispatcher = Dispatcher(self.connection, worker, assignment(slots=self.slots), lambda: 10.0, list)

    def turn(self) -> None:
        claimed = self.dispatcher.turn()
        self.held += claimed
        self.started += [claim.id for claim in claimed]

    def end(self, claim: Claim) -> None:
        self.held.remove(claim)
        self.dispatcher.done(ended(claim, self.ends.pop(claim.id, "completed")))

    def run(self, turns: int = 10_000) -> list[str]:
        """Take turns until nothing is left to do. Returns the jobs started meanwhile, in order."""
        before = len(self.started)
        for _ in range(turns):
            self.turn()
            for claim in list(self.held):
                self.end(claim)
            if not self.held and self.dispatcher.due_in() > 1:
                break
        return self.started[before:]


@pytest.fixture
def player(queue: Queue, connection: Connection) -> Player:
    return Player(connection)


def submit(*jobs: Mapping[str, Any], **more: Any) -> list[str]:
    return actions.enqueue([job_spec.parse({"command": "true", **job}) for job in jobs], ANA, **more)


def state_of(job_id: str) -> Optional[str]:
    with reading() as session:
        return session.scalar(select(Job.state).where(Job.id == job_id))


def states() -> dict[str, str]:
    with reading() as session:
        return dict(session.execute(select(Job.id, Job.state)).tuples().all())


def edges() -> list[tuple[str, bool]]:
    with reading() as session:
        rows = session.execute(
            select(Job.id, Dependency.parent_id, Dependency.met_at).join(Job, Job.seq == Dependency.job_seq)
        )
        return sorted((f"{child} after {parent}", met is not None) for child, parent, met in rows)


# --- submit ----------------------------------------------------------------------------------------------------------


@pytest.mark.postgresql
def test_jobs_of_one_call_follow_each_other_in_any_order(player: Player) -> None:
    ids = submit({"id": "c", "after": ["b", "a"]}, {"id": "b", "after": "a"}, {"id": "a"}, {"id": "x"})
    assert ids == ["c", "b", "a", "x"]
    assert states() == {"a": "pending", "b": "blocked", "c": "blocked", "x": "pending"}
    assert player.run() == ["a", "x", "b", "c"]
    assert set(states().values()) == {"completed"}


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ([{"id": "a", "after": ["gone"]}], "no such job: 'gone'"),
        ([{"id": "a", "after": ["a"]}], "'a' is the job itself"),
        (
            [{"id": "x"}, {"id": "a", "after": ["c"]}, {"id": "b", "after": ["a"]}, {"id": "c", "after": ["b"]}],
            "wait for each other: a after c after b after a",
        ),
        ([{"id": "a", "after": [{"job": "done", "on": "failure"}]}], "can never run"),
    ],
)  # fmt: skip
def test_a_parent_that_cannot_be_waited_for_is_refused_with_the_name_of_the_field(
    jobs: Sequence[Mapping[str, Any]], told: str, queue: Queue
) -> None:
    factories.make_job("completed", id="done")
    with pytest.raises(SpecError, match=told) as caught:
        submit(*jobs)
    assert {error.field for error in caught.value.errors} == {"after"}
    assert states() == {"done": "completed"}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (5, "expected a list of job ids"),
        ([5], "expected a job id, or"),
        (["bad id"], "not allowed; expected 1 to 128"),
        ([{"job": "a", "on": "never"}], "expected one of success, finish, failure"),
        ([{"job": "a"}, {"job": "a", "on": "finish"}], "given twice"),
        ([{"id": "a"}], "expected a job id, or"),
    ],
)
def test_a_wrong_value_of_after_is_refused(value: Any, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        job_spec.parse({"command": "true", "after": value})


def test_a_text_names_parents_and_how_they_must_end() -> None:
    read = job_spec.parse({"command": "true", "after": "a, b:finish c:failure host:b"}).after
    assert read == (("a", "success"), ("b", "finish"), ("c", "failure"), ("host:b", "success"))
    assert job_spec.parse({"command": "true", "after": ["a", "b:finish", "c:failure", {"job": "host:b"}]}).after == read


@pytest.mark.parametrize("ends", ["completed", "dead", "cancelled"])
@pytest.mark.parametrize("on", ["success", "finish", "failure"])
def test_a_parent_that_has_ended_decides_at_once(ends: str, on: str, queue: Queue) -> None:
    if (ends, on) == ("completed", "failure"):
        return  # refused, see above
    factories.make_job(ends, id="p")
    submit({"id": "child", "after": [{"job": "p", "on": on}]})
    met = on == "finish" or (on == "success") == (ends == "completed")
    assert state_of("child") == ("pending" if met else "blocked")


# --- while parents end -----------------------------------------------------------------------------------------------


@pytest.mark.postgresql
def test_a_dead_parent_leaves_its_followers_blocked_and_a_requeue_goes_on(player: Player) -> None:
    submit(
        {"id": "a", "max_retries": 0},
        {"id": "b", "after": "a"},
        {"id": "c", "after": "b"},
        {"id": "no", "after": "a:failure"},
    )
    player.ends["a"] = "failed"
    assert player.run() == ["a", "no"]
    assert states() == {"a": "dead", "b": "blocked", "c": "blocked", "no": "completed"}
    actions.apply("requeue", ["a"], ANA)
    assert player.run() == ["a", "b", "c"]


def test_a_follower_of_a_failure_is_cancelled_when_the_parent_completes(player: Player) -> None:
    submit({"id": "a"}, {"id": "b", "after": "a:failure"}, {"id": "c", "after": "b:finish"}, {"id": "d", "after": "b"})
    assert player.run() == ["a", "c"]
    assert states() == {"a": "completed", "b": "cancelled", "c": "completed", "d": "blocked"}
    with reading() as session:
        [event] = session.scalars(select(Event).where(Event.subject == "job:b"))
    assert (event.verb, event.actor) == ("cancel", dependencies.RULE)
    assert "a completed" in str(event.detail)


@pytest.mark.postgresql
def test_a_follower_that_is_submitted_while_the_parent_runs_starts_at_its_end(player: Player) -> None:
    submit({"id": "a"})
    player.turn()
    submit({"id": "b", "after": "a"})
    player.turn()  # reads that someone follows
    player.end(player.held[0])
    player.turn()
    assert player.started == ["a", "b"]


def test_a_start_time_is_kept_and_time_as_blocked_is_no_waiting(player: Player, queue: Queue) -> None:
    submit({"id": "a"}, {"id": "b", "after": "a"}, {"id": "later", "after": "a", "delay": 3600})
    factories.change_job("b", run_at=1)
    player.run()
    assert state_of("later") == "scheduled"
    assert queue.job("b").run_at >= queue.job("a").finished_at  # type: ignore[operator]


@pytest.mark.postgresql
def test_a_parent_of_many_is_decided_in_bounded_steps(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a transaction are counted and not timed: 10,000 followers take 10,000 / STEP turns."""
    monkeypatch.setattr(dependencies, "STEP", 7)
    decided: list[int] = []
    real = dependencies.decide

    def counted(*arguments: Any, **named: Any) -> int:
        decided.append(real(*arguments, **named))
        return decided[-1]

    monkeypatch.setattr(dependencies, "decide", counted)
    submit({"id": "a"}, *({"id": f"c{number}", "after": "a"} for number in range(30)))
    assert len(player.run()) == 31
    assert set(states().values()) == {"completed"}
    assert max(decided) <= 8  # 7 edges, and the parent
    assert sum(decided) == 31


@pytest.mark.postgresql
def test_two_transactions_that_decide_the_last_two_edges_unblock_the_follower(player: Player, queue: Queue) -> None:
    """On PostgreSQL neither sees what the other has decided, so the second one leaves the edge for later."""
    submit({"id": "a"}, {"id": "b"}, {"id": "c", "after": "a b"})
    for parent in ("a", "b"):
        factories.change_job(parent, state="completed", finished_at=1)
    seqs = {parent: queue.job(parent).seq for parent in ("a", "b")}
    other = worker_connection()
    try:
        sqlite = other.is_sqlite
        if sqlite:
            for parent in ("a", "b"):
                with other.transaction() as transaction:
                    dependencies.decide(transaction.execute, 2, is_sqlite=sqlite, parents=[seqs[parent]])
        else:
            with other.transaction() as first:
                assert dependencies.decide(first.execute, 2, is_sqlite=sqlite, parents=[seqs["a"]]) == 2
                with player.connection.transaction() as second:
                    assert dependencies.decide(second.execute, 2, is_sqlite=sqlite, parents=[seqs["b"]]) == 0
    finally:
        other.close()
    assert player.run() == ["c"]


@pytest.mark.only("postgresql")
@pytest.mark.parametrize("by", ["settle", "cancel"])
def test_nothing_that_writes_several_jobs_waits_for_one_while_it_holds_a_later_one(
    player: Player, queue: Queue, by: str, eventually: Callable[..., Any]
) -> None:
    submit({"id": "first"}, {"id": "behind"})
    player.turn()
    for claim in sorted(player.held, key=lambda one: -one.seq):
        player.end(claim)
    if by == "cancel":
        player.turn()
        submit({"id": "z"}, {"id": "a"})
        factories.change_job("z", priority=1)  # its row stands behind the other one now
    one, later = ("z", "a") if by == "cancel" else ("first", "behind")

    def act() -> None:
        with queue.app.app_context():
            if by == "settle":
                player.dispatcher.turn()
            else:
                actions.apply("cancel", [later, one], ANA)

    writer = threading.Thread(target=act)
    submitter = worker_connection()
    # As a submit locks the parents of a new job.
    with submitter.transaction() as transaction:
        transaction.execute("SELECT 1 FROM jobs WHERE id = :id FOR NO KEY UPDATE", {"id": one})
        writer.start()
        eventually(waits_for_a_lock)
        transaction.execute("SELECT 1 FROM jobs WHERE id = :id FOR NO KEY UPDATE NOWAIT", {"id": later})
    writer.join(DEADLINE)
    submitter.close()
    assert {state_of(one), state_of(later)} == {"completed" if by == "settle" else "cancelled"}


def waits_for_a_lock() -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with reading() as session:
        return bool(session.scalar(text(waiting)))


@pytest.mark.only("sqlite")
def test_workers_look_for_ended_parents_by_an_index(connection: Connection) -> None:
    plan = "\n".join(str(row[-1]) for row in connection.query(f"EXPLAIN QUERY PLAN {Statements(is_sqlite=True).look}"))
    assert "ix_jobs_followed (followed=? AND finished_at>?)" in plan


# --- people ----------------------------------------------------------------------------------------------------------


def test_a_drain_waits_for_the_followers_of_its_own_jobs_and_not_for_jobs_of_other_queues(
    player: Player, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "STEP", 1)  # so the ends of the parents are decided in several turns
    parents = ["p1", "p2", "p3"]
    submit(
        *({"id": one, "queue": "mine"} for one in parents),
        {"id": "child", "queue": "mine", "after": parents},
        {"id": "elsewhere", "queue": "other"},
        {"id": "stays", "queue": "mine", "after": ["elsewhere"]},
    )
    drains = replace(assignment(slots=4, queues=["mine"]), drain=True)
    player.dispatcher = Dispatcher(connection, "w0", drains, lambda: 10.0, list)
    for _ in range(20):
        player.turn()
        for claim in list(player.held):
            player.end(claim)
        if player.dispatcher.stop_requested:
            break
    assert player.started == [*parents, "child"]
    assert player.dispatcher.stop_requested
    assert (state_of("elsewhere"), state_of("stays")) == ("pending", "blocked")


def test_run_now_releases_a_blocked_job_and_an_undo_blocks_it_again(player: Player) -> None:
    submit({"id": "a", "max_retries": 0}, {"id": "b", "after": "a"})
    player.ends["a"] = "failed"
    player.run()
    done = actions.apply("run_now", ["b"], ANA)
    assert state_of("b") == "pending"
    actions.undo(done.action_id, ANA)
    assert state_of("b") == "blocked"
    actions.apply("run_now", ["b"], ANA)
    assert player.run() == ["b"]


def test_an_undo_of_a_cancel_does_not_block_a_job_whose_parent_ended_meanwhile(player: Player) -> None:
    submit({"id": "a"}, {"id": "b", "after": "a"})
    done = actions.apply("cancel", ["b"], ANA)
    assert player.run() == ["a"]
    actions.undo(done.action_id, ANA)
    assert player.run() == ["b"]


@pytest.mark.postgresql
def test_an_undo_of_a_cancelled_chain_keeps_its_order(player: Player) -> None:
    submit({"id": "a", "max_retries": 0}, {"id": "b", "after": "a"}, {"id": "c", "after": "b:finish"})
    player.ends["a"] = "failed"
    player.run()
    done = actions.apply("cancel", ["c", "b"], ANA)
    player.run()
    actions.undo(done.action_id, ANA)
    assert states() == {"a": "dead", "b": "blocked", "c": "blocked"}
    actions.apply("requeue", ["a"], ANA)
    assert player.run() == ["a", "b", "c"]


def test_a_chain_that_was_cancelled_and_requeued_as_a_whole_keeps_its_order(player: Player) -> None:
    submit({"id": "a"}, {"id": "b", "after": "a"}, {"id": "c", "after": "b:finish"})
    actions.apply("cancel", ["a", "b", "c"], ANA)
    player.run()
    done = actions.apply("requeue", ["c", "b", "a"], ANA)
    assert states() == {"a": "pending", "b": "blocked", "c": "blocked"}
    actions.undo(done.action_id, ANA)
    assert set(states().values()) == {"cancelled"}
    actions.apply("requeue", ["c", "b", "a"], ANA)
    assert player.run() == ["a", "b", "c"]


def test_a_completed_parent_that_is_requeued_is_waited_for_again(player: Player) -> None:
    submit({"id": "a"}, {"id": "slow"}, {"id": "join", "after": "a slow"})
    player.turn()
    player.end(next(claim for claim in player.held if claim.id == "a"))
    player.turn()
    actions.apply("requeue", ["a"], ANA)
    assert edges() == [("join after a", False), ("join after slow", False)]
    assert player.run() == ["a", "join"]


def test_a_discarded_parent_has_told_its_end_or_leaves_its_followers_blocked(player: Player) -> None:
    submit({"id": "a"}, {"id": "gone"}, {"id": "b", "after": "a"}, {"id": "c", "after": "gone"})
    factories.change_job("a", state="completed", finished_at=1)  # nobody has looked yet
    actions.apply("discard", ["a", "gone"], ANA)
    assert player.run() == ["b"]
    assert states() == {"b": "completed", "c": "blocked"}


# --- shapes, with workers that die -----------------------------------------------------------------------------------


def diamond(number: int) -> list[dict[str, Any]]:
    middle = [{"id": f"m{place}", "after": ["top"]} for place in range(number - 2)]
    return [{"id": "top"}, *middle, {"id": "bottom", "after": [one["id"] for one in middle]}]


def chain(number: int) -> list[dict[str, Any]]:
    return [{"id": f"c{place}", "after": [f"c{place - 1}"] if place else []} for place in range(number)]


def fan(number: int) -> list[dict[str, Any]]:
    return [{"id": "top"}, *({"id": f"f{place}", "after": ["top"]} for place in range(number))]


_FULL = pytest.mark.full


@pytest.mark.postgresql
@pytest.mark.parametrize(
    "jobs",
    [
        pytest.param(diamond(60), id="diamond"),
        pytest.param(chain(60), id="chain"),
        pytest.param(fan(500), id="fan"),
        pytest.param(diamond(1_000), id="diamond of 1,000", marks=_FULL),
        pytest.param(chain(1_000), id="chain of 1,000", marks=_FULL),
        pytest.param(fan(10_000), id="fan of 10,000", marks=_FULL),
    ],
)
def test_each_job_starts_once_and_after_its_parents_although_workers_die(
    jobs: list[dict[str, Any]], queue: Queue, connection: Connection
) -> None:
    """A job whose worker died starts again. Each other start is the only one, and none is left."""
    luck = random.Random(20)
    submit(*jobs)
    player = Player(connection, slots=20)
    lost: list[str] = []
    completed: set[str] = set()
    parents = {job["id"]: set(job.get("after", [])) for job in jobs}
    for _ in range(20_000):
        before = len(player.started)
        player.turn()
        for job_id in player.started[before:]:
            assert parents[job_id] <= completed, job_id
        if luck.random() < 0.02:  # its worker dies with all that it holds, and others find them
            lost += [claim.id for claim in player.held]
            die(player)
            continue
        for claim in list(player.held):
            if luck.random() < 0.8:
                completed.add(claim.id)
                player.end(claim)
        if len(completed) == len(jobs) and not player.held:
            break
    player.turn()
    assert set(states().values()) == {"completed"}
    assert sorted(player.started) == sorted([*parents, *lost])


def die(player: Player) -> None:
    """Kill the worker: what it held goes back, and what it had not settled is lost."""
    with writing() as session:
        session.execute(
            text("UPDATE jobs SET state = 'pending', token = NULL, worker_id = NULL WHERE state = 'processing'")
        )
    player.held = []
    player.start()
