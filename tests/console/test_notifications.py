"""The pages of notifications: list, one channel, rule and message, their forms, the first rule, jobs and groups."""

from __future__ import annotations

import json
import re
from typing import Any, Callable

import pytest
from sqlalchemy import func, select, update

from tests.console.conftest import Browser
from tests.factories import make_job
from tests.notifications.factories import (
    HOOK,
    channel_named,
    make_alert,
    make_channel,
    make_delivery,
    make_rule,
    rule_named,
    states,
)
from webapp.core.notices import EVENTS
from webapp.db.engines import reading, writing
from webapp.db.models import Channel, JobWatch, Rule
from webapp.jobs import search
from webapp.jobs.queries import count
from webapp.lib import clock
from webapp.notifications import actions, rules, views

HOSTILE = "<script>alert(1)</script>"
RULE = {"name": "failures", "on": ["group-new", "schedule-missed"], "channel": "ops"}
PAGES = ("/notifications", "/channel/ops", "/rule/deaths")


def text_of(browser: Browser, url: str) -> str:
    response = browser.get(url)
    assert response.status_code == 200, url
    return response.get_data(as_text=True)


def fill() -> None:
    """A mail channel that works, a webhook that fails, a rule with an open alert, and messages in each state."""
    ops = make_channel()
    make_channel("mail", to="ana@example.org")
    rule = make_rule(queue="mail", after=3, quiet_hours="22:00-07:00 Europe/Berlin")
    job = make_job("dead", command="./backup.sh --all", error_key="exit:1")
    alert = make_alert(rule, key="group:exit:1", count=7, told=2, told_count=5, job_seq=job.seq, next_at=clock.now())
    detail = {"event": "job-dead", "key": "group:exit:1", "job_seq": job.seq}
    shared: dict[str, Any] = {"rule_id": rule.id, "alert_id": alert.id, "detail": detail}
    make_delivery(ops, subject="backup.sh failed", body="7 failures\nlast line", answer="200 OK", **shared)
    make_delivery(ops, "suppressed", answer="the rule is muted", **shared)
    make_delivery(ops, "failed", answer="410 Gone: removed", kind="test", detail={"actor": "person:ana"})
    make_delivery(ops, "waiting", **shared)


# --- pages -----------------------------------------------------------------------------------------------------------


def test_an_empty_page_says_what_notifications_are_and_leads_to_the_first_rule(admin: Browser, viewer: Browser) -> None:
    assert 'href="/notifications/start"' in text_of(admin, "/notifications")
    page = text_of(viewer, "/notifications")
    assert "No notifications" in page
    assert "/notifications/start" not in page
    assert 'href="/notifications"' in text_of(viewer, "/")


def test_the_page_shows_what_fails_then_alerts_rules_channels_and_messages(viewer: Browser) -> None:
    fill()
    page = text_of(viewer, "/notifications")
    order = [
        *("Channel ops failed to send", "410 Gone: removed", 'id="alerts"', "./backup.sh --all", 'id="rules"'),
        *("after 3 failures", 'id="channels"', "https://hooks.example.org/…", 'id="history"', "backup.sh failed"),
    ]
    places = [page.find(words) for words in order]
    assert -1 not in places
    assert places == sorted(places)
    assert "2 not reported yet" in page
    assert "s3cret" not in page


def test_the_history_is_narrowed_and_read_in_pages(viewer: Browser) -> None:
    fill()
    assert text_of(viewer, "/notifications?state=suppressed").count('id="message-') == 1
    assert text_of(viewer, "/notifications?rule=deaths").count('id="message-') == 3
    assert text_of(viewer, "/notifications?channel=mail").count('id="message-') == 0
    assert '<option value="mail" selected>' in text_of(viewer, "/notifications?channel=mail")
    assert viewer.get("/notifications?state=x").status_code == 404
    assert viewer.get("/notifications?before=x").status_code == 400
    channel = channel_named("mail")
    for _ in range(51):
        last = make_delivery(channel)
    first = text_of(viewer, "/channel/mail")
    assert first.count('id="message-') == 50
    older = re.search(r'href="(/channel/mail\?[^"]*before=[^"]*)"', first)
    assert older is not None
    second = text_of(viewer, older[1].replace("&amp;", "&"))
    assert second.count('id="message-') == 1
    assert f'id="message-{last.id}"' in first


def test_a_message_is_shown_as_it_was_sent(viewer: Browser) -> None:
    fill()
    with reading() as session:
        found = {view.row.state: view.row.id for view in views.deliveries(session, limit=9)}
    sent = text_of(viewer, f"/notification/{found['sent']}")
    for words in ("7 failures\nlast line", "200 OK", 'href="/dead/exit:1"', 'href="/rule/deaths"'):
        assert words in sent
    assert "data-fast" not in sent
    assert "410 Gone" in text_of(viewer, f"/notification/{found['failed']}")
    waiting = text_of(viewer, f"/notification/{found['waiting']}")
    assert "data-fast" in waiting
    assert "No workers running" in waiting
    assert viewer.get("/notification/99").status_code == 404


def test_hostile_names_answers_and_texts_are_escaped(admin: Browser) -> None:
    rule = make_rule(command=f"*{HOSTILE}*")
    job = make_job("dead", command=f"echo {HOSTILE}", error_key="exit:1")
    make_alert(rule, key="group:exit:1", job_seq=job.seq)
    make_alert(rule, event="queue-old", key=f"queue-old queue:{HOSTILE}")
    words = {"subject": HOSTILE, "body": HOSTILE, "answer": HOSTILE}
    one = make_delivery(channel_named("ops"), "failed", rule_id=rule.id, detail={"key": f"x {HOSTILE}"}, **words)
    urls = (*PAGES, f"/notification/{one.id}", "/rule/deaths/edit", "/", "/dead/exit:1", f"/job/{job.id}")
    for url in urls:
        page = text_of(admin, url)
        assert HOSTILE not in page, url


def test_a_rule_whose_time_zone_is_unknown_here_is_still_shown_and_edited(admin: Browser) -> None:
    make_rule()
    with writing() as session:
        spec = {"on": ["job-dead"], "quiet_hours": "22:00-07:00 Mars/X"}
        session.execute(update(Rule).values(spec=json.dumps(spec)))
    rules.of_row.cache_clear()
    for url in ("/notifications", "/rule/deaths", "/rule/deaths/edit"):
        assert "time zone" in text_of(admin, url) or "Mars/X" in text_of(admin, url)


# --- channels --------------------------------------------------------------------------------------------------------


def test_a_webhooks_secret_is_shown_once_after_adding_and_after_rotating(admin: Browser) -> None:
    response = admin.post("/channels/new", {"name": "ops", "kind": "webhook", "url": HOOK, "hourly_cap": "5"})
    assert response.status_code == 200
    secret = channel_named("ops").secret
    assert secret is not None
    assert secret in response.get_data(as_text=True)
    assert "Rotate the secret" in text_of(admin, "/channel/ops/rotate-secret")
    rotated = admin.post("/channel/ops/rotate-secret").get_data(as_text=True)
    assert str(channel_named("ops").secret) in rotated
    assert channel_named("ops").old_secret == secret
    page = text_of(admin, "/channel/ops") + text_of(admin, "/channel/ops/edit") + text_of(admin, "/notifications")
    assert "whsec_" not in page
    assert "s3cret" not in page


def test_a_channel_is_edited_and_its_masked_url_stays(admin: Browser) -> None:
    make_channel()
    masked = "https://hooks.example.org/…"
    form = {"name": "other", "kind": "mail", "url": masked, "hourly_cap": "7"}
    assert admin.post("/channel/ops/edit", form).status_code == 303
    assert (json.loads(channel_named("ops").target)["url"], channel_named("ops").hourly_cap) == (HOOK, 7)
    empty = admin.post("/channel/ops/edit", {"url": "", "hourly_cap": "7"})
    assert empty.status_code == 422
    assert json.loads(channel_named("ops").target)["url"] == HOOK


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "a b", "A-Z a-z"),
        ("name", "taken", "is taken by another channel"),
        ("kind", "pigeon", "expected mail, webhook, apprise"),
        ("to", "Ana <ana@example.org>", "expected a mail address"),
        ("to", "", "Give at least one mail address"),
        ("hourly_cap", "many", "expected a whole number"),
    ],
)
def test_a_wrong_channel_is_told_at_its_field_and_keeps_what_was_typed(
    admin: Browser, field: str, value: str, words: str
) -> None:
    make_channel("taken")
    typed = {"name": "typed-name", "kind": "mail", "to": "ana@example.org", "hourly_cap": "33", field: value}
    response = admin.post("/channels/new", typed)
    page = response.get_data(as_text=True)
    assert response.status_code == 422
    assert re.search(f'id="{field}-problem">[^<]*{words}', page)
    assert 'value="33"' in page or field == "hourly_cap"
    assert 'value="typed-name"' in page or field == "name"


def test_the_url_of_the_other_kind_does_not_count_and_a_wrong_one_is_not_repeated_in_a_message(admin: Browser) -> None:
    typed = {"name": "m", "kind": "mail", "to": "ana@example.org", "url": "nonsense"}
    assert admin.post("/channels/new", typed).status_code == 303
    wrong = admin.post("/channels/check?field=url", {"name": "w", "kind": "webhook", "url": "ftp://x/s3cret"})
    assert "ust begin with http" in wrong.get_data(as_text=True)
    assert "s3cret" not in wrong.get_data(as_text=True)


def test_apprise_says_how_to_install_it(admin: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "has_apprise", lambda: False)
    page = text_of(admin, "/channels/new")
    assert "QUEUECTL_EXTRAS=notify" in page
    assert re.search(r'value="apprise" disabled', page)


def test_a_test_message_leads_to_its_page(operator: Browser) -> None:
    make_channel()
    response = operator.post("/channel/ops/test")
    assert (response.status_code, states()) == (303, ["waiting"])
    assert "Test message to ops" in text_of(operator, response.headers["Location"])
    assert operator.post("/channel/ops/test", partial=True).headers["HX-Redirect"].startswith("/notification/")


def test_a_backlog_is_dropped_and_a_channel_removed_after_a_question(admin: Browser) -> None:
    make_rule()
    make_delivery(channel_named("ops"), "waiting")
    assert "1 message will not be sent" in admin.post("/channel/ops/drop-backlog").get_data(as_text=True)
    assert states() == ["waiting"]
    assert admin.post("/channel/ops/drop-backlog", {"confirmed": "1"}).status_code == 303
    assert states() == ["dropped"]
    assert admin.post("/channel/ops/drop-backlog", {"confirmed": "1"}, partial=True).status_code == 409
    used = admin.post("/channel/ops/remove", {"confirmed": "1"}, partial=True)
    assert used.status_code == 409
    assert "rule deaths" in used.get_data(as_text=True)
    assert "Remove rule deaths?" in admin.post("/rule/deaths/remove").get_data(as_text=True)
    assert admin.post("/rule/deaths/remove", {"confirmed": "1"}).status_code == 303
    assert admin.post("/channel/ops/remove", {"confirmed": "1"}).status_code == 303
    assert admin.get("/channel/ops").status_code == 404


def test_a_message_is_sent_again_unless_it_waits(operator: Browser) -> None:
    sent = make_delivery(make_channel(), subject="once")
    response = operator.post(f"/notification/{sent.id}/send-again")
    assert (response.status_code, states()) == (303, ["sent", "waiting"])
    new = response.headers["Location"]
    assert operator.post(f"{new}/send-again", partial=True).status_code == 409


# --- rules -----------------------------------------------------------------------------------------------------------


def test_a_rule_is_added_edited_and_shown(admin: Browser) -> None:
    make_channel()
    form = {**RULE, "queue": "mail", "after": "2", "quiet_hours": "22:00-07:00 Europe/Berlin"}
    assert admin.post("/rules/new", form).status_code == 303
    page = text_of(admin, "/rule/failures")
    for words in ("group-new", "schedule-missed", "2 failures of the same kind", "22:00-07:00 Europe/Berlin"):
        assert words in page
    edit = text_of(admin, "/rule/failures/edit")
    assert edit.count(" checked") == 2
    assert admin.post("/rule/failures/edit", {**form, "name": "x", "queue": "", "on": ["job-dead"]}).status_code == 303
    assert rule_named("failures").events == ",job-dead,"
    assert json.loads(rule_named("failures").spec)["queue"] is None


def test_the_form_of_a_rule_lists_each_event_with_its_sentence(admin: Browser) -> None:
    page = text_of(admin, "/rules/new")
    assert "Add a channel first" in page
    for event in EVENTS:
        assert f'name="on" value="{event}"' in page


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "a b", "A-Z a-z"),
        ("name", "taken", "is taken by another rule"),
        ("on", [], "Select at least one event"),
        ("on", ["flood"], "is not an event"),
        ("channel", "", "Select a channel"),
        ("channel", "gone", "no such channel"),
        ("queue", "a b", "A-Z a-z"),
        ("schedule", "a b", "A-Z a-z"),
        ("command", "x" * 2001, "expected a pattern"),
        ("after", "0", "expected a whole number"),
        ("older_than", "30s", "expected a duration from 1 min"),
        ("quiet_hours", "at night", "expected hours and a time zone"),
    ],
)
def test_a_wrong_rule_is_told_at_its_field_and_keeps_what_was_typed(
    admin: Browser, field: str, value: object, words: str
) -> None:
    make_rule("taken")
    typed = {**RULE, "name": "typed-name", "on": ["group-new", "queue-old"], "older_than": "45m", field: value}
    response = admin.post("/rules/new", typed)
    page = response.get_data(as_text=True)
    assert response.status_code == 422
    assert re.search(f'id="{field}-problem">[^<]*{words}', page, re.IGNORECASE)
    assert 'value="45m"' in page or field == "older_than"
    assert 'value="typed-name"' in page or field == "name"
    assert page.count(" checked") == 2 or field == "on"


def test_before_a_rule_is_saved_the_form_says_what_it_would_have_sent(admin: Browser) -> None:
    make_channel()
    for number in range(3):
        make_job("dead", command=f"./job-{number}.sh", error_key=f"key-{number}", finished_at=clock.now() - clock.DAY)
    page = admin.post("/rules/new", {**RULE, "preview": "1"}).get_data(as_text=True)
    assert "In the last 7 days it would have sent 3 messages" in page
    assert "./job-2.sh" in page
    checked = admin.post("/rules/check?field=on", {"on": ["group-new"], "name": ""}, partial=True)
    assert "would have sent 3 messages" in checked.get_data(as_text=True)
    nothing = admin.post("/rules/check?field=command", {"on": ["group-new"], "command": "*other*"}, partial=True)
    assert "would have sent 0 messages" in nothing.get_data(as_text=True)
    with reading() as session:
        assert session.scalar(select(func.count()).select_from(Rule)) == 0


def test_a_rule_is_muted_and_sends_again(operator: Browser) -> None:
    make_rule()
    assert operator.post("/rule/deaths/mute", {"for": "8h"}).status_code == 303
    assert "Muted until" in text_of(operator, "/rule/deaths")
    assert operator.post("/rule/deaths/mute", {"for": "soon"}, partial=True).status_code == 409
    assert operator.post("/rule/deaths/mute", {"for": "9000000d"}, partial=True).status_code == 409
    assert operator.post("/rule/deaths/unmute").status_code == 303
    assert operator.post("/rule/deaths/unmute", partial=True).status_code == 409


@pytest.mark.parametrize(
    ("role", "operate", "change"), [("viewer", 403, 403), ("operator", 303, 403), ("admin", 303, 422)]
)
def test_viewers_see_operators_act_and_only_administrators_change(
    sign_in: Callable[[str], Browser], role: str, operate: int, change: int
) -> None:
    fill()
    browser = sign_in(role)
    page = "".join(text_of(browser, url) for url in PAGES)
    assert ("/channel/ops/test" in page) == (operate == 303)
    assert ("/channel/ops/remove" in page) == (change != 403)
    assert browser.post("/rule/deaths/mute", {"for": "1h"}).status_code == operate
    assert browser.post("/rules/new", {}).status_code == change
    assert browser.post("/channels/new", {}).status_code == change
    assert browser.post("/notifications/start", {}).status_code == change


# --- the first rule --------------------------------------------------------------------------------------------------


def test_a_queue_without_a_rule_says_so_and_one_form_makes_channel_and_rule(admin: Browser) -> None:
    assert "Failure notifications are not set up" in text_of(admin, "/")
    form = text_of(admin, "/notifications/start")
    events = re.findall(r'name="on" value="([^"]+)"[^>]* checked', form)
    assert "group-new" in events
    response = admin.post("/notifications/start", {"kind": "mail", "to": "ana@example.org", "on": events})
    assert response.status_code == 303
    assert rule_named("failures").channel_id == channel_named("mail").id
    assert "Failure notifications are not set up" not in text_of(admin, "/")


def test_the_first_rule_with_a_webhook_shows_its_secret(admin: Browser) -> None:
    make_channel("webhook")
    response = admin.post("/notifications/start", {"kind": "webhook", "url": HOOK, "on": ["job-dead"]})
    assert response.status_code == 200
    assert str(channel_named("webhook-2").secret) in response.get_data(as_text=True)


@pytest.mark.parametrize(
    ("typed", "field", "words"),
    [
        ({"kind": "mail", "to": "ana", "on": ["job-dead"]}, "to", "expected a mail address"),
        ({"kind": "webhook", "url": "x", "on": ["job-dead"]}, "url", "ust begin with http"),
        ({"kind": "mail", "to": "ana@example.org"}, "on", "Select at least one event"),
    ],
)
def test_a_wrong_first_rule_makes_nothing(admin: Browser, typed: dict[str, Any], field: str, words: str) -> None:
    response = admin.post("/notifications/start", typed)
    assert response.status_code == 422
    assert re.search(f'id="{field}-problem">[^<]*{words}', response.get_data(as_text=True))
    with reading() as session:
        assert session.scalar(select(func.count()).select_from(Channel)) == 0


def test_the_first_rule_is_both_or_nothing(admin: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    make_rule("failures", "other")
    monkeypatch.setattr("webapp.console.notifications.views.rules", lambda session: [])  # it is added right now
    response = admin.post("/notifications/start", {"kind": "mail", "to": "ana@example.org", "on": ["job-dead"]})
    assert response.status_code == 422
    assert "is taken by another rule" in response.get_data(as_text=True)
    with reading() as session:
        assert views.channel_names(session) == ["other"]


def test_a_channel_that_does_not_get_through_is_on_the_overview(viewer: Browser) -> None:
    make_delivery(make_channel(), "failed", answer="550 no such user")
    page = text_of(viewer, "/")
    assert "1 channel cannot deliver messages" in page
    assert "550 no such user" in page


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_a_jobs_end_is_watched_from_its_page(operator: Browser) -> None:
    job = make_job("pending")
    url = f"/job/{job.id}"
    assert "when this job ends" not in text_of(operator, url)
    make_channel()
    assert "Notify ops when this job ends" in text_of(operator, url)
    make_channel("mail", to="ana@example.org")
    assert '<option value="mail">' in text_of(operator, url)
    assert operator.post(f"{url}/notify", {"channel": "ops"}).status_code == 303
    assert "ops gets a message when it ends" in text_of(operator, url)
    assert operator.post(f"{url}/notify", {"channel": "ops"}, partial=True).status_code == 409
    assert operator.post(f"{url}/notify", {"channel": "gone"}, partial=True).status_code == 404
    assert operator.post(f"{url}/notify", {}, partial=True).status_code == 409
    assert operator.post(f"{url}/unnotify", {"unwatch": "ops"}).status_code == 303
    with reading() as session:
        assert session.scalar(select(func.count()).select_from(JobWatch)) == 0
    ended = make_job("completed")
    assert operator.post(f"/job/{ended.id}/notify", {"channel": "ops"}, partial=True).status_code == 409


def test_without_a_channel_the_job_page_and_submit_offer_one_to_those_who_may_add_it(
    admin: Browser, operator: Browser
) -> None:
    job = make_job("pending")
    for url in (f"/job/{job.id}", "/submit"):
        assert "/channels/new" in text_of(admin, url)
        assert "/channels/new" not in text_of(operator, url)


def test_submit_with_a_channel_watches_the_job(operator: Browser) -> None:
    make_channel()
    page = text_of(operator, "/submit")
    key = re.search(r'name="form_key" value="([^"]+)"', page)
    assert key is not None
    wrong = operator.post("/submit", {"command": "true", "notify": "gone", "form_key": key[1]})
    assert wrong.status_code == 422
    assert re.search('id="notify-problem">[^<]*o such channel', wrong.get_data(as_text=True))
    response = operator.post("/submit", {"command": "true", "notify": "ops", "form_key": key[1]})
    assert "ops gets a message when it ends" in text_of(operator, response.headers["Location"])


def test_a_schedule_keeps_the_channels_of_its_jobs_when_it_is_edited(admin: Browser) -> None:
    from webapp.schedules import actions as schedules
    from webapp.schedules import spec
    from webapp.schedules import views as scheduled

    make_channel()
    job = {"command": "./x.sh", "notify": ["ops"]}
    schedules.add(spec.parse({"name": "nightly", "cron": "0 2 * * *", "job": job}), "person:ana")
    page = text_of(admin, "/schedule/nightly/edit")
    form = dict(re.findall(r'<input[^>]*name="(\w+)"[^>]*type="text" value="([^"]*)"', page))
    assert form["notify"] == "ops"
    seen = re.search(r'name="seen" value="(\d+)"', page)
    assert seen is not None
    sent = {**form, "command": "./y.sh", "seen": seen[1], "repeat": "cron", "overlap": "skip", "catch_up": "last"}
    assert admin.post("/schedule/nightly/edit", sent).status_code == 303
    with reading() as session:
        after = scheduled.described(scheduled.find(session, "nightly"))
    assert after is not None
    assert (after.job.command, after.job.notify) == ("./y.sh", ("ops",))


def test_a_job_and_its_failure_group_show_the_alert_and_the_messages_about_it(viewer: Browser) -> None:
    fill()
    group = text_of(viewer, "/dead/exit:1")
    assert "Alert open since" in group
    assert "backup.sh failed" in group
    with reading() as session:
        job = views.alerts_open(session)[0].row.job_seq
    ended = make_job("completed", id="told")
    make_delivery(
        channel_named("mail"), kind="job-ended", detail={"job": "told", "job_seq": ended.seq, "state": "completed"}
    )
    assert "told completed" in text_of(viewer, "/job/told")
    assert job is not None


def test_search_finds_the_jobs_about_which_a_channel_was_told(viewer: Browser) -> None:
    fill()
    make_job("completed", command="./quiet.sh")
    page = text_of(viewer, "/jobs?q=notified:ops")
    assert "./backup.sh --all" in page
    assert "./quiet.sh" not in page
    with reading() as session:
        found = {name: count(session, search.parse(f"notified:{name}").where()) for name in ("ops", "mail", "gone")}
    assert {name: number.number for name, number in found.items()} == {"ops": 1, "mail": 0, "gone": 0}
    assert search.to_text(search.parse("notified:ops")) == "notified:ops"


def test_a_removed_rule_leaves_its_messages_readable(viewer: Browser) -> None:
    fill()
    actions.remove_rule("deaths", "person:ana")
    page = text_of(viewer, "/notifications")
    assert "backup.sh failed" in page
    assert "/rule/deaths" not in page
