"""What messages say, and that no job can put anything else into them."""

from __future__ import annotations

import json
from typing import Any, Optional

import pytest

from tests.factories import make_attempt, make_job
from tests.notifications.receivers import add_channel, add_delivery
from webapp.db.engines import reading, writing
from webapp.db.models import Channel, Delivery, Group, Job
from webapp.lib import clock
from webapp.notifications import message
from webapp.notifications.message import Message

DAY = clock.DAY
EVIL = "<script>alert(1)</script>"


def built(kind: str, detail: dict[str, Any], *, suppressed: int = 0, url: Optional[str] = None) -> Message:
    channel = add_channel(f"ops{clock.counter()}", kind="webhook", url="https://hooks.example.org/x")
    made = add_delivery(channel, kind, detail=detail)
    with reading() as session:
        row = session.get_one(Delivery, made)
        return message.build(session, session.get_one(Channel, channel), row, suppressed=suppressed, public_url=url)


def death(output: bytes = b"reading\ncannot open /srv/db\n", **values: Any) -> Job:
    fields = {"command": "backup.sh --day 17", "last_error": "exit code 1: cannot open /srv/db", "error_key": "k1"}
    job = make_job("dead", **{**fields, **values})
    make_attempt(job, output=output)
    return job


def of_group(job: Job, **values: Any) -> dict[str, Any]:
    now = clock.now()
    group = {
        "rule": "deaths",
        "event": "job-dead",
        "key": f"group:{job.error_key}",
        "subject": f"group:{job.error_key}",
    }
    return {**group, "count": 1, "new": 1, "opened_at": now, "last_at": now, "job_seq": job.seq, "notice": {}, **values}


@pytest.mark.usefixtures("app")
@pytest.mark.postgresql
def test_a_death_says_what_failed_with_its_last_lines_note_and_links() -> None:
    good = make_job("completed", command="backup.sh --day 16")
    make_attempt(good, output=b"reading\nall fine\n")
    job = death()
    with writing() as session:
        session.add(
            Group(key="k1", note="Ask Bob first.", owner="bob", changed_at=clock.now(), changed_by="person:bob")
        )
    made = built("alert", of_group(job, count=3), url="https://q.example.org/queue")
    assert made.subject == "3 jobs failed: exit code 1: cannot open /srv/db (backup.sh --day 17)"
    for part in (
        "Owner: bob",
        "Note: Ask Bob first.",
        "cannot open /srv/db\n",
        f"Difference from the last success ({good.id})",
        "- all fine",
        "+ cannot open /srv/db",
        f"https://q.example.org/queue/job/{job.id}",
        "https://q.example.org/queue/dead/k1",
        "manage.py rule mute deaths --until 2h",
    ):
        assert part in made.text
    event = json.loads(made.body)
    assert (event["type"], event["event"]) == ("alert", "job-dead")
    assert event["data"]["group"] == {"key": "k1", "note": "Ask Bob first.", "owner": "bob"}
    assert event["data"]["job"]["id"] == job.id
    assert event["data"]["difference"]["good"] == good.id
    assert event["data"]["links"]["job"].endswith(job.id)


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("kind", "changes", "subject"),
    [
        ("alert", {"event": "group-new"}, "New kind of failure: exit code 1: cannot open /srv/db (backup.sh"),
        ("alert", {"event": "attempt-failed"}, "1 attempt failed: exit code 1"),
        ("update", {"count": 12, "new": 9}, "9 more jobs failed: exit code 1"),
        ("recovery", {"count": 12, "seconds": 7500.0}, "Recovered after 2 h 5 min: exit code 1"),
        ("flapping", {}, "Flapping, fails and recovers repeatedly: exit code 1"),
    ],
)
def test_each_kind_says_what_happened(kind: str, changes: dict[str, Any], subject: str) -> None:
    assert built(kind, of_group(death(), **changes)).subject.startswith(subject)


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("event", "subject", "notice", "said", "more"),
    [
        ("schedule-late", "schedule:nightly", {"reason": "its job waits"}, "Schedule nightly: its job waits", ""),
        ("schedule-missed", "schedule:nightly", {"number": 3, "first": DAY, "last": 2 * DAY, "reason": "too late"},
         "Schedule nightly: 3 fires were missed: too late", "First missed: 1970-01-02 00:00:00 UTC"),
        ("queue-old", "queue:mail", {"oldest": DAY, "paused": True},
         "Queue mail: the oldest pending job of a queue has waited too long", "Paused: yes"),
        ("worker-lost", "host:web-1", {"worker": "w1", "text": "it crashed"}, "Host web-1: it crashed", "Worker: w1"),
        ("disk-low", "host:web-1", {"free": 2**29},
         "Host web-1: the disk of the database is nearly full", "Free: 512.0 MiB"),
        ("canary-ended", "action:7", {"text": "job1 completed", "passed": True}, "Activity 7: job1 completed", ""),
    ],
)  # fmt: skip
def test_what_is_no_job_is_told_in_a_sentence(event: str, subject: str, notice: Any, said: str, more: str) -> None:
    made = built("alert", {"rule": "r", "event": event, "subject": subject, "count": 1, "new": 1, "notice": notice})
    assert made.subject == said
    assert more in made.text


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("state", "said"), [("completed", "completed"), ("dead", "failed"), ("cancelled", "was cancelled")]
)
def test_the_end_of_a_watched_job_is_told(state: str, said: str) -> None:
    job = make_job(state, id="import-7")
    made = built("job-ended", {"job": job.id, "job_seq": job.seq, "state": state, "by": "person:ana"})
    assert made.subject == f"Job import-7 {said}"
    assert made.event["data"]["state"] == state


@pytest.mark.usefixtures("app")
def test_a_job_that_was_deleted_is_told_without_it() -> None:
    made = built("alert", {**of_group(death()), "job_seq": 10**9})
    assert "The job has been deleted." in made.text


@pytest.mark.usefixtures("app")
def test_suppressed_messages_are_counted() -> None:
    made = built("test", {"actor": "person:ana"}, suppressed=4)
    assert "4 more messages were suppressed: this channel sends at most 20 per hour." in made.text
    assert made.event["data"]["suppressed"] == 4


@pytest.mark.usefixtures("app")
def test_html_of_a_job_is_shown_as_text() -> None:
    job = death(f"{EVIL}\n<img src=x onerror=alert(1)>\n".encode(), command=f"echo '{EVIL}'", last_error=EVIL)
    with writing() as session:
        session.add(Group(key="k1", note=EVIL, owner=None, changed_at=clock.now(), changed_by="person:bob"))
    made = built("alert", of_group(job, rule=EVIL, notice={EVIL: EVIL}), url='https://q.example.org/"onclick="x')
    assert "<script" not in made.html
    assert "<img" not in made.html
    assert '"onclick="' not in made.html
    assert "&lt;script&gt;" in made.html
    assert EVIL in made.text


@pytest.mark.usefixtures("app")
def test_nothing_of_a_job_ends_a_line_of_the_subject() -> None:
    job = death(
        command="echo a\r\nBcc: eve@evil.example\r\n\r\nbody", last_error="x\r\nSubject: y\u2028z\x1b[31m\u202e"
    )
    made = built("alert", of_group(job))
    assert all(char.isprintable() for char in made.subject)
    assert made.text.startswith(made.subject[:50])
    ended = built("job-ended", {"job": "a\r\nBcc: eve@evil.example", "job_seq": None, "state": "dead"})
    assert ended.subject == r"Job a\r\nBcc: eve@evil.example failed"


@pytest.mark.usefixtures("app")
def test_large_and_invalid_output_stays_small_and_readable() -> None:
    output = b"\xff\xfe invalid \x00\x1b]0;title\x07\n" * 10 + b"x" * 10_000_000
    job = death(output, command="y" * 60_000, last_error="z" * 5000)
    made = built("alert", of_group(job))
    assert len(made.body) < 20_000
    assert len(made.text) < 20_000
    assert len(made.subject) <= message.MAX_SUBJECT
    made.body.decode()
    made.html.encode()


@pytest.mark.usefixtures("app")
def test_the_end_of_short_lines_is_kept() -> None:
    job = death(b"".join(b"line %d \xe2\x82\n" % number for number in range(200)))
    made = built("alert", of_group(job))
    output = made.event["data"]["output"].split("\n")
    assert len(output) == message.OUTPUT_LINES
    assert output[-1].startswith("line 199")
