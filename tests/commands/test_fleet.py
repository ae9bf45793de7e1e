"""`status`, `queue` and `worker list / stop / quiet / resume`: the workers at a glance, and their control."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from tests.factories import make_attempt, make_job, make_queue, make_supervisor, make_worker
from webapp.core.states import STATES
from webapp.db.engines import reading
from webapp.db.models import Queue, Worker
from webapp.jobs import queries
from webapp.lib import clock


def wish_of(worker_id: str) -> str:
    with reading() as session:
        worker = session.get(Worker, worker_id)
    assert worker is not None
    return worker.requested_state


# --- status ---


def test_status_json_has_the_documented_keys(app: Flask, cli: Cli) -> None:
    make_job("dead")
    make_job(run_at=clock.now() - clock.seconds(30))
    make_job("completed")
    make_worker(id="w1", slots=4)
    status = cli("status", "--json").json
    assert list(status["states"]) == list(STATES)
    assert {state: number for state, number in status["states"].items() if number} == {
        "pending": 1,
        "completed": 1,
        "dead": 1,
    }
    assert [(one["id"], one["alive"], one["slots"]) for one in status["workers"]] == [("w1", True, 4)]
    assert 30 <= status["oldest_pending_seconds"] < 60
    assert (status["finished_last_minute"], status["finished_last_hour"]) == (2, 2)


def test_status_and_queue_list_show_rates_wait_times_and_run_times(app: Flask, cli: Cli) -> None:
    now = clock.now()
    for _ in range(4):
        job = make_job("completed", queue="mail")
        make_attempt(job, 1, "completed", started_at=now - clock.SECOND, finished_at=now, due_at=now - 3 * clock.SECOND)
    make_job(queue="mail")
    hour = cli("status", "--json").json["last_hour"]
    assert (hour["completed"], hour["failed"], hour["died"], hour["lost"]) == (4, 0, 0, 0)
    assert hour["run_seconds"]["p50"] == pytest.approx(1, rel=0.05)
    assert hour["wait_seconds"]["p99"] == pytest.approx(2, rel=0.05)
    out = cli("status").out
    assert "runs/min" in out
    assert "wait p50 2 s, p95 2 s; run p50 1 s" in out
    assert [(one["command"], one["runs"]) for one in cli("commands", "--json").json] == [("echo hello", 4)]
    assert "echo hello" in cli("commands", "--over", "7d").out
    queue = next(one for one in cli("queue", "list", "--json").json if one["name"] == "mail")
    assert 0.8 <= queue["runs_per_minute"] <= 4
    assert queue["drain_seconds"] == pytest.approx(60 / queue["runs_per_minute"], rel=0.06)
    assert "CLEARS IN" in cli("queue", "list").out


def test_an_empty_queue_has_a_status_too(app: Flask, cli: Cli) -> None:
    status = cli("status", "--json").json
    assert set(status["states"].values()) == {0}
    assert (status["workers"], status["oldest_pending_seconds"]) == ([], None)
    assert "no pending jobs" in cli("status").out


def test_status_suggests_starting_a_worker_if_jobs_wait_without_one(app: Flask, cli: Cli) -> None:
    make_job()
    assert "manage.py worker start" in cli("status").out
    make_worker()
    assert "1 alive, 1 slot" in cli("status").out


def test_counts_are_exact_beyond_the_cap_of_the_pages(app: Flask, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "COUNT_CAP", 3)
    for _ in range(5):
        make_job()
    assert cli("status", "--json").json["states"]["pending"] == 5


# --- queues ---


def test_a_queue_is_listed_paused_and_resumed(app: Flask, cli: Cli) -> None:
    make_job(queue="mail")
    make_job("processing", queue="mail")
    result = cli("queue", "pause", "mail")
    assert (result.code, result.out, result.err) == (0, "mail: paused\n", "")
    with reading() as session:
        assert session.get_one(Queue, "mail").paused_by == "person:ana"
    default, mail = cli("queue", "list", "--json").json
    assert (mail["name"], mail["paused"], mail["pending"], mail["processing"]) == ("mail", True, 1, 1)
    assert (default["name"], default["paused"], default["oldest_pending_seconds"]) == ("default", False, None)
    assert cli("queue", "list").lines[2].split()[:4] == ["mail", "paused", "1", "1"]
    assert cli("queue", "pause", "mail").out == "mail: already paused\n"
    assert cli("queue", "resume", "mail").out == "mail: resumed\n"
    assert cli("queue", "resume", "mail").out == "mail: not paused\n"


def test_a_queue_without_jobs_cannot_be_paused(app: Flask, cli: Cli) -> None:
    result = cli("queue", "pause", "mali")
    assert (result.code, result.out) == (4, "")
    assert "no such queue: 'mali'" in result.err


def test_several_or_all_queues_are_paused_and_resumed(app: Flask, cli: Cli) -> None:
    make_queue("mail")
    make_queue("reports", paused_by="person:ben")
    assert cli("queue", "pause", "--all").lines == ["default: paused", "mail: paused"]
    assert cli("queue", "pause", "--all").err == "All queues are paused already.\n"
    assert cli("queue", "resume", "mail", "default").lines == ["mail: resumed", "default: resumed"]
    assert cli("queue", "resume", "--all").lines == ["reports: resumed"]
    assert cli("queue", "resume").code == cli("queue", "resume", "mail", "--all").code == 2


def test_paused_queues_are_in_the_status(app: Flask, cli: Cli) -> None:
    make_queue("mail", paused_by="person:ben")
    assert cli("status", "--json").json["paused_queues"] == ["mail"]
    assert "mail" in cli("status").out


# --- workers ---


def test_workers_are_listed_with_their_jobs(app: Flask, cli: Cli) -> None:
    make_worker(id="w1", queues='["mail"]', jobs_completed=1200)
    make_job("processing", id="job1", worker_id="w1")
    make_worker(id="w2", seen_at=clock.now() - clock.seconds(600))
    first, second = cli("worker", "list", "--json").json
    assert (first["id"], first["state"], first["queues"], first["jobs"]) == ("w1", "running", ["mail"], ["job1"])
    assert (second["id"], second["state"], second["alive"]) == ("w2", "silent", False)
    row = cli("worker", "list").lines[1]
    assert row.split()[:2] == ["w1", "running"]
    assert "1,200" in row
    assert row.endswith("mail    job1")


def test_stopped_workers_are_listed_on_request(app: Flask, cli: Cli) -> None:
    make_worker(id="w1", state="stopped", stopped_at=clock.now())
    assert cli("worker", "list", "--json").json == []
    assert [one["id"] for one in cli("worker", "list", "--all", "--json").json] == ["w1"]


@pytest.mark.parametrize(("verb", "wish"), [("drain", "quiet"), ("quiet", "quiet"), ("stop", "stop")])
def test_named_workers_receive_a_request_and_others_do_not(app: Flask, cli: Cli, verb: str, wish: str) -> None:
    make_worker(id="w1")
    make_worker(id="w2")
    result = cli("worker", verb, "w1")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("w1: ")
    assert (wish_of("w1"), wish_of("w2")) == (wish, "run")


def test_without_a_name_all_workers_receive_a_request(app: Flask, cli: Cli) -> None:
    make_worker(id="w1", requested_state="quiet")
    make_worker(id="w2", requested_state="quiet")
    assert cli("worker", "resume").lines == ["w1: taking jobs", "w2: taking jobs"]
    assert (wish_of("w1"), wish_of("w2")) == ("run", "run")


def test_a_stop_says_how_the_pool_shrinks_and_how_to_undo_it(app: Flask, cli: Cli) -> None:
    make_supervisor(id="s1", wanted=4)
    make_worker(id="w1", supervisor_id="s1")
    said = cli("worker", "stop", "w1").err
    assert said == "Supervisor s1: 4 → 3 workers. Undo: manage.py worker scale s1 4\n"


def test_a_worker_that_does_not_run_is_refused(app: Flask, cli: Cli) -> None:
    make_worker(id="w1", state="stopped", stopped_at=clock.now())
    result = cli("worker", "stop", "w1", "w9")
    assert (result.code, result.out) == (5, "")
    assert result.err.splitlines()[0].startswith("w1: is stopped; stop works only for running workers")
    assert result.err.splitlines()[1] == "w9: no such worker."


@pytest.mark.parametrize("verb", ["drain", "resume"])
def test_a_stopping_worker_accepts_no_other_request(app: Flask, cli: Cli, verb: str) -> None:
    make_worker(id="w1", requested_state="stop")
    for names in ([], ["w1"]):
        result = cli("worker", verb, *names)
        assert (result.code, result.out) == (5, "")
        assert result.err.startswith(f"w1: is stopping; {verb} works only for running workers")
    assert wish_of("w1") == "stop"
    assert cli("worker", "stop").lines == ["w1: stop requested; it finishes its jobs first"]


def test_a_supervisor_is_listed_and_scaled(app: Flask, cli: Cli) -> None:
    make_supervisor(id="s1", wanted=2)
    make_worker(id="w1", supervisor_id="s1")
    [one] = cli("worker", "supervisors", "--json").json
    assert (one["id"], one["state"], one["wanted"], one["workers"]) == ("s1", "running", 2, ["w1"])
    assert cli("worker", "supervisors").lines[1].split()[:6] == ["s1", "running", "a-host", str(one["pid"]), "1", "2"]
    assert cli("worker", "scale", "s1", "4").out == "s1: 4 workers (before: 2)\n"
    assert cli("worker", "scale", "s1", "+1").out == "s1: 5 workers (before: 4)\n"
    assert cli("worker", "scale", "s1", "-4").out == "s1: 1 worker (before: 5)\n"
    assert cli("worker", "scale", "s1", "1").out == "s1: 1 worker (unchanged)\n"
    assert cli("worker", "scale", "s1", "0").out == "s1: 0 workers (before: 1)\n"


@pytest.mark.parametrize(
    ("argv", "code", "why"),
    [
        (["s1", "257"], 1, "expected a whole number from 0 to 256"),
        (["s1", "-3"], 1, "-1 is not allowed"),
        (["s1", "many"], 2, "'many' is not a number of workers"),
        (["s2", "1"], 4, "supervisor 's2' does not exist"),
        (["w1", "1"], 4, "'w1' is a worker; its supervisor is s1"),
        (["s3", "1"], 5, "has stopped or is stopping"),
    ],
)
def test_an_invalid_scale_is_one_line(app: Flask, cli: Cli, argv: list[str], code: int, why: str) -> None:
    make_supervisor(id="s1", wanted=2)
    make_supervisor(id="s3", stopped_at=1)
    make_worker(id="w1", supervisor_id="s1")
    result = cli("worker", "scale", *argv)
    assert (result.code, result.out) == (code, "")
    assert why in result.err


def test_an_empty_worker_list_is_no_error(app: Flask, cli: Cli) -> None:
    result = cli("worker", "stop")
    assert (result.code, result.out, result.err) == (0, "", "No workers are running.\n")
    assert "No workers" in cli("worker", "list").err


@pytest.mark.parametrize(
    "argv", [["--count", "0"], ["--count", "x"], ["--slots", "0"], ["--queue", "a b"], ["--queue", ""]]
)
def test_invalid_options_start_no_worker(cli: Cli, argv: list[str]) -> None:
    result = cli("worker", "start", *argv)
    assert (result.code, result.out) == (2, "")
    assert argv[0] in result.err
