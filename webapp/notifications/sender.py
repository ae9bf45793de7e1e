"""Sends the waiting messages of one channel, in order. The work of a job of SYSTEM_QUEUE.

At least once: a sender that is killed between the answer of a receiver and the commit leaves the message waiting, and
the next one sends it again with the same id. After a temporary failure this ends with exit code 1: the queue runs the
job again, with its growing waits, and the order is kept.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Callable, Optional, Union

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.config import Config
from webapp.core.storage.transaction import transaction_on
from webapp.db.engines import database, reading
from webapp.db.models import Channel, Delivery
from webapp.lib import clock
from webapp.lib.text import plural
from webapp.notifications import channels, message
from webapp.notifications.channels import ChannelSpec
from webapp.notifications.message import Message
from webapp.notifications.sending import apprise_urls, mail, webhook
from webapp.notifications.sending.outcome import (
    DEADLINE,
    MAIL_DEADLINE,
    PermanentFailure,
    TemporaryFailure,
    kept,
    secrets_of,
    within,
)

GIVE_UP_AFTER = clock.DAY
LONGEST_RUN = 600.0  # seconds; what is left then gets the next sender
MAX_BODY = 20_000  # characters of a message that the history keeps
CAPPED = "suppressed: the channel has reached its limit per hour"  # the answer of these deliveries

_SUPPRESS = """
UPDATE deliveries SET state = 'suppressed', ended_at = :now, answer = :answer
WHERE channel_id = :channel AND state = 'waiting' AND not_before <= :now AND kind <> 'test'
  AND id < (SELECT max(id) FROM deliveries WHERE channel_id = :channel AND state = 'waiting' AND not_before <= :now
            AND kind <> 'test')
"""
# The newest is sent as soon as the limit allows it, and says how many were suppressed.
_POSTPONE = """
UPDATE deliveries SET not_before = :later
WHERE channel_id = :channel AND state = 'waiting' AND not_before <= :now AND kind <> 'test'
"""
_OLDEST_SENT = """
SELECT min(ended_at) FROM deliveries
WHERE channel_id = :channel AND state = 'sent' AND ended_at > :since AND ended_at <= :now
"""
_END = """
UPDATE deliveries SET state = :state, ended_at = :now, tries = tries + :tried, answer = :answer,
                      subject = coalesce(:subject, subject), body = coalesce(:body, body)
WHERE id = :id AND state = 'waiting'
"""
_FAILED = """
UPDATE deliveries SET tries = tries + 1, answer = :answer, subject = coalesce(:subject, subject),
                      body = coalesce(:body, body)
WHERE id = :id AND state = 'waiting'
"""


@dataclass(frozen=True)
class _Task:
    """What to do with the next delivery. `message` None: it is too old, or the channel may send no more now."""

    id: int
    target: ChannelSpec
    secrets: tuple[str, ...]
    created_at: int
    is_capped: bool
    last_answer: Optional[str]
    message: Optional[Message]


def deliver(channel_id: int, config: Config, say: Callable[[str], object]) -> int:
    """Send the waiting messages; return the exit code. Prints a line for each message, never a secret."""
    until = time.monotonic() + LONGEST_RUN
    while time.monotonic() < until:
        with reading() as session:
            found = _next(session, channel_id, config)
        if isinstance(found, str):
            say(found)
            return 0
        if found.is_capped:
            number = _suppress(channel_id)
            limit = found.target.hourly_cap
            say(f"{found.target.name}: {plural(number, 'message')} suppressed, the limit is {limit} per hour")
        elif not _send_one(found, config, say):
            return 1
    return 0


def _next(session: Session, channel_id: int, config: Config) -> Union[_Task, str]:
    """The next message, or a sentence if there is nothing to do."""
    channel = session.get(Channel, channel_id)
    if channel is None:
        return f"channel {channel_id} does not exist any more"
    if channel.sender_job is None or channel.sender_job != os.environ.get("QUEUECTL_JOB_ID"):
        return f"{channel.name}: another job sends its messages"
    now = clock.now()
    due = Delivery.channel_id == channel_id, Delivery.state == "waiting", Delivery.not_before <= now
    delivery = session.scalar(select(Delivery).where(*due).order_by(Delivery.id).limit(1))
    if delivery is None:
        return f"{channel.name}: no messages waiting"
    is_old = now - max(delivery.created_at, delivery.not_before) > GIVE_UP_AFTER
    is_capped = not is_old and delivery.kind != "test" and _is_capped(session, channel, now)
    built = None
    if not (is_old or is_capped):
        suppressed = _suppressed(session, channel)
        built = message.build(session, channel, delivery, suppressed=suppressed, public_url=config.public_url)
    secrets = [channel.secret]
    if channel.old_secret_until is not None and channel.old_secret_until > now:
        secrets.append(channel.old_secret)
    return _Task(
        delivery.id,
        channels.of_row(channel.name, channel.kind, channel.target, channel.hourly_cap),
        tuple(secret for secret in secrets if secret),
        delivery.created_at,
        is_capped,
        delivery.answer,
        built,
    )


def _is_capped(session: Session, channel: Channel, now: int) -> bool:
    if channel.hourly_cap == 0:
        return False
    ended = (
        Delivery.channel_id == channel.id,
        Delivery.state == "sent",
        Delivery.ended_at.between(now - clock.HOUR + 1, now),
    )
    lately = session.scalars(select(Delivery.id).where(*ended).limit(channel.hourly_cap)).all()
    return len(lately) >= channel.hourly_cap


def _suppress(channel_id: int) -> int:
    """Suppress the waiting messages except the newest, which waits until the limit allows it. Returns how many."""
    with transaction_on(database(), wakes_workers=False) as transaction:
        now = clock.now()
        values = {"channel": channel_id, "now": now}
        number = int(transaction.execute(_SUPPRESS, {**values, "answer": CAPPED}).rowcount)
        (oldest,) = transaction.execute(_OLDEST_SENT, {**values, "since": now - clock.HOUR}).fetchone()
        transaction.execute(_POSTPONE, {**values, "later": (oldest or now) + clock.HOUR})
        return number


def _suppressed(session: Session, channel: Channel) -> int:
    """How many messages the limit suppressed since the last one that was sent."""
    here = Delivery.channel_id == channel.id
    sent = select(Delivery.ended_at).where(here, Delivery.state == "sent").order_by(Delivery.ended_at.desc()).limit(1)
    since = session.scalar(sent) or 0
    capped = here, Delivery.state == "suppressed", Delivery.ended_at >= since, Delivery.answer == CAPPED
    return len(session.scalars(select(Delivery.id).where(*capped)).all())


def _send_one(task: _Task, config: Config, say: Callable[[str], object]) -> bool:
    """Send one message and store the result. False: it waits for the next try."""
    name = f"{task.target.name} #{task.id}"
    sent = task.message
    if sent is None:
        hours = GIVE_UP_AFTER // clock.HOUR
        why = f"gave up after {hours} h: {task.last_answer or 'no worker sent it'}"
        _end(task, "failed", why, tried=0)
        say(f"{name}: {why}")
        return True
    try:
        seconds = MAIL_DEADLINE if task.target.kind == "mail" else DEADLINE
        answer = within(lambda: _send(task, sent, config), seconds)
    except PermanentFailure as failure:
        _end(task, "failed", str(failure))
        say(f"{name}: failed: {failure}")
        return True
    except TemporaryFailure as failure:
        _store(task, _FAILED, {"answer": str(failure)})
        say(f"{name}: not sent yet: {failure}")
        return False
    except Exception as error:  # of a library, or a defect: it must not stop the channel for ever, or show a secret
        answer = kept(f"{type(error).__name__}: {error}", [*task.secrets, *secrets_of(task.target.url, with_host=True)])
        _store(task, _FAILED, {"answer": answer})
        say(f"{name}: not sent yet: {answer}")
        return False
    _end(task, "sent", answer)
    say(f"{name}: sent: {answer}")
    return True


def _send(task: _Task, sent: Message, config: Config) -> str:
    target = task.target
    if target.kind == "mail":
        return mail.send(
            config,
            target.name,
            target.to,
            sent.id,
            subject=sent.thread_subject or sent.subject,
            text=sent.text,
            html=sent.html,
            created_at=task.created_at,
            first_id=sent.thread_id,
        )
    if target.kind == "apprise":
        return apprise_urls.send(target.url, sent.subject, sent.text)
    return webhook.send(
        target.url,
        task.secrets,
        sent.id,
        clock.now() // clock.SECOND,
        sent.body,
        allow_private=config.allow_private_targets,
    )


def _end(task: _Task, state: str, answer: str, *, tried: int = 1) -> None:
    _store(task, _END, {"state": state, "answer": answer, "tried": tried, "now": clock.now()})


def _store(task: _Task, statement: str, values: dict[str, Any]) -> None:
    sent = task.message
    body = None if sent is None else sent.body.decode() if task.target.kind == "webhook" else sent.text
    with transaction_on(database(), wakes_workers=False) as transaction:
        shown = {"subject": sent.subject if sent else None, "body": body[:MAX_BODY] if body else None}
        transaction.execute(statement, {**values, **shown, "id": task.id})
