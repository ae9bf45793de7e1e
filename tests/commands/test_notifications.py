"""`manage.py channel`, `rule`, `notification` and `notify`."""

from __future__ import annotations

import json

import pytest
from flask import Flask
from sqlalchemy import update

from tests.commands.conftest import Cli
from tests.factories import make_job
from tests.notifications.factories import HOOK, channel_named, make_alert, make_channel, make_delivery, make_rule
from webapp.db.engines import writing
from webapp.db.models import Delivery
from webapp.lib import clock


def test_the_secret_of_a_webhook_is_printed_once(app: Flask, cli: Cli) -> None:
    added = cli("channel", "add", "ops", "--webhook", "-", stdin=HOOK.encode())
    secret = added.out.strip()
    assert (added.code, secret[:6]) == (0, "whsec_")
    shown = cli("channel", "list", "--json")
    assert secret not in shown.out
    assert "s3cret" not in shown.out
    assert [(one["name"], one["url"]) for one in shown.json] == [("ops", "https://hooks.example.org/…")]
    rotated = cli("channel", "rotate-secret", "ops", "--json").json["secret"]
    assert rotated not in (secret, "")
    assert cli("channel", "add", "ops", "--mail", "a@x.example").code == 3
    assert cli("channel", "rotate-secret", "none").code == 4


def test_a_channel_is_edited_and_removed(app: Flask, cli: Cli) -> None:
    assert cli("channel", "add", "ops", "--mail", "a@x.example,b@x.example", "--hourly-cap", "5").code == 0
    assert cli("channel", "edit", "ops", "--hourly-cap", "0").out == "ops: changed\n"
    assert "a@x.example, b@x.example" in cli("channel", "list").out
    assert cli("channel", "edit", "ops", "--webhook", HOOK).err.startswith("Error: kind: cannot change; it is mail")
    assert "hourly_cap: '-1' is not allowed" in cli("channel", "edit", "ops", "--hourly-cap", "-1").err
    assert "Give only one of" in cli("channel", "add", "x", "--mail", "a@x.example", "--webhook", HOOK).err
    make_rule()
    assert (cli("channel", "rm", "ops").code, cli("rule", "rm", "deaths").code) == (5, 0)
    assert cli("channel", "rm", "ops").out == "ops: removed\n"


@pytest.mark.parametrize(
    ("values", "code", "words"),
    [
        ({"state": "sent", "answer": "250 OK"}, 0, "ops: sent. Answer: 250 OK"),
        ({"state": "failed", "answer": "410 Gone"}, 1, "ops: failed: 410 Gone"),
        ({"tries": 1, "answer": "no connection"}, 1, "ops: not sent yet, will be retried: no connection"),
        ({}, 124, "Is a worker running?"),
    ],
)
def test_a_test_waits_for_the_answer(
    app: Flask, cli: Cli, monkeypatch: pytest.MonkeyPatch, values: dict[str, object], code: int, words: str
) -> None:
    def settle(_seconds: float) -> None:
        if values:
            ended = {"ended_at": clock.now()} if "state" in values else {}
            with writing() as session:
                session.execute(update(Delivery).values(**values, **ended))

    make_channel()
    monkeypatch.setattr("webapp.commands.notifications.channel.time.sleep", settle)
    tested = cli("channel", "test", "ops", "--timeout", "60s" if values else "0.5s")
    assert (tested.code, words in tested.out + tested.err) == (code, True)
    assert cli("notification", "list", "--json").json[0]["kind"] == "test"


def test_a_rule_is_added_changed_muted_and_removed(app: Flask, cli: Cli) -> None:
    make_channel()
    added = cli("rule", "add", "slow", "--on", "queue-old,job-dead", "--channel", "ops", "--older-than", "30m")
    assert (added.code, added.out) == (0, "slow: added\n")
    assert added.err == "In the last 7 days this rule would have sent 0 messages.\n"
    changed = cli("rule", "edit", "slow", "--queue", "mail", "--json")
    assert {key: changed.json[key] for key in ("on", "queue", "older_than")} == {
        "on": ["job-dead", "queue-old"],
        "queue": "mail",
        "older_than": 1800,
    }
    assert cli("rule", "edit", "slow", "--queue", "", "--json").json["queue"] is None
    assert cli("rule", "mute", "slow", "--until", "2030-01-31T08:00:00Z").out.startswith("slow: muted until 2030-01-31")
    assert "muted until" in cli("rule", "list").out
    assert cli("rule", "mute", "slow", "--until", "2h").code == 0
    assert "'soon' is not a time" in cli("rule", "mute", "slow", "--until", "soon").err
    assert cli("rule", "unmute", "slow").out == "slow: unmuted\n"
    assert cli("rule", "unmute", "slow").out == "slow: not muted\n"
    assert cli("rule", "mute", "slow", "--until", "2020-01-31T08:00:00Z").code == 1
    assert "no such channel: 'none'" in cli("rule", "edit", "slow", "--channel", "none").err
    assert "on: 'x' is not an event" in cli("rule", "add", "x", "--on", "x", "--channel", "ops").err
    assert cli("rule", "rm", "slow").code == 0
    assert (cli("rule", "rm", "slow").code, cli("rule", "edit", "slow", "--after", "2").code) == (4, 4)


def test_a_rule_is_previewed_before_it_is_there(app: Flask, cli: Cli) -> None:
    assert cli("rule", "preview", "x").code == 4
    assert cli("rule", "preview", "x", "--on", "job-dead", "--json").json == []
    assert "would have sent 0 messages" in cli("rule", "preview", "x", "--on", "job-dead").err
    assert cli("rule", "list", "--json").json == []


def test_messages_are_listed_shown_sent_again_and_dropped(app: Flask, cli: Cli) -> None:
    rule = make_rule()
    failed = make_delivery(
        channel_named("ops"), "failed", rule_id=rule.id, subject="3 jobs failed", body="a\x1b[2Jb", answer="410 Gone"
    )
    make_delivery(channel_named("ops"), "sent", kind="test")
    assert [one["state"] for one in cli("notification", "list", "--json").json] == ["sent", "failed"]
    assert "410 Gone" in cli("notification", "list", "--channel", "ops", "--rule", "deaths", "--state", "failed").out
    shown = cli("notification", "show", str(failed.id)).out
    assert "3 jobs failed" in shown
    assert "\x1b" not in shown
    again = cli("notification", "send-again", str(failed.id)).out.strip()
    assert cli("notification", "send-again", again).code == 5
    assert cli("notification", "drop", "--channel", "ops").out == "ops: 1 message dropped\n"
    assert cli("notification", "show", "999").code == 4
    make_alert(rule, key="group:x", count=7)
    assert [(one["key"], one["count"]) for one in cli("notification", "alerts", "--json").json] == [("group:x", 7)]
    assert "group:x" in cli("notification", "alerts").out


def test_a_channel_hears_of_the_end_of_jobs(app: Flask, cli: Cli) -> None:
    make_channel()
    make_job("pending", id="job1")
    make_job("dead", id="job2")
    told = cli("notify", "job1", "job2", "--channel", "ops")
    assert (told.code, told.out) == (5, "job1: ops will be notified when it ends\n")
    assert "job job2 has ended: it is dead" in told.err
    assert cli("show", "job1", "--json").json["notify"] == ["ops"]
    assert "notifies" in cli("show", "job1").out
    removed = cli("notify", "job1", "--channel", "ops", "--remove")
    assert removed.out == "job1: ops will not be notified when it ends\n"
    assert cli("notify", "none", "--channel", "ops").code == 4


def test_a_new_job_names_channels(app: Flask, cli: Cli) -> None:
    make_channel()
    make_channel("other")
    first = cli("enqueue", "--command", "true", "--notify", "ops", "--notify", "other").out.strip()
    second = cli("enqueue", '{"command": "true", "notify": "ops"}').out.strip()
    assert [cli("show", one, "--json").json["notify"] for one in (first, second)] == [["ops", "other"], ["ops"]]
    refused = cli("enqueue", "--command", "true", "--notify", "none")
    assert (refused.code, "notify: no such channel: 'none'" in refused.err) == (1, True)
    lines = cli("enqueue", "-", stdin=b'{"command": "true"}\n{"command": "true", "notify": ["none"]}\n')
    assert "line 2: notify: no such channel: 'none'" in lines.err
    cli("schedule", "add", "nightly", "--every", "1h", "--command", "true", "--notify", "ops")
    assert json.loads(cli("schedule", "show", "nightly", "--json").out)["job"]["notify"] == ["ops"]
    job_id = cli("schedule", "run", "nightly").out.strip()
    assert cli("show", job_id, "--json").json["notify"] == ["ops"]
    wrong = cli("schedule", "edit", "nightly", "--notify", "none")
    assert "job.notify: no such channel: 'none'" in wrong.err
