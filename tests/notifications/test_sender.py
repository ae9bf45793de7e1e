"""The sender of a channel: in order, within its limit, at least once, and never a message lost."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Optional

import pytest
from flask import Flask
from sqlalchemy import select

from tests.notifications.receivers import (
    SECRET,
    Mailbox,
    Receiver,
    add_channel,
    add_delivery,
    delivery,
    http_receiver,
)
from webapp.config import Config
from webapp.db.engines import reading, writing
from webapp.db.models import Delivery
from webapp.lib import clock
from webapp.notifications import sender
from webapp.notifications.sending import webhook
from webapp.notifications.sending.outcome import PermanentFailure

HOUR = 3600 * clock.SECOND


@pytest.fixture(autouse=True)
def _as_the_job(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUECTL_JOB_ID", "sender-1")


@pytest.fixture
def ready(config: Config, mailbox: Mailbox) -> Config:
    """The configuration of a worker that may reach the receivers."""
    url = f"smtp://127.0.0.1:{mailbox.port}"
    return replace(config, allow_private_targets=True, smtp_url=url, mail_from="queue@example.org")


def hook(receiver: Receiver, **fields: Any) -> int:
    return add_channel(kind="webhook", url=receiver.url, **fields)


def run(channel: int, config: Config) -> tuple[int, list[str]]:
    said: list[str] = []
    return sender.deliver(channel, config, said.append), said


def states(channel: Optional[int] = None) -> list[str]:
    with reading() as session:
        return list(session.scalars(select(Delivery.state).order_by(Delivery.id)))


@pytest.mark.postgresql
def test_messages_are_sent_in_order_and_keep_the_answer(ready: Config, receiver: Receiver) -> None:
    channel = hook(receiver, secret=SECRET)
    ids = [add_delivery(channel) for _ in range(3)]
    code, said = run(channel, ready)
    assert code == 0
    assert [request.headers["webhook-id"].rpartition("_")[2] for request in receiver.requests] == list(map(str, ids))
    assert said == [*(f"ops #{one}: sent: 200 OK: thanks" for one in ids), "ops: no messages waiting"]
    first = delivery(ids[0])
    assert (first.state, first.answer, first.tries) == ("sent", "200 OK: thanks", 1)
    assert first.subject == "Test message to channel ops"
    assert json.loads(first.body or "") == receiver.requests[0].json
    request = receiver.requests[0]
    values = request.headers["webhook-id"], int(request.headers["webhook-timestamp"]), request.body
    assert request.headers["webhook-signature"] == webhook.signature(SECRET, *values)


def test_a_temporary_failure_keeps_the_order_and_fails_the_job(ready: Config, receiver: Receiver) -> None:
    channel = hook(receiver)
    ids = [add_delivery(channel) for _ in range(3)]
    receiver.answers += [(200, {}, b""), (503, {}, b"busy")]
    code, said = run(channel, ready)
    busy = f"ops #{ids[1]}: not sent yet: 503 Service Unavailable: busy"
    assert (code, said) == (1, [f"ops #{ids[0]}: sent: 200 OK", busy])
    waits = delivery(ids[1])
    assert (waits.state, waits.answer, waits.tries) == ("waiting", "503 Service Unavailable: busy", 1)
    assert run(channel, ready)[0] == 0
    assert states() == ["sent"] * 3
    assert delivery(ids[1]).tries == 2
    sent = [request.headers["webhook-id"].rpartition("_")[2] for request in receiver.requests]
    assert sent == [str(one) for one in (ids[0], ids[1], ids[1], ids[2])]


def test_a_permanent_failure_does_not_hold_up_the_next_message(ready: Config, receiver: Receiver) -> None:
    channel = hook(receiver)
    ids = [add_delivery(channel) for _ in range(2)]
    receiver.answers.append((404, {}, b"no such hook"))
    assert run(channel, ready)[0] == 0
    assert states() == ["failed", "sent"]
    assert delivery(ids[0]).answer == "404 Not Found: no such hook"


def test_a_receiver_that_was_away_gets_everything_in_order_and_within_the_limit(ready: Config) -> None:
    with http_receiver() as gone:
        channel = hook(gone, hourly_cap=3)
    ids = [add_delivery(channel, "alert", detail={"event": "disk-low", "count": 1}) for _ in range(5)]
    for _ in range(3):
        code, said = run(channel, ready)
        assert (code, len(said)) == (1, 1)
    assert delivery(ids[0]).tries == 3
    with http_receiver(port=gone.port) as back:
        assert run(channel, ready)[0] == 0
        assert [request.headers["webhook-id"].rpartition("_")[2] for request in back.requests] == [
            str(one) for one in ids[:3]
        ]
        assert states() == ["sent"] * 3 + ["suppressed", "waiting"]  # the newest waits for the next hour
        assert delivery(ids[3]).answer == sender.CAPPED
        oldest = delivery(ids[0]).ended_at
        assert oldest is not None
        assert delivery(ids[4]).not_before == oldest + HOUR
        with writing() as session:  # an hour later
            for row in session.scalars(select(Delivery)):
                row.ended_at = None if row.ended_at is None else row.ended_at - HOUR - 1
                row.not_before -= HOUR + clock.SECOND
        add_delivery(channel, "alert", detail={"event": "disk-low", "count": 1})
        run(channel, ready)
        assert [request.json["data"].get("suppressed") for request in back.requests[3:]] == [1, None]


def test_a_test_is_sent_beyond_the_limit(ready: Config, receiver: Receiver) -> None:
    channel = hook(receiver, hourly_cap=1)
    add_delivery(channel, state="sent")
    add_delivery(channel, "alert", detail={"event": "disk-low"})
    add_delivery(channel)
    assert run(channel, ready)[0] == 0
    assert states() == ["sent", "waiting", "sent"]


def test_without_a_limit_all_are_sent(ready: Config, receiver: Receiver) -> None:
    channel = hook(receiver, hourly_cap=0)
    for _ in range(25):
        add_delivery(channel, "alert", detail={"event": "disk-low"})
    run(channel, ready)
    assert states() == ["sent"] * 25


def test_after_a_day_it_gives_up_with_the_last_answer(ready: Config, receiver: Receiver) -> None:
    channel, now = hook(receiver), clock.now()
    old = now - 24 * HOUR - clock.SECOND
    given_up = add_delivery(channel, created_at=old, not_before=old, answer="503 busy", tries=9)
    quiet = add_delivery(channel, created_at=old, not_before=now - HOUR)  # it had to wait for the end of quiet hours
    assert run(channel, ready)[0] == 0
    assert delivery(given_up).answer == "gave up after 24 h: 503 busy"
    assert (delivery(given_up).state, delivery(quiet).state) == ("failed", "sent")
    assert len(receiver.requests) == 1


def test_a_message_waits_for_the_end_of_quiet_hours(ready: Config, receiver: Receiver) -> None:
    channel = hook(receiver)
    add_delivery(channel, not_before=clock.now() + HOUR)
    assert run(channel, ready) == (0, ["ops: no messages waiting"])


@pytest.mark.parametrize("job", ["sender-2", None])
def test_only_the_channels_own_job_sends(
    job: Optional[str], ready: Config, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = hook(receiver, sender=job)
    add_delivery(channel)
    if job is None:
        monkeypatch.delenv("QUEUECTL_JOB_ID")
    assert run(channel, ready) == (0, ["ops: another job sends its messages"])
    assert receiver.requests == []
    assert run(99, ready) == (0, ["channel 99 does not exist any more"])


def test_a_repetition_after_a_kill_has_the_same_id(
    ready: Config, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the answer and before the commit."""
    channel = hook(receiver)
    add_delivery(channel)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sender, "_end", killed)
        with pytest.raises(KeyboardInterrupt):
            run(channel, ready)
    assert states() == ["waiting"]
    assert run(channel, ready)[0] == 0
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.json == second.json


def test_ids_differ_between_messages_of_the_same_number(ready: Config, receiver: Receiver) -> None:
    """As after the restore of a backup."""
    channel = hook(receiver)
    first = add_delivery(channel)
    run(channel, ready)
    with writing() as session:
        session.delete(session.get_one(Delivery, first))
    add_delivery(channel, id=first)
    run(channel, ready)
    one, other = (request.headers["webhook-id"] for request in receiver.requests)
    assert one.rpartition("_")[2] == other.rpartition("_")[2] == str(first)
    assert one != other


def test_while_a_secret_is_replaced_both_sign_and_later_only_the_new_one(ready: Config, receiver: Receiver) -> None:
    old = "whsec_" + "QUJD" * 8
    channel = hook(receiver, secret=SECRET, old_secret=old, old_secret_until=clock.now() + HOUR)
    other = hook(receiver, name="later", secret=SECRET, old_secret=old, old_secret_until=clock.now() - 1)
    for one in (channel, other):
        add_delivery(one)
        run(one, ready)
    assert [len(request.headers["webhook-signature"].split()) for request in receiver.requests] == [2, 1]


def test_no_output_has_a_secret(ready: Config, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = hook(receiver, secret=SECRET)
    for _ in range(3):
        add_delivery(channel)
    receiver.answers += [(404, {}, b"/hooks/T0ken-Secret?key=s3cret-value"), (200, {}, b"T0ken-Secret")]
    _, said = run(channel, ready)
    add_delivery(channel)

    def defect(url: str, *_: Any, **__: Any) -> str:
        raise RuntimeError(f"cannot reach {url} with {SECRET}")

    monkeypatch.setattr(webhook, "send", defect)
    code, more = run(channel, ready)
    assert code == 1
    with reading() as session:
        kept = "".join(f"{row.answer} {row.body}" for row in session.scalars(select(Delivery)))
    for secret in ("T0ken-Secret", "s3cret-value", SECRET):
        assert secret not in "".join([*said, *more, kept])


def test_a_message_that_was_dropped_meanwhile_stays_dropped(
    ready: Config, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = hook(receiver)
    dropped = add_delivery(channel)

    def drop(*_: object) -> str:
        with writing() as session:
            row = session.get_one(Delivery, dropped)
            row.state, row.ended_at = "dropped", clock.now()
        raise PermanentFailure("no")

    monkeypatch.setattr(sender, "within", drop)
    assert run(channel, ready)[0] == 0
    assert delivery(dropped).state == "dropped"


def test_mails_of_one_alert_are_one_thread(ready: Config, mailbox: Mailbox) -> None:
    channel = add_channel(kind="mail", to="ana@x.example")
    for kind, event in (("alert", "disk-low"), ("update", "disk-low"), ("recovery", "disk-low")):
        add_delivery(
            channel, kind, alert_id=7, detail={"event": event, "subject": "host:web-1", "count": 2, "seconds": 60}
        )
    add_delivery(channel, "alert", alert_id=8, detail={"event": "disk-low"})
    assert run(channel, ready)[0] == 0
    first, *later, other = mailbox.mails
    assert {mail["Subject"] for mail in later} == {f"Re: {first['Subject']}"}
    assert {mail["References"] for mail in later} == {first["Message-ID"]}
    assert len({mail["Message-ID"] for mail in mailbox.mails}) == 4
    assert (first["References"], other["References"]) == (None, None)
    assert delivery(3).subject == "Recovered after 1 min: Host web-1: the disk of the database is nearly full"
