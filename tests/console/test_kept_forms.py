"""A form that was sent after the session ended, or from a tab of an earlier session, is kept and offered again."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from sqlalchemy import delete, select

from tests.console.conftest import PARTIAL, Browser
from tests.console.test_sessions import GOOD, WRONG, attempt_sign_in, expire_confirmation
from tests.factories import make_job
from webapp.accounts import users
from webapp.console.frame import kept_form
from webapp.db.engines import reading, writing
from webapp.db.models import Job, UserSession

OWN = {"Origin": "http://localhost"}
FORM = {"command": "echo one\necho <two>", "form_key": "k" * 20, "queue": "mail", "env": "KEY=hidden-value",
        "password": "secret word", "url": "https://hook/secret"}  # fmt: skip


@pytest.fixture
def ana(console: Flask) -> Browser:
    users.add("ana", GOOD, "admin", "rule:test")
    browser = Browser(console.test_client())
    attempt_sign_in(browser, "ana", GOOD)
    browser.get("/submit")
    return browser


def end_sessions() -> None:
    with writing() as session:
        session.execute(delete(UserSession))


def hidden(page: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))


def commands() -> list[str]:
    with reading() as session:
        return list(session.scalars(select(Job.command)))


def test_a_form_comes_back_after_the_sign_in_and_is_sent_once(ana: Browser) -> None:
    end_sessions()
    asked = ana.post("/submit", FORM, headers={**OWN, "Referer": "http://localhost/submit"})
    assert asked.status_code == 401
    assert "what you typed is kept" in asked.text
    assert "secret word" not in asked.text
    fields = hidden(asked.text)
    assert fields["next"] == "/submit"
    wrong = ana.post("/login", {**fields, "name": "ana", "password": WRONG})
    assert hidden(wrong.text)["kept_form"] == fields["kept_form"]
    offered = ana.post("/login", {**fields, "name": "ana", "password": GOOD})
    assert offered.status_code == 200
    assert "echo one\necho &lt;two&gt;</textarea>" in offered.text.replace("\r", "")
    assert commands() == []
    assert offered.text.count("hidden-value") == 1, "only in the field that is sent"
    assert "hook/secret" not in offered.text
    again = hidden(offered.text)
    assert (again["form_key"], again["queue"], "password" in again) == ("k" * 20, "mail", False)
    for _ in range(2):
        assert ana.post("/submit", {**again, "command": FORM["command"]}).status_code == 303
    assert len(commands()) == 1


def test_a_tab_of_an_earlier_session_keeps_its_form(ana: Browser) -> None:
    old = ana.token
    attempt_sign_in(ana, "ana", GOOD)
    sent = {**FORM, "csrf_token": old}
    offered = ana.post("/submit", sent, headers=OWN)
    assert (offered.status_code, hidden(offered.text)["csrf_token"] != old) == (400, True)
    assert "Your form is still here" in offered.text
    for headers in ({}, {"Sec-Fetch-Site": "none"}):  # a form that may come from elsewhere is not offered
        assert "This form has expired" in ana.post("/submit", sent, headers=headers).text
    toast = ana.post("/job/none/requeue", {"csrf_token": old}, headers={**OWN, **PARTIAL})
    assert (toast.status_code, '"renewed"' in toast.headers["HX-Trigger"]) == (400, True)
    assert commands() == []


def test_the_second_of_two_tabs_with_the_log_in_page_goes_on(console: Flask, ana: Browser) -> None:
    browser = Browser(console.test_client())
    browser.get("/login?next=/jobs")
    second = browser.token
    attempt_sign_in(browser, "ana", GOOD)
    form = {"csrf_token": second, "name": "ana", "password": GOOD, "next": "/jobs"}
    went_on = browser.post("/login", form)
    assert (went_on.status_code, went_on.headers["Location"]) == (303, "/jobs")
    assert "You are already signed in as ana." in browser.get("/jobs").text
    stale = console.test_client().post("/login", data=form)
    assert stale.status_code == 400
    assert "This page has expired" in stale.text
    assert hidden(stale.text)["next"] == "/jobs"


def test_a_form_comes_back_after_the_password_was_confirmed(ana: Browser) -> None:
    expire_confirmation()
    asked = ana.post("/people/new", {"name": "ben", "role": "viewer", "password": GOOD}, headers=OWN)
    assert "Confirm your password" in asked.text
    offered = ana.post("/reauth", {**hidden(asked.text), "password": GOOD})
    assert ("ben" in offered.text, GOOD in offered.text) == (True, False)


def test_a_kept_form_is_signed_and_a_button_or_a_confirmation_is_not_kept(ana: Browser) -> None:
    make_job("dead", id="job1")
    end_sessions()
    for form in ({"at": "job"}, {"id": "job1", "confirmed": "1"}):
        assert "kept_form" not in ana.post("/job/job1/requeue", form, headers=OWN).text
    assert "kept_form" not in ana.post("/submit", {"command": "x" * (kept_form.LONGEST + 1)}, headers=OWN).text
    ana.get("/login")
    response = ana.post("/login", {"name": "ana", "password": GOOD, "kept_form": "made.up", "next": "/jobs"})
    assert (response.status_code, response.headers["Location"]) == (303, "/jobs")
