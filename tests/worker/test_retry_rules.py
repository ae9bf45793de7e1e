"""Retry rules and reports with real workers."""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest
from sqlalchemy import select

from tests.worker.conftest import Fleet, Queue, both_ways
from webapp.db.engines import reading
from webapp.db.models import Report
from webapp.jobs import job_detail, queue_actions

ANA = "person:ana"


def report(queue: Queue, job_id: str) -> dict[str, Any]:
    with reading() as session:
        found = job_detail.report(session, queue.job(job_id))
    return {} if found is None else job_detail.report_json(found)


@pytest.mark.postgresql
@both_ways
def test_rules_decide_what_follows_a_failure(queue: Queue, fleet: Callable[..., Fleet]) -> None:
    queue.set(backoff_base=100, backoff_max=86_400, backoff_jitter=0, max_retries=3)
    rules = ["exit 3: success", "exit 64: bury", "output no such host: bury", "exit 75: wait", "backoff fixed 0.05s"]
    told = """echo '{"retry_after": 0.01}' >> "$QUEUECTL_REPORT"; """
    success = queue.enqueue("echo fine; exit 3", retry=rules)
    bury = queue.enqueue("exit 64", retry=rules)
    by_output = queue.enqueue("echo no such host; exit 1", retry=rules)
    fixed = queue.enqueue("exit $((QUEUECTL_ATTEMPT < 3))", retry=rules)
    wait = queue.enqueue(f"{told}exit $((QUEUECTL_ATTEMPT < 2 ? 75 : 0))", retry=rules)
    unruled = queue.enqueue(f"{told}exit $((QUEUECTL_ATTEMPT < 2))")
    usual = queue.enqueue("exit 75")
    fleet(slots=4)

    done = queue.reaches(success, "completed")
    assert (done.exit_code, done.last_error, done.failures) == (3, None, 0)
    assert [one.state for one in queue.attempts(success)] == ["completed"]
    assert queue.verbs(success) == ["retry_rule"]
    assert queue.reaches(bury, "dead").attempts == 1
    [event] = [one for one in queue.events(f"job:{bury}") if one.verb == "retry_rule"]
    assert json.loads(event.detail or "")["text"] == "the rule is 'exit 64: bury', so the job is not retried"
    assert queue.reaches(by_output, "dead").attempts == 1
    assert queue.reaches(fixed, "completed").attempts == 3
    assert queue.reaches(wait, "completed").attempts == 2
    assert queue.reaches(unruled, "completed").attempts == 2
    assert queue.reaches(usual, "failed").attempts == 1


def test_the_rules_of_a_queue_hold_for_jobs_without_their_own(queue: Queue, fleet: Callable[..., Fleet]) -> None:
    queue.set(max_retries=3)
    first = queue.enqueue("exit 64", max_retries=0)
    fleet()
    queue.reaches(first, "dead")
    queue_actions.set_retry_rules("default", queue_actions.read_rules("any: bury"), ANA)
    of_queue = queue.enqueue("exit 1")
    own = queue.enqueue("exit 1", retry="exit 1: success")
    assert queue.reaches(of_queue, "dead").attempts == 1
    queue.reaches(own, "completed")


@pytest.mark.postgresql
@both_ways
def test_a_command_reports_while_it_runs_and_when_it_ends(
    queue: Queue, fleet: Callable[..., Fleet], eventually: Callable[..., Any]
) -> None:
    fleet(slots=2)
    script = """
echo '{"progress": 0.4, "note": "page 4"}' >> "$QUEUECTL_REPORT"
until [ -e "$GO" ]; do sleep 0.05; done
echo '{"result": {"pages": 10}}' >> "$QUEUECTL_REPORT"
echo nonsense >> "$QUEUECTL_REPORT"
"""
    go = queue.config.home / "go"
    job_id = queue.enqueue(script, env={"GO": str(go)})
    silent = queue.enqueue('test -d "$(dirname "$QUEUECTL_REPORT")"')

    def live() -> bool:
        return report(queue, job_id).get("progress") == 0.4

    eventually(live)
    assert queue.job(job_id).state == "processing"
    go.touch()
    queue.reaches(job_id, "completed")
    queue.reaches(silent, "completed")
    said = report(queue, job_id)
    assert (said["progress"], said["note"], said["result"]) == (0.4, "page 4", {"pages": 10})
    assert said["fault"] == "1 line was ignored. The first: it is not a JSON object."
    assert report(queue, silent) == {}
    assert not list((queue.config.home / "scripts").glob("*/*.report"))
    with reading() as session:
        assert list(session.scalars(select(Report.job_seq))) == [queue.job(job_id).seq]


@pytest.mark.postgresql
def test_a_waiting_key_is_free_once_its_job_has_started(
    queue: Queue, fleet: Callable[..., Fleet], eventually: Callable[..., Any]
) -> None:
    """Also while the job is retried: it never takes the key again, so nothing that a worker does can fail because of
    it."""
    queue.set(backoff_base=1, backoff_max=1, backoff_jitter=0)
    unique = {"key": "k", "while": "waiting", "on_conflict": "return"}
    fleet(slots=1)
    go = queue.config.home / "go"
    first = queue.enqueue(f"until [ -e {go} ]; do sleep 0.05; done; exit $((QUEUECTL_ATTEMPT < 2))", unique=unique)
    queue.reaches(first, "processing")
    second = queue.enqueue("true", unique=unique)
    assert second != first
    assert queue.enqueue("true", unique=unique) == second
    go.touch()
    queue.reaches(first, "completed")
    queue.reaches(second, "completed")
    assert queue.job(first).attempts == 2
