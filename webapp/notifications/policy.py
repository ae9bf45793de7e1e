"""When an alert becomes a message. Pure: `alerts.py` reads and writes the rows.

An alert is a problem of one subject, such as a failure group, for one rule. The first message is sent at once. Later
events are summed up in updates at growing intervals, until a recovery closes the alert.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

from webapp.lib import clock
from webapp.notifications.rules import QuietHours

# Between two messages of one alert; then the last one.
GROWTH = (10 * clock.MINUTE, clock.HOUR, 6 * clock.HOUR, 24 * clock.HOUR)
CALM = clock.HOUR  # without anything new, until a flapping alert recovers, or an alert that has no recovery is closed
FLAPS = 3  # closed this often within CALM: the next alert about the same subject is flapping
MOMENTS = ("schedule-missed", "worker-lost", "canary-ended")  # events that have no recovery
TOLD_AGAIN = ("job-dead", "attempt-failed", *MOMENTS)  # the next failure sends a message, even if the first was muted
NEW_AGAIN = 30 * clock.DAY  # a failure group without a failure for this long is new again


@dataclass(frozen=True)
class Alert:
    """An open alert. Times in microseconds.

    Attributes:
        event: the event of its rule, such as group-new.
        count: notices.
        told: messages sent so far.
        told_count: notices that these messages reported.
        next_at: the next message is not sent before this time. For a flapping alert: when it has been stable for long
            enough; None while it is not stable.
        flapping: it opened and closed too often.
    """

    event: str
    opened_at: int
    last_at: int
    count: int
    told: int = 0
    told_count: int = 0
    next_at: Optional[int] = None
    flapping: bool = False

    def with_notices(self, number: int, last_at: int) -> Alert:
        """The alert after more notices, the newest of them at `last_at`."""
        next_at = None if self.flapping else self.next_at
        return replace(self, count=self.count + number, last_at=max(self.last_at, last_at), next_at=next_at)

    def after_step(self, step: Step) -> Alert:
        """The alert after a step was taken."""
        told = self.told + (step.kind is not None)
        told_count = self.count if step.kind is not None else self.told_count
        return replace(self, told=told, told_count=told_count, next_at=step.next_at)


@dataclass(frozen=True)
class Step:
    """What to do with an alert. `kind`: of the message to send, None: no message. `next_at`: its new value."""

    kind: Optional[str] = None
    next_at: Optional[int] = None
    closes: bool = False


def decide(
    alert: Alert, now: int, *, after: int = 1, quiet: Optional[QuietHours] = None, muted_until: Optional[int] = None
) -> Optional[Step]:
    """What to do after new notices, and when `next_at` has come. None: nothing.

    `after`: notices that the first message needs. `muted_until`: if the problem still exists then, it sends a message.
    """
    if alert.told == 0:
        if alert.count < after:
            return None
        if muted_until is not None and muted_until > now and alert.event not in TOLD_AGAIN:
            return Step(next_at=muted_until)
        return Step("flapping" if alert.flapping else "alert", _next(alert, now, quiet))
    if alert.next_at is not None and alert.next_at > now:
        return None
    if alert.flapping:
        return None if alert.next_at is None else Step("recovery", closes=True)
    if alert.count > alert.told_count and alert.event != "group-new":
        return Step("update", _next(alert, now, quiet))
    if alert.next_at is None:
        return None
    if alert.event in MOMENTS:
        calm_at = alert.last_at + CALM
        return Step(closes=True) if calm_at <= now else Step(next_at=calm_at)
    return Step()  # the next notice sends a message at once


def recover(alert: Alert, now: int) -> Optional[Step]:
    """What to do when the problem has ended. None: nothing."""
    if alert.told == 0:
        return Step(closes=True)
    if alert.flapping:
        return Step(next_at=now + CALM) if alert.next_at is None else None
    return Step("recovery", closes=True)


def not_before(now: int, quiet: Optional[QuietHours]) -> int:
    """When a message that is decided now may be sent."""
    return now if quiet is None else quiet.end_after(now)


def _next(alert: Alert, now: int, quiet: Optional[QuietHours]) -> Optional[int]:
    """The earliest time of the message after this one, counted from when this one is sent."""
    if alert.flapping or alert.event == "group-new":
        return None
    growth = GROWTH[min(alert.told, len(GROWTH) - 1)]
    return not_before(not_before(now, quiet) + growth, quiet)


def is_new(last_at: int, acknowledged_at: Optional[int], at: int) -> bool:
    """Whether a failure group is new although it had an alert. For the arguments see `came_back`."""
    return last_at < at - NEW_AGAIN or came_back(last_at, acknowledged_at, at)


def came_back(last_at: int, acknowledged_at: Optional[int], at: int) -> bool:
    """Whether a death at `at` follows an acknowledgement of all that a failure group's alert counted.

    `last_at`: the last death that it counted. `acknowledged_at`: the last death that a user acknowledged.
    """
    return acknowledged_at is not None and last_at <= acknowledged_at < at
