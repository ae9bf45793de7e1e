"""What a job may be, what may be done to it and what a search finds does not depend on the way in.

The rules themselves are tested where they live: `tests/webapp/test_jobspec.py`, `test_enqueue.py`, `test_search.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.faces.conftest import Face
from tests.factories import make_job
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail
from webapp.lib import clock

# Of each field one value that it refuses, and what every face says of it.
REFUSED: list[tuple[str, Any, str]] = [
    ("command", "  ", "is empty"),
    ("command", "a\0b", "NUL character"),
    ("id", "no spaces", "expected 1 to 128 characters"),
    ("queue", "-x", "the first a letter or digit"),
    ("queue", "_system", "the first a letter or digit"),  # of the jobs that send messages
    ("requires", "gpu, -x", "'-x' is not a valid label"),
    ("priority", 101, "101 is not allowed; expected a whole number from -100 to 100"),
    ("max_retries", -1, "from 0 to 1000"),
    ("timeout", 0, "more than 0"),
    ("delay", -1, ""),
    ("run_at", "tomorrow", ""),
    ("cwd", "srv", "absolute path"),
    ("env", {"QUEUECTL_X": "1"}, "queuectl sets QUEUECTL_… variables itself"),
    ("env", {"MY-VAR": "1"}, "'MY-VAR' is not a variable name"),
    ("env", {"export REGION": "eu"}, "Leave out 'export'."),
    ("env", {"#E": "1"}, "Leave out comments."),
    ("timeout", "soon", "'soon' is not a duration"),
    ("delay", "11y", "'11y' is not a duration"),
    ("unique", "a\u2028b", "an invisible character"),
    ("retry", "exit 0: success", "0 is not an exit code above 0"),
]

# A verb, a state that it moves with the state afterwards, and a state that it leaves alone.
VERBS = [
    ("requeue", "dead", "pending", "pending"),
    ("run-now", "scheduled", "pending", "completed"),
    ("cancel", "failed", "cancelled", "dead"),
    ("discard", "dead", None, "processing"),
]

SEARCHES = [
    ("letter", ["c", "a"]),
    ("state:dead", ["b", "a"]),
    ("state:dead queue:mail", ["a"]),
    ("exit:7", ["b"]),
    ('"send letter"', ["c"]),
    ("nothing-like-it", []),
]


def test_every_face_refuses_a_field_with_the_same_message_and_stores_nothing(face: Face) -> None:
    for field, value, words in REFUSED:
        said = face.submit(**{"command": "true", field: value})
        assert field in said, (field, value)
        assert words.lower() in said.lower()
    with reading() as session:
        assert session.query(Job).count() == 0


def test_every_face_reports_all_errors_together(face: Face) -> None:
    said = face.submit(command="", id="-", priority=900)
    assert [field in said for field in ("command", "id", "priority")] == [True, True, True]


def test_every_face_reports_a_taken_id_with_the_state_of_its_job(face: Face) -> None:
    make_job("dead", id="job1")
    assert "'job1' is already used by a dead job" in face.submit(command="true", id="job1")


def test_every_face_passes_every_field_to_the_job(face: Face) -> None:
    said = face.submit(command="echo hi", id="job1", queue="mail", requires="ssd, gpu", priority=-5, max_retries=7,
                       timeout="10m", cwd="/srv", env={"A": "b=c"}, delay="1h")  # fmt: skip
    assert said == ""
    with reading() as session:
        job = session.query(Job).one()
    assert (job.id, job.command, job.queue, job.requires, job.priority) == ("job1", "echo hi", "mail", "gpu,ssd", -5)
    assert (job.max_retries, job.timeout, job.cwd, job.env) == (7, 600.0, "/srv", '{"A": "b=c"}')
    assert (job.state, job.run_at - job.created_at) == ("scheduled", clock.seconds(3600))


def test_every_face_converts_line_ends_to_those_of_a_shell(face: Face) -> None:
    for command in ("\ufeffmkdir a\r\nmkdir b\r\n", "mkdir a\rmkdir b\r", "mkdir a\nmkdir b\n"):
        assert face.submit(command=command) == ""
    with reading() as session:
        assert {job.command for job in session.query(Job)} == {"mkdir a\nmkdir b\n"}


@pytest.mark.postgresql
def test_every_face_moves_jobs_in_allowed_states_and_refuses_others(face: Face) -> None:
    for verb, before, after, other in VERBS:
        make_job(before, id=f"may-{verb}")
        make_job(other, id=f"not-{verb}")
        assert face.act(verb, f"may-{verb}"), verb
        assert not face.act(verb, f"not-{verb}"), verb
        with reading() as session:
            moved, left = (job_detail.find(session, f"{which}-{verb}") for which in ("may", "not"))
        assert (moved.state if moved else None, left.state if left else None) == (after, other), verb


def test_every_face_requests_a_running_job_to_stop(face: Face) -> None:
    make_job("processing", id="job1")
    assert face.act("cancel", "job1")
    with reading() as session:
        job = job_detail.find(session, "job1")
    assert job is not None
    assert (job.state, job.cancel_requested_at is not None) == ("processing", True)


@pytest.mark.postgresql
def test_a_search_finds_the_same_jobs_in_every_face(face: Face) -> None:
    make_job("dead", id="a", queue="mail", command="send a LETTER", exit_code=1)
    make_job("dead", id="b", command="report", exit_code=7)
    make_job("completed", id="c", queue="mail", command="send letter")
    for words, expected in SEARCHES:
        assert sorted(face.search(words)) == sorted(expected), words
