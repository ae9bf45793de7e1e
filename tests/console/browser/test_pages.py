"""axe and narrow screens: every page, in both colour schemes, empty and full."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from playwright.sync_api import Page
from sqlalchemy import select

from tests.console.browser.page_faults import faults_of
from tests.factories import make_attempt, make_job, make_queue, make_user, make_worker
from tests.notifications.factories import channel_named, make_alert, make_channel, make_delivery, make_rule
from webapp.accounts import sessions, tokens, users
from webapp.core import job_spec
from webapp.core.notices import DELIVERY_STATES, EVENTS
from webapp.core.states import STATES
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import Job, OutputTail
from webapp.insight import failure_groups
from webapp.jobs import actions, canary, settings
from webapp.jobs.filters import JobFilter
from webapp.lib import clock
from webapp.notifications import actions as notifying

PAGES = ["/", "/jobs", *[f"/jobs?state={state}" for state in STATES], "/dead", "/dead?sort=count",
         "/jobs?state=dead&q=very", "/palette?q=dead", "/jobs?q=exit:x", "/jobs?q=nothing-like-it", "/jobs?q=redis:7",
         "/jobs?state=dead&q=exit:1&queue=default&sort=oldest", "/dead/exit:1", "/dead/other", "/workers", "/queues",
         "/activity", "/config", "/config/backoff_base", "/submit", "/account", "/api-docs", "/login",
         "/people", "/people/new", "/person/a-admin", "/tokens", "/tokens?ended=1", "/tokens/new", "/audit",
         "/audit?since=never", "/audit?actor=nobody", "/notifications", "/notifications/start", "/channels/new",
         "/rules/new", "/jobs?q=notified:ops", "/?metric=run&split=1", "/?from=2020-01-01T00:00Z", "/queue/mail",
         "/queue/mail/retry", "/command/echo%20hello", "/limits", "/limits/new", "/batches", "/schedules",
         "/schedules/new"]  # fmt: skip
# They show what another page shows already, so not all rules of axe run on them.
SIMILAR = {*(f"/jobs?state={state}" for state in STATES if state != "dead"), "/dead?sort=count", "/jobs?q=redis:7",
           "/jobs?q=notified:ops", "/jobs?state=dead&q=very", "/jobs?state=dead&q=exit:1&queue=default&sort=oldest",
           "/dead/other", "/tokens?ended=1", "/audit?actor=nobody", "/activity/2", "/notification/2",
           "/job/" + "w" * 128, *(f"/job/{state}" for state in ("scheduled", "failed", "cancelled"))}  # fmt: skip
COLOURS = b"".join(
    b"\x1b[38;5;%dmink %d\x1b[0m \x1b[48;5;%dmground\x1b[0m \x1b[2mfaint\x1b[0m\n" % (n, n, n) for n in range(256)
)


def fill() -> None:
    make_worker(id="w1", seen_at=clock.now() + clock.seconds(600))
    make_worker(id="w2", requested_state="quiet")
    make_worker(id="w3", state="stopped", stopped_at=clock.now())
    make_queue("mail", paused_by="person:ana")
    for state in STATES:
        job = make_job(state, id=state, command="printf 'a very long command %s' " + "x" * 200, last_error="y" * 300)
        if state in {"failed", "dead", "completed"}:
            make_attempt(
                job,
                1,
                "completed" if state == "completed" else "failed",
                output=COLOURS if state == "completed" else b"",
                error="z" * 300,
            )
    longest = {"id": "w" * 128, "queue": "q" * 128, "requires": ["l" * 128, "host:" + "h" * 120]}
    actions.enqueue([job_spec.parse({"command": "true", **longest})], "person:ana")
    settings.set_setting("backoff_base", "3", "person:ana")
    actions.apply("cancel", [make_job("pending", command="x" * 200).id], "person:" + "y" * 60)
    canary.start(JobFilter(), "person:ana", make_job("dead").id)
    fill_with_groups()
    fill_with_people()
    fill_with_notifications()


def fill_with_groups() -> None:
    failure_groups.update("exit:1", "person:ana", note="a note\n" + "w" * 300)
    failure_groups.update("exit:1", "person:ana", acknowledged=True)
    job = make_job("dead", command="printf 'a very long command %s' " + "y" * 300, error_key="other")
    with writing() as session:
        session.add(OutputTail(job_seq=job.seq, text="a very long line\n" + "v" * 1000))


def fill_with_people() -> None:
    make_user("carla-with-a-very-long-name.from-another-department@example.org", "viewer")
    ben = make_user("ben", "operator")
    for browser in ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "x" * 200, ""):
        sessions.begin(ben, "2001:db8:85a3:1234:5678:8a2e:370:7334", browser)
    for name, days in (("deploy", 90), ("soon-over", 3), ("nightly-report-of-the-north-warehouse", None), ("old", 1)):
        tokens.make(name, "operate", days, "person:ben")
    tokens.revoke("old", "person:ben")
    make_user("emil", "viewer")
    users.set_disabled("emil", True, "person:ben")
    actions.enqueue([job_spec.parse({"command": "printf " + "y" * 400, "id": "z" * 120})], "token:deploy")
    with writing() as session:
        audit.note(session, "post", ["route:queues.pause"], "person:ben", outcome="refused", details=[{"needs": "x"}])


def fill_with_notifications() -> None:
    """Channels and rules with long names, alerts, and messages in each state."""
    ops, longest = make_channel(), "n" * 128
    make_channel(longest, to=[f"{'a' * 60}{number}@example.org" for number in range(9)])
    make_channel("mail", to="ana@example.org")
    rule = make_rule(queue="q" * 128, command="*" + "c" * 200, quiet_hours="22:00-07:00 Europe/Berlin")
    make_rule(longest, longest, on=list(EVENTS))
    notifying.mute(longest, clock.now() + clock.DAY, "person:ana")
    detail = {"event": "job-dead", "key": "group:exit:1"}
    with reading() as session:
        seq = session.scalar(select(Job.seq).where(Job.error_key == "exit:1").limit(1))
    alert = make_alert(rule, key="group:exit:1", job_seq=seq, count=1234, next_at=clock.now() + clock.DAY)
    make_alert(rule, event="queue-old", key="queue-old queue:" + "q" * 128, told=0)
    for state in DELIVERY_STATES:
        text = {"subject": "s" * 150, "body": "b" * 300} if state in ("sent", "failed") else {}
        values: dict[str, Any] = {
            "rule_id": rule.id,
            "alert_id": alert.id,
            "detail": detail,
            "answer": "a" * 300,
            **text,
        }
        make_delivery(ops, state, **values)
    make_delivery(channel_named("mail"), subject="one", body="text", answer="250 OK")


@pytest.mark.parametrize(
    ("full", "width", "scheme"),
    # All rules run once. Other widths and the other colour scheme change only overflow and contrast.
    [
        (True, 1280, "light"),
        (False, 390, "dark"),
        pytest.param(True, 390, "dark", marks=pytest.mark.full),
        pytest.param(True, 320, "light", marks=pytest.mark.full),
        pytest.param(False, 1280, "dark", marks=pytest.mark.full),
        pytest.param(False, 390, "light", marks=pytest.mark.full),
    ],
)
def test_no_page_has_an_axe_violation_or_is_wider_than_the_screen(
    open_browser: Callable[..., Page], watched: Any, scheme: str, width: int, full: bool
) -> None:
    watched.expect("status of 404")
    watched.expect("status of 422")
    if full:
        fill()
    page = open_browser("admin", color_scheme=scheme, viewport={"width": width, "height": 800})
    faults: list[str] = []
    shown = (
        [
            "/person/ben",
            "/activity/1",
            "/activity/2",
            "/job/dead/edit",
            "/channel/ops",
            "/channel/ops/edit",
            "/channel/ops/rotate-secret",
            "/rule/deaths",
            "/rule/deaths/edit",
            "/notification/1",
            "/notification/2",
            "/job/" + "w" * 128,
            "/submit?from=" + "w" * 128,
            *(f"/job/{state}" for state in STATES),
        ]
        if full
        else ["/nowhere"]
    )
    for url in PAGES + shown:
        page.goto(url)
        faults += faults_of(page, only_looks=(width, scheme) != (1280, "light") or url in SIMILAR)
    assert faults == []


def test_a_chosen_theme_overrides_the_system_theme(open_browser: Callable[..., Page]) -> None:
    page = open_browser("viewer", color_scheme="light")
    page.goto("/account")
    page.locator("#theme").select_option("dark")
    page.get_by_role("button", name="Save").click()
    page.goto("/jobs")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(15, 19, 23)"
