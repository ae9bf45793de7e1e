"""Jobs that send messages: which workers run them, what they find in their environment, and a real sender."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import psutil
import pytest
from sqlalchemy import select

from tests import factories
from tests.factories import make_job
from tests.notifications.receivers import Receiver, add_channel, add_delivery, delivery, http_receiver
from tests.worker.conftest import Fleet, Queue, assignment
from tests.worker_connection import worker_connection
from webapp.config import CHECKOUT, Config
from webapp.core import enqueue
from webapp.core.flow.retry_rules import MESSAGE_WAIT
from webapp.core.job_spec import JobSpec
from webapp.core.notices import SYSTEM_QUEUE
from webapp.db import engines
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.lib import clock
from webapp.notifications import channels
from worker.attempt import AttemptResult
from worker.loop.dispatcher import Dispatcher
from worker.runner import environment

Start = Callable[..., Fleet]


def submit(command: str, **fields: Any) -> str:
    spec = JobSpec(command, queue=SYSTEM_QUEUE, **fields)
    return enqueue.enqueue(engines.database(), [spec], "rule:notifications")[0]


def test_the_variables_of_their_environment_say_how_to_send(tmp_path: Path) -> None:
    url = "smtp://ana:s3cret@mail.example.org"
    config = Config(
        tmp_path, None, "https://q.example.org", smtp_url=url, mail_from="q@example.org", allow_private_targets=True
    )
    found = environment.of_system_jobs(config)
    address = found.pop("QUEUECTL_SMTP_URL")
    assert address.startswith("file:///proc/")
    assert Path(address[len("file://") :]).read_text() == url
    assert found.pop("QUEUECTL_PYTHON")
    assert found == {
        "QUEUECTL_MANAGE": str(CHECKOUT / "manage.py"),
        "QUEUECTL_MAIL_FROM": "q@example.org",
        "QUEUECTL_PUBLIC_URL": "https://q.example.org",
        "QUEUECTL_ALLOW_PRIVATE_TARGETS": "1",
    }
    open_server = replace(config, smtp_url="smtp://127.0.0.1:25")
    assert environment.of_system_jobs(open_server)["QUEUECTL_SMTP_URL"] == "smtp://127.0.0.1:25"


@pytest.mark.postgresql
def test_a_worker_of_another_queue_runs_them_and_only_they_get_its_variables(
    queue: Queue, fleet: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUECTL_SMTP_URL", "smtp://ana:s3cret@mail.example.org")
    monkeypatch.setenv("QUEUECTL_MAIL_FROM", "q@example.org")
    monkeypatch.setenv("QUEUECTL_ALLOW_PRIVATE_TARGETS", "1")
    monkeypatch.setenv("QUEUECTL_PUBLIC_URL", "https://q.example.org")
    ours, theirs, other = submit("env"), queue.enqueue("env", queue="mail"), queue.enqueue("env")
    fleet(queues=["mail"], labels=["gpu"])
    seen = []
    for job_id in (ours, theirs):
        queue.reaches(job_id, "completed")
        text = queue.attempts(job_id)[0].output.decode()
        seen.append({line.partition("=")[0] for line in text.splitlines() if line.startswith("QUEUECTL_")})
        assert "s3cret" not in text
    sending = {"SMTP_URL", "MAIL_FROM", "ALLOW_PRIVATE_TARGETS", "PUBLIC_URL", "PYTHON", "MANAGE"}
    assert seen[0] - seen[1] == {f"QUEUECTL_{name}" for name in sending}
    assert seen[1] <= seen[0]
    assert queue.job(other).state == "pending"


def test_their_failures_are_in_no_group(queue: Queue, fleet: Start) -> None:
    ours = submit("echo cannot send; exit 1", max_retries=0)
    fleet()
    job = queue.reaches(ours, "dead")
    assert (job.last_error, job.error_key) == ("exit code 1: cannot send", None)
    assert queue.attempts(ours)[0].error_key is None


def test_a_worker_that_drains_does_not_wait_for_a_message_that_cannot_be_sent(queue: Queue, fleet: Start) -> None:
    make_job("failed", queue=SYSTEM_QUEUE)
    ours = submit("true")
    done = fleet(ready=False, drain=True)
    assert done.process.wait(60) == 0
    assert queue.job(ours).state == "completed"


@pytest.mark.postgresql
def test_hung_commands_in_all_slots_do_not_hold_up_a_message(queue: Queue, fleet: Start) -> None:
    hung = [queue.enqueue("sleep 1000") for _ in range(2)]
    fleet(slots=2)
    for job_id in hung:
        queue.reaches(job_id, "processing")
    waiting, ours = queue.enqueue("true"), submit("true")
    queue.reaches(ours, "completed")
    assert [queue.job(job_id).state for job_id in (*hung, waiting)] == ["processing", "processing", "pending"]


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_one_message_at_a_time_is_sent_beside_the_slots() -> None:
    factories.make_worker(id="w1")
    connection = worker_connection()
    dispatcher = Dispatcher(connection, "w1", assignment(slots=2), lambda: 10.0, list)

    def turn(number: int, **values: Any) -> list[str]:
        for one in range(number):
            make_job("pending", id=f"{values.get('queue', 'job')}-{number}-{one}", **values)
        return [claim.id for claim in dispatcher.turn()]

    def end() -> None:
        now = clock.now()
        dispatcher.done(AttemptResult(next(iter(dispatcher._held.values())), "completed", "exit", now, now))

    assert turn(2) == ["job-2-0", "job-2-1"]
    assert turn(2, queue=SYSTEM_QUEUE) == ["_system-2-0"]
    assert turn(1) == [], "neither a job nor a second message"
    end()
    assert turn(0) == ["_system-2-1"], "a free slot is for the next message too"
    end()
    assert turn(0) == ["job-1-0"]
    dispatcher.accept_no_more()
    end()
    assert turn(0) == []
    connection.close()


@pytest.mark.usefixtures("app")
def test_no_message_is_sent_beside_a_job_that_must_run_alone() -> None:
    factories.make_worker(id="w1")
    connection = worker_connection()
    dispatcher = Dispatcher(connection, "w1", assignment(slots=2), lambda: 10.0, list)
    make_job("pending", id="alone", losses=1)
    assert [claim.id for claim in dispatcher.turn()] == ["alone"]
    make_job("pending", id="message", queue=SYSTEM_QUEUE)
    assert dispatcher.turn() == []
    connection.close()


@pytest.mark.postgresql
def test_a_real_sender_that_is_killed_sends_the_message_again_with_the_same_id(
    queue: Queue, fleet: Start, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    monkeypatch.setenv("QUEUECTL_ALLOW_PRIVATE_TARGETS", "1")
    queue.set(backoff_base=1.0, backoff_jitter=0.0)
    with http_receiver() as receiver:
        receiver.drips = True
        channel = add_channel(kind="webhook", url=receiver.url, sender="sender-1")
        waiting = add_delivery(channel)
        spec = channels.sender_job(channel)._replace(id="sender-1")
        enqueue.enqueue(engines.database(), [spec], "rule:notifications")
        fleet(queues=["mail"])
        eventually(lambda: receiver.requests)
        receiver.drips = False
        sender_of(channel).send_signal(signal.SIGKILL)
        queue.reaches("sender-1", "completed")
        assert_repeated(receiver)
    assert delivery(waiting).state == "sent"
    killed, completed = queue.attempts("sender-1")
    assert (killed.signal, completed.state) == (signal.SIGKILL, "completed")
    assert completed.output.decode().splitlines() == [
        f"ops #{waiting}: sent: 200 OK: thanks",
        "ops: no messages waiting",
    ]


def sender_of(channel: int) -> psutil.Process:
    """The process of a channel's sender, which a worker of this test has started."""
    for child in psutil.Process().children(recursive=True):
        if child.cmdline()[-3:] == ["channel", "deliver", str(channel)]:
            return child
    raise AssertionError("no sender runs")


def assert_repeated(receiver: Receiver) -> None:
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.json == second.json


@pytest.mark.usefixtures("app")
def test_a_message_does_not_wait_for_longer_than_a_few_minutes_for_its_next_try() -> None:
    """Its receiver may be back. Other jobs wait as the settings say."""
    factories.make_worker(id="w1")
    connection = worker_connection()
    dispatcher = Dispatcher(connection, "w1", assignment(slots=2), lambda: 10.0, list)
    waits = {}
    for name, values in (("ours", {"queue": SYSTEM_QUEUE}), ("theirs", {"queue": "default"})):
        make_job("pending", id=name, failures=20, max_retries=1000, **values)
    now = clock.now()
    for claim in dispatcher.turn():
        dispatcher.done(AttemptResult(claim, "failed", "exit", now, now, exit_code=1))
    dispatcher.turn()
    connection.close()
    with reading() as session:
        for job in session.scalars(select(Job)):
            waits[job.id] = (job.run_at - now) / clock.SECOND
    assert waits["ours"] <= 1.1 * MESSAGE_WAIT + 60
    assert waits["theirs"] >= 3600
