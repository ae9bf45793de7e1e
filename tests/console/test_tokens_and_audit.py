"""Tokens and the audit trail in the console: secrets are shown once, entries show old and new values."""

from __future__ import annotations

import json
import re

import pytest
import time_machine
from sqlalchemy import update

from tests.console.conftest import Browser
from tests.console.test_users import problem
from webapp.accounts import tokens
from webapp.console.audit import Change, changes
from webapp.db import audit
from webapp.db.engines import reading, writing
from webapp.db.models import Token
from webapp.jobs import settings
from webapp.lib import clock


def is_valid(secret: str) -> bool:
    with reading() as session:
        return tokens.find(session, secret) is not None


def test_a_new_token_is_shown_once_and_nowhere_else(admin: Browser) -> None:
    response = admin.post("/tokens/new", {"name": "deploy", "scope": "submit", "days": "30"})
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    found = re.search(r'id="secret"[^>]*>(qctl_[\w-]+)</code>', response.get_data(as_text=True))
    assert found is not None
    secret = found[1]
    assert is_valid(secret)
    assert secret not in str(response.headers)
    for url in ("/tokens", "/tokens?ended=1", "/audit", "/audit.jsonl", "/people", "/account"):
        assert secret not in admin.get(url).get_data(as_text=True)
    again = admin.post("/tokens/new", {"name": "deploy", "scope": "submit", "days": "30"})  # loaded again
    assert again.status_code == 422
    assert "is already used" in problem(again.get_data(as_text=True), "name")


@pytest.mark.parametrize(
    ("wrong", "field", "words"),
    [
        ({"name": "de ploy"}, "name", "is not allowed"),
        ({"name": ""}, "name", "is not allowed"),
        ({"scope": "king"}, "scope", "is not a scope"),
        ({"days": "0"}, "days", "expected 1 to 3650"),
        ({"days": "soon"}, "days", "is not a number of days"),
        ({"days": "9" * 30}, "days", "is not a number of days"),
    ],
)
def test_an_invalid_token_form_shows_errors_at_their_fields(
    admin: Browser, wrong: dict[str, str], field: str, words: str
) -> None:
    form = {"name": "deploy", "scope": "operate", "days": "90", **wrong}
    response = admin.post("/tokens/new", form)
    text = response.get_data(as_text=True)
    assert response.status_code == 422
    assert words in problem(text, field)
    assert f'value="{form["name"]}"' in text
    assert "qctl_" not in text


def test_a_token_without_expiry_must_be_requested_explicitly(admin: Browser) -> None:
    admin.post("/tokens/new", {"name": "deploy", "scope": "read", "days": ""})
    assert '<span class="muted">never</span>' in admin.get("/tokens").get_data(as_text=True)


def test_the_list_shows_scope_last_use_and_status_of_each_token(admin: Browser) -> None:
    for name, days in (("fresh", 90), ("soon", 3), ("over", 3), ("gone", None)):
        tokens.make(name, "operate", days, "person:ana")
    tokens.revoke("gone", "person:ben")
    with writing() as session:
        session.execute(update(Token).where(Token.name == "over").values(expires_at=clock.now() - 1))
        session.execute(update(Token).where(Token.name == "fresh").values(used_at=clock.now(), used_from="192.0.2.7"))
    text = admin.get("/tokens").get_data(as_text=True)
    assert tokens.MEANINGS["operate"] in text
    assert "192.0.2.7" in text
    assert "never used" in text
    assert "expires soon" in text
    assert re.findall(r'/token/(\w+)/revoke"', text)[::2] == ["soon", "fresh"]
    every = admin.get("/tokens?ended=1").get_data(as_text=True)
    assert "by ben" in every
    assert re.findall(r'/token/(\w+)/revoke"', every)[::2] == ["soon", "fresh"]


def test_a_token_is_revoked_once_and_after_confirmation(admin: Browser) -> None:
    secret, _ = tokens.make("deploy", "read", None, "person:ana")
    assert "Revoke deploy?" in admin.post("/token/deploy/revoke", partial=True).get_data(as_text=True)
    assert is_valid(secret)
    assert " revoked." in admin.post("/token/deploy/revoke", {"confirmed": "1"}, partial=True).get_data(as_text=True)
    assert not is_valid(secret)
    assert admin.post("/token/deploy/revoke", {"confirmed": "1"}).status_code == 409


# --- audit trail -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        (None, []),
        ({"before": 3, "after": 5}, [Change("", "3", "5")]),
        ({"before": {"state": "dead"}, "after": {"state": "pending"}}, [Change("state", "dead", "pending")]),
        ({"before": {"state": "dead"}, "after": {"state": None}}, [Change("state", "dead", "none")]),
        ({"before": {"sessions": 2}}, [Change("sessions", "2", None)]),
        ({"after": {"role": "admin", "x": True}}, [Change("role", None, "admin"), Change("x", None, "yes")]),
        ({"needs": "admin", "role": "viewer"}, [Change("needs", None, "admin"), Change("role", None, "viewer")]),
        ({"filter": {"state": "dead", "queue": None}}, [Change("filter", None, "state dead")]),
        (
            {"after": {"expires_at": "2026-03-01T09:30:00.000000Z"}},
            [Change("expires_at", None, "1 Mar 2026 09:30 UTC")],
        ),
        (
            {"after": {"command": "2026-19-39T09:30:00.000000Z"}},
            [Change("command", None, "2026-19-39T09:30:00.000000Z")],
        ),
        ([1], [Change("", None, "[1]")]),
    ],
)
@time_machine.travel("2027-01-01")
def test_a_change_is_shown_as_old_and_new_value(detail: object, expected: list[Change]) -> None:
    assert changes(json.dumps(detail) if detail is not None else None) == expected


def lines(text: str) -> list[str]:
    return re.findall(r'<tr role="row" id="line-(\d+)"', text)


def test_the_audit_trail_shows_old_and_new_values_and_marks_refusals(admin: Browser, viewer: Browser) -> None:
    settings.set_setting("lease", 40, "person:ana")
    viewer.post("/queue/mail/pause")
    text = admin.get("/audit").get_data(as_text=True)
    assert re.search(r'<span class="old">30</span>.*?<span class="new">40</span>', text)
    assert re.search(r'class="refused">.*?route:queues\.pause', text, re.DOTALL)


def test_the_audit_trail_can_be_filtered(admin: Browser, viewer: Browser) -> None:
    settings.set_setting("lease", 40, "person:ana")
    settings.set_setting("lease", 50, "token:deploy")
    viewer.post("/queue/mail/pause")
    for query, number in (
        ("actor=ana", 1), ("actor=person:ana", 1), ("actor=token:", 1), ("verb=config", 2), ("subject=setting:", 2),
        ("outcome=refused", 1), ("outcome=refused&verb=config", 0), ("since=2020-01-01T00:00", 5),
        ("since=2990-01-01T00:00", 0), ("actor=%25", 0),
    ):  # fmt: skip
        assert len(lines(admin.get(f"/audit?{query}").get_data(as_text=True))) == number, query
        exported = admin.get(f"/audit.jsonl?{query}").get_data(as_text=True).splitlines()
        assert len(exported) == number, query


@pytest.mark.parametrize("since", ["yesterday", "2020-13-01T00:00", "0001-01-01T00:00", "9999-12-31T23:59"])
def test_an_invalid_time_is_reported_at_its_field(admin: Browser, since: str) -> None:
    response = admin.get(f"/audit?since={since}")
    assert response.status_code == 422
    assert "is not a time" in problem(response.get_data(as_text=True), "since")
    assert f'value="{since}"' in response.get_data(as_text=True)
    assert admin.get(f"/audit.jsonl?since={since}").status_code == 400


def test_the_audit_trail_has_pages_in_both_directions(admin: Browser) -> None:
    for value in range(120):
        settings.set_setting("lease", 40 + value % 2, "person:ana")
    first = admin.get("/audit?actor=ana").get_data(as_text=True)
    second = admin.get(link(first, "next")).get_data(as_text=True)
    third = admin.get(link(second, "next")).get_data(as_text=True)
    assert [len(lines(page)) for page in (first, second, third)] == [50, 50, 20]
    assert len({*lines(first), *lines(second), *lines(third)}) == 120
    assert lines(admin.get(link(third, "prev")).get_data(as_text=True)) == lines(second)
    assert link(second, "prev") == "/audit?actor=ana"
    assert 'rel="next"' not in third
    for wrong in ("x", "-1", "9" * 30, "²"):
        assert admin.get(f"/audit?before={wrong}").status_code == 400


def link(page: str, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="([^"]*)"', page)
    assert found is not None
    return found[1].replace("&amp;", "&")


def test_the_export_is_a_file_of_json_lines_oldest_first(admin: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "EXPORT_BATCH", 3)
    for value in range(8):
        settings.set_setting("lease", 40 + value, "person:ana")
    response = admin.get("/audit.jsonl?verb=config")
    entries = [json.loads(line) for line in response.get_data(as_text=True).splitlines()]
    assert [one["detail"]["after"] for one in entries] == list(range(40, 48))
    assert set(entries[0]) == {"id", "at", "actor", "verb", "subject", "outcome", "face", "address", "detail"}
    assert re.fullmatch(
        r"attachment; filename=queuectl-audit-\d{4}-\d\d-\d\d\.jsonl", response.headers["Content-Disposition"]
    )


def test_text_in_the_audit_trail_is_escaped(admin: Browser) -> None:
    evil = "<script>alert(1)</script>\u202egpj.exe\x1b[2J"
    with writing() as session:
        audit.note(session, evil, [evil], f"person:{evil}", details=[{"before": {evil: evil}, "after": {evil: evil}}])
        session.execute(update(Token).values(used_from=evil))
    text = admin.get("/audit").get_data(as_text=True)
    assert "<script>alert" not in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "U+202E" in text
