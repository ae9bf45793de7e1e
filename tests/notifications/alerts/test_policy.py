"""When an alert becomes a message, against a small model that thinks in minutes.

The model shares no code with the policy: it keeps the list of messages, and asks it what may be told next.
"""

from __future__ import annotations

from typing import Optional

from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.lib import clock
from webapp.notifications import policy
from webapp.notifications.policy import Alert
from webapp.notifications.rules import QuietHours

MINUTE = 60 * clock.SECOND
START = clock.parse_iso("2026-03-28T12:00:00Z")  # the clock changes in the next night
INTERVALS = (10, 60, 360, 1440)  # minutes
DAY_AND_NIGHT = 1440


class Story:
    """One alert by the policy: notices and recoveries come, and it is looked at each minute."""

    def __init__(self, event: str, after: int, quiet: Optional[QuietHours], *, flapping: bool) -> None:
        self.event, self.after, self.quiet = event, after, quiet
        self.flapping = flapping
        self.alert: Optional[Alert] = None
        self.messages: list[tuple[int, str, int]] = []  # minute in which it may be sent, kind, notices told so far
        self.closed_at: Optional[int] = None

    def notice(self, minute: int) -> None:
        if self.closed_at is not None:
            return
        now = START + minute * MINUTE
        if self.alert is None:
            self.alert = Alert(self.event, now, now, 1, flapping=self.flapping)
        else:
            self.alert = self.alert.with_notices(1, now)
        self.look(minute)

    def recover(self, minute: int) -> None:
        if self.alert is not None and self.closed_at is None:
            self._take(policy.recover(self.alert, START + minute * MINUTE), minute)

    def look(self, minute: int) -> None:
        if self.alert is not None and self.closed_at is None:
            step = policy.decide(self.alert, START + minute * MINUTE, after=self.after, quiet=self.quiet)
            self._take(step, minute)

    def _take(self, step: Optional[policy.Step], minute: int) -> None:
        assert self.alert is not None
        if step is None:
            return
        self.alert = self.alert.after_step(step)
        if step.kind is not None:
            at = policy.not_before(START + minute * MINUTE, self.quiet)
            self.messages.append(((at - START) // MINUTE, step.kind, self.alert.told_count))
        if step.closes:
            self.closed_at = minute


def quiet_at(minute: int, quiet: Optional[QuietHours]) -> bool:
    return quiet is not None and quiet.covers(START + minute * MINUTE)


def wait_for_day(minute: int, quiet: Optional[QuietHours]) -> int:
    while quiet_at(minute, quiet):
        minute += 1
    return minute


QUIET = st.none() | st.builds(
    QuietHours, st.integers(0, 700), st.integers(701, 1439), st.sampled_from(["UTC", "Europe/Berlin"])
)
MINUTES = st.lists(st.integers(0, 3 * DAY_AND_NIGHT), min_size=1, max_size=40, unique=True).map(sorted)


@settings(deadline=None, max_examples=30)
@given(notices=MINUTES, after=st.integers(1, 4), quiet=QUIET, event=st.sampled_from(["job-dead", "group-new"]))
def test_messages_follow_at_growing_intervals_and_tell_each_notice_once(
    notices: list[int], after: int, quiet: Optional[QuietHours], event: str
) -> None:
    story = Story(event, after, quiet, flapping=False)
    for minute in range(notices[0], 5 * DAY_AND_NIGHT):
        for _ in range(notices.count(minute)):
            story.notice(minute)
        story.look(minute)
    expected: list[tuple[int, str]] = []
    told, free_at = 0, 0  # notices told; from when on the next message may be decided
    for minute in range(5 * DAY_AND_NIGHT):
        seen = sum(notice <= minute for notice in notices)
        if not expected and seen >= after:
            told, kind = seen, "alert"
        elif expected and seen > told and minute >= free_at and event != "group-new":
            told, kind = seen, "update"
        else:
            continue
        sent_at = wait_for_day(minute, quiet)
        expected.append((sent_at, kind))
        free_at = wait_for_day(sent_at + INTERVALS[min(len(expected), 4) - 1], quiet)
    assert [(minute, kind) for minute, kind, _ in story.messages] == expected
    counts = [count for _, _, count in story.messages]
    assert counts == sorted(set(counts))
    assert not any(quiet_at(minute, quiet) for minute, _, _ in story.messages)


@settings(deadline=None, max_examples=50)
@given(notices=MINUTES, after=st.integers(1, 5), recovered=st.integers(0, 4 * DAY_AND_NIGHT))
def test_a_recovery_is_the_last_message_and_only_of_what_was_told(
    notices: list[int], after: int, recovered: int
) -> None:
    story = Story("job-dead", after, None, flapping=False)
    before = [minute for minute in notices if minute <= recovered]
    for minute in before:
        story.look(minute)
        story.notice(minute)
    story.recover(recovered)
    kinds = [kind for _, kind, _ in story.messages]
    assert (story.closed_at == recovered) == bool(before)
    assert kinds.count("recovery") == (len(before) >= after)
    assert "recovery" not in kinds[:-1]
    if before:
        story.notice(recovered + 1)
    assert [kind for _, kind, _ in story.messages] == kinds  # the next notice opens another alert


@settings(deadline=None, max_examples=50)
@given(notices=st.lists(st.integers(0, 600), min_size=1, max_size=20).map(sorted), data=st.data())
def test_a_flapping_alert_tells_once_and_recovers_after_a_calm_hour(notices: list[int], data: st.DataObject) -> None:
    recoveries = data.draw(st.lists(st.integers(0, 600), max_size=20))
    story = Story("job-dead", 1, None, flapping=True)
    calm_since: Optional[int] = None
    ends_at: Optional[int] = None
    for minute in range(700):
        for _ in range(notices.count(minute)):
            if ends_at is None:
                calm_since = None
            story.notice(minute)
        if minute in recoveries and story.alert is not None:
            story.recover(minute)
            calm_since = minute if calm_since is None else calm_since
        story.look(minute)
        if ends_at is None and calm_since is not None and minute >= calm_since + 60:
            ends_at = minute
    expected = [(notices[0], "flapping")] + ([(ends_at, "recovery")] if ends_at is not None else [])
    assert [(minute, kind) for minute, kind, _ in story.messages] == expected
    assert story.closed_at == ends_at


@settings(deadline=None, max_examples=30)
@given(notices=MINUTES)
def test_an_event_without_a_recovery_closes_after_a_calm_hour_without_a_message(notices: list[int]) -> None:
    story = Story("worker-lost", 1, None, flapping=False)
    closed = None
    for minute in range(notices[0], 6 * DAY_AND_NIGHT):
        for _ in range(notices.count(minute)):
            story.notice(minute)
        story.look(minute)
        if story.closed_at is not None:
            closed = minute
            break
    assert closed is not None
    told_until = max(notice for notice in notices if notice <= closed)
    assert closed - told_until >= 60
    assert {kind for _, kind, _ in story.messages} <= {"alert", "update"}
    assert story.messages[-1][2] == sum(notice <= closed for notice in notices)


def test_when_a_group_is_new_again() -> None:
    now = START
    month = policy.NEW_AGAIN
    assert not policy.is_new(now - month, None, now)
    assert policy.is_new(now - month - 1, None, now)
    assert policy.is_new(now - 5, now - 5, now)  # the death that its alert told was acknowledged
    assert not policy.is_new(now - 5, now - 6, now)  # another one followed
    assert not policy.is_new(now - 5, now, now)  # this one was acknowledged too
