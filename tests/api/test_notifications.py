"""Channels, rules, messages and watched jobs over the API. `test_gate.py` has the scope of each request."""

from __future__ import annotations

from typing import Any

from tests.api.conftest import Program
from tests.factories import make_job
from tests.notifications.factories import HOOK, channel_named, make_alert, make_channel, make_delivery, make_rule
from webapp.lib import clock


def test_a_secret_is_in_the_answer_that_makes_it_only(admin: Program) -> None:
    program = admin
    added = program("POST", "/channels", {"name": "ops", "kind": "webhook", "url": HOOK})
    assert added.status_code == 201
    secret = added.get_json()["secret"]
    rotated = program("POST", "/channels/ops/rotate-secret").get_json()["secret"]
    shown = program("GET", "/channels/ops")
    assert len({secret[:6], rotated[:6]}) == 1
    for text in ("s3cret", secret, rotated):
        assert text not in shown.get_data(as_text=True)
        assert text not in program("GET", "/channels").get_data(as_text=True)
    assert shown.get_json()["url"] == "https://hooks.example.org/…"
    assert program("PUT", "/channels/ops", {**_request(shown.get_json()), "hourly_cap": 3}).status_code == 200
    assert channel_named("ops").target == f'{{"url": "{HOOK}"}}'


def _request(shown: dict[str, Any]) -> dict[str, Any]:
    return {key: shown[key] for key in ("name", "kind", "url", "hourly_cap")}


def test_a_rule_is_added_previewed_replaced_muted_and_removed(admin: Program) -> None:
    program = admin
    make_channel()
    rule = {"name": "deaths", "on": ["job-dead"], "channel": "ops", "queue": "mail"}
    assert program("POST", "/rules/preview?days=3", rule).get_json() == {"messages": []}
    assert program("POST", "/rules", rule).status_code == 201
    assert program("POST", "/rules", rule).get_json()["errors"][0]["field"] == "name"
    assert program("PUT", "/rules/deaths", {**rule, "queue": None}).get_json()["queue"] is None
    until = clock.to_iso(clock.now() + clock.DAY)
    assert program("POST", "/rules/deaths/mute", {"until": until}).get_json()["muted_until"] == until
    assert program("POST", "/rules/deaths/unmute").get_json()["muted_until"] is None
    missing = program("PUT", "/rules/deaths", {**rule, "channel": "none"})
    assert [error["field"] for error in missing.get_json()["errors"]] == ["channel"]
    assert program("DELETE", "/channels/ops").status_code == 409
    assert program("DELETE", "/rules/deaths").status_code == 204
    assert program("GET", "/rules").get_json() == {"rules": []}
    assert program("DELETE", "/channels/ops").status_code == 204


def test_messages_come_in_pages_and_are_sent_again(operator: Program) -> None:
    program = operator
    rule = make_rule()
    for state in ("failed", "sent", "sent"):
        make_delivery(channel_named("ops"), state, rule_id=rule.id, body="text")
    first = program("GET", "/notifications?rule=deaths&limit=2").get_json()
    rest = program("GET", f"/notifications?rule=deaths&limit=2&cursor={first['next']}").get_json()
    assert [one["state"] for one in first["notifications"] + rest["notifications"]] == ["sent", "sent", "failed"]
    assert rest["next"] is None
    failed = rest["notifications"][0]["id"]
    assert program("GET", f"/notifications/{failed}").get_json()["body"] == "text"
    again = program("POST", f"/notifications/{failed}/send-again").get_json()
    assert again["state"] == "waiting"
    assert program("POST", f"/notifications/{again['id']}/send-again").status_code == 409
    assert program("POST", "/channels/ops/test").get_json()["kind"] == "test"
    assert program("POST", "/channels/ops/drop-backlog").get_json() == {"dropped": 2}
    make_alert(rule, key="group:x")
    assert [one["key"] for one in program("GET", "/alerts").get_json()["alerts"]] == ["group:x"]
    assert program("GET", "/notifications?cursor=WyJhZnRlciIsIm5vdGlmaWNhdGlvbnMiLCJ4Il0").status_code == 422


def test_a_job_is_watched_from_its_submit_or_later(operator: Program) -> None:
    program = operator
    make_channel()
    submitted = program("POST", "/jobs", {"command": "true", "notify": ["ops"]}).get_json()["id"]
    assert program("GET", f"/jobs/{submitted}").get_json()["notify"] == ["ops"]
    assert program("DELETE", f"/jobs/{submitted}/notify/ops").status_code == 204
    assert program("GET", f"/jobs/{submitted}").get_json()["notify"] == []
    assert program("PUT", f"/jobs/{submitted}/notify/ops", {}).status_code == 204
    make_job("dead", id="job2")
    assert program("PUT", "/jobs/job2/notify/ops", {}).status_code == 409
    assert program("PUT", f"/jobs/{submitted}/notify/none", {}).status_code == 404
    refused = program("POST", "/jobs/batch", [{"command": "true"}, {"command": "true", "notify": "none"}]).get_json()
    assert [(error["field"], error["place"]) for error in refused["errors"]] == [("notify", 1)]
