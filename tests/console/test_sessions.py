"""Getting in: slowly where it fails, never locked out for good, and once more before something sensitive."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import pytest
from flask import Flask
from sqlalchemy import select, update
from werkzeug.test import TestResponse

from tests.console.conftest import PARTIAL, Browser
from webapp import create_app
from webapp.accounts import login_throttle, sessions, users
from webapp.config import Config, ConfigError, load
from webapp.console.frame.person import needs
from webapp.db.engines import reading, writing
from webapp.db.models import Audit, UserSession
from webapp.lib import clock
from webapp.web.request_info import address

GOOD, WRONG = "a long enough secret", "wrong wrong wrong"


@pytest.fixture
def ana(console: Flask) -> str:
    users.add("ana", GOOD, "admin", "rule:test")
    return "ana"


def try_in(browser: Browser, name: str, password: str, **headers: str) -> TestResponse:
    browser.get("/login")
    return browser.post("/login", {"name": name, "password": password}, headers=headers)


def trail() -> list[tuple[str, str, str, str]]:
    with reading() as session:
        rows = session.scalars(select(Audit).where(Audit.verb == "sign_in").order_by(Audit.id)).all()
    return [(row.actor, row.subject, row.outcome, row.address or "") for row in rows]


# --- slower and slower ---


@pytest.fixture
def standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a wait of a second would be over."""
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)


@pytest.mark.parametrize("name", ["ana", "nobody"])
@pytest.mark.usefixtures("standing_clock")
def test_too_many_wrong_passwords_are_told_to_wait_whether_the_name_is_known_or_not(
    stranger: Browser, ana: str, name: str
) -> None:
    answers = [try_in(stranger, name, WRONG) for _ in range(8)]
    assert [answer.status_code for answer in answers[:5]] == [422] * 5
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert "Too many attempts. Wait" in answers[-1].text


@pytest.mark.usefixtures("standing_clock")
def test_while_it_waits_the_right_password_opens_nothing(stranger: Browser, ana: str) -> None:
    for _ in range(8):
        try_in(stranger, ana, WRONG)
    assert try_in(stranger, ana, GOOD).status_code == 429


@pytest.mark.usefixtures("standing_clock")
def test_who_attacks_an_account_does_not_keep_its_owner_out(console: Flask, ana: str) -> None:
    home, elsewhere = Browser(console.test_client()), Browser(console.test_client())
    assert try_in(home, ana, GOOD).status_code == 303
    home.get("/account")
    home.post("/logout")
    for _ in range(10):
        try_in(elsewhere, ana, WRONG)
    assert try_in(elsewhere, ana, GOOD).status_code == 429
    assert try_in(home, ana, GOOD).status_code == 303


@pytest.mark.usefixtures("standing_clock")
def test_who_attacks_from_the_owners_own_network_does_not_keep_the_owner_out_either(
    console: Flask, ana: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(login_throttle.FREE, "address", 3)
    home, elsewhere = Browser(console.test_client()), Browser(console.test_client())
    assert try_in(home, ana, GOOD).status_code == 303
    home.get("/account")
    home.post("/logout")
    assert [try_in(elsewhere, f"name{n}", WRONG).status_code for n in range(6)][-1] == 429
    assert try_in(home, ana, GOOD).status_code == 303


def test_a_known_browser_is_known_for_its_owner_alone_and_slows_down_too(console: Flask, ana: str) -> None:
    users.add("ben", GOOD, "viewer", "rule:test")
    home = Browser(console.test_client())
    assert try_in(home, "ben", GOOD).status_code == 303
    home.get("/account")
    home.post("/logout")
    assert [try_in(home, ana, WRONG).status_code for _ in range(8)][-1] == 429
    assert [try_in(home, "ben", WRONG).status_code for _ in range(14)][-1] == 429


def test_one_address_that_tries_many_names_is_slowed_down(stranger: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(login_throttle.FREE, "address", 3)
    assert [try_in(stranger, f"name{n}", WRONG).status_code for n in range(6)][-1] == 429


def test_sign_ins_and_their_refusals_are_in_the_trail_but_not_what_was_typed_for_a_name(
    stranger: Browser, ana: str
) -> None:
    try_in(stranger, ana, WRONG)
    try_in(stranger, "my-secret-typed-in-the-wrong-field", WRONG)
    try_in(stranger, ana, GOOD)
    assert trail() == [
        ("anonymous", "user:ana", "refused", "127.0.0.1"),
        ("anonymous", "user", "refused", "127.0.0.1"),
        ("person:ana", "user:ana", "done", "127.0.0.1"),
    ]


def test_the_password_once_more_is_in_the_trail_with_who_typed_it(console: Flask, ana: str) -> None:
    browser = Browser(console.test_client())
    try_in(browser, ana, GOOD)
    browser.get("/reauth")
    browser.post("/reauth", {"password": WRONG})
    browser.post("/reauth", {"password": GOOD})
    with reading() as session:
        rows = session.scalars(select(Audit).where(Audit.verb == "confirm").order_by(Audit.id)).all()
    assert [(row.actor, row.subject, row.outcome) for row in rows] == [
        ("person:ana", "user:ana", "refused"),
        ("person:ana", "user:ana", "done"),
    ]


# --- sessions ---


def test_a_copied_cookie_is_dead_after_log_out(console: Flask, ana: str) -> None:
    browser = Browser(console.test_client())
    try_in(browser, ana, GOOD)
    thief = Browser(console.test_client())
    cookie = browser.client.get_cookie("queuectl_80")
    assert cookie is not None
    thief.client.set_cookie("queuectl_80", cookie.value)
    assert thief.client.get("/jobs").status_code == 200
    browser.get("/account")
    assert browser.post("/logout").status_code == 303
    assert thief.client.get("/jobs").status_code == 303


def test_pages_and_acts_keep_a_session_alive_and_polls_do_not(operator: Browser) -> None:
    def seen_at() -> int:
        with reading() as session:
            return session.scalars(select(UserSession.seen_at)).one()

    with writing() as session:
        session.execute(update(UserSession).values(seen_at=clock.now() - 2 * sessions.RENEW))
    before = seen_at()
    assert operator.get("/jobs", partial=True).status_code == 200
    assert seen_at() == before
    assert operator.get("/jobs").status_code == 200
    assert seen_at() > before


def test_no_database_can_say_who_a_cookie_is(operator: Browser) -> None:
    with operator.client.session_transaction() as session:
        session_id = session["_user_id"]
    with reading() as database:
        row = database.scalars(select(UserSession)).one()
        assert session_id not in {str(getattr(row, column.key)) for column in UserSession.__table__.columns}
        assert sessions.is_this(row, session_id)


# --- once more ---


@pytest.fixture
def sensitive(console: Flask) -> list[str]:
    """A route of the console that needs a fresh password, and what it has done."""
    done: list[str] = []

    @needs("operator", fresh=True)
    def act() -> str:
        done.append("done")
        return "done"

    console._got_first_request = False
    console.add_url_rule("/sensitive", "sensitive", act, methods=["GET", "POST"])
    return done


def make_stale() -> None:
    with writing() as session:
        session.execute(update(UserSession).values(confirmed_at=clock.now() - sessions.FRESH - 1))


def test_something_sensitive_asks_for_the_password_once_more_and_then_comes_back(
    console: Flask, ana: str, sensitive: list[str]
) -> None:
    browser = Browser(console.test_client())
    try_in(browser, ana, GOOD)
    assert browser.get("/sensitive").text == "done"
    make_stale()
    for answer in (browser.get("/sensitive"), browser.post("/sensitive")):
        assert answer.status_code == 303
        assert answer.headers["Location"].startswith("/reauth?next=")
    answer = browser.client.post("/sensitive", data={"csrf_token": browser.token}, headers=PARTIAL)
    assert answer.headers["HX-Redirect"].startswith("/reauth?next=")
    assert sensitive == ["done"]
    page = browser.get("/reauth?next=/sensitive")
    assert 'name="next" value="/sensitive"' in page.text
    assert browser.post("/reauth", {"password": WRONG, "next": "/sensitive"}).status_code == 422
    with browser.client.session_transaction() as session:
        before = session["_user_id"]
    answer = browser.post("/reauth", {"password": GOOD, "next": "/sensitive"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sensitive")
    with browser.client.session_transaction() as session:
        assert session["_user_id"] != before, "the session goes on under another id"
    assert browser.get("/sensitive").text == "done"


def test_guessing_there_is_slowed_down_as_at_log_in(console: Flask, ana: str) -> None:
    browser = Browser(console.test_client())
    try_in(browser, ana, GOOD)
    browser.client.delete_cookie("queuectl_known_80")
    browser.get("/reauth")
    assert [browser.post("/reauth", {"password": WRONG}).status_code for _ in range(8)][-1] == 429


# --- from where ---


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "found"),
    [
        ("", "192.0.2.9", "203.0.113.5", "192.0.2.9"),
        ("192.0.2.9", "192.0.2.9", "203.0.113.5", "203.0.113.5"),
        ("192.0.2.9", "192.0.2.9", "10.9.9.9, 203.0.113.5", "203.0.113.5"),
        ("192.0.2.0/24", "192.0.2.9", "10.9.9.9, 203.0.113.5, 192.0.2.8", "203.0.113.5"),
        ("192.0.2.9", "192.0.2.9", "", "192.0.2.9"),
        ("192.0.2.9", "192.0.2.9", "<script>", "192.0.2.9"),
        ("::1", "::1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_an_address_is_believed_from_trusted_proxies_alone(
    home: object, trusted: str, peer: str, forwarded: str, found: str
) -> None:
    app = create_app(load({"QUEUECTL_HOME": str(home), "HOME": str(home), "QUEUECTL_TRUSTED_PROXIES": trusted}))
    with app.test_request_context(headers={"X-Forwarded-For": forwarded}, environ_base={"REMOTE_ADDR": peer}):
        assert address() == found


def test_a_proxy_that_is_none_is_refused_by_name_of_the_setting() -> None:
    with pytest.raises(ConfigError, match="QUEUECTL_TRUSTED_PROXIES is 'the proxy'"):
        load({"HOME": "/", "QUEUECTL_HOME": "/nowhere", "QUEUECTL_TRUSTED_PROXIES": "the proxy"})


def test_unknown_names_cost_the_one_slow_look_that_known_ones_do(
    console: Flask, ana: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasher, looks = users._hasher(), []

    class Counting:
        hash = staticmethod(hasher.hash)

        def verify(self, hashed: str, password: str) -> bool:
            looks.append(hashed.rpartition("$")[0].rpartition("$")[0])  # version and cost, without the salt
            return hasher.verify(hashed, password)

    monkeypatch.setattr(users, "_hasher", Counting)
    for name in ("ana", "nobody"):
        with reading() as session:
            assert users.authenticate(session, name, WRONG) is None
    assert len(looks) == 2
    assert looks[0] == looks[1]


@pytest.mark.parametrize("name", ["ana", "nobody"])
def test_the_first_look_of_a_process_costs_the_same_for_any_name(
    console: Flask, ana: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hashed: list[str] = []
    hash_it = users._hash

    def counted(text: str) -> str:
        hashed.append(text)
        return hash_it(text)

    users._dummy_hash.cache_clear()
    monkeypatch.setattr(users, "_hash", counted)
    with reading() as session:
        assert users.authenticate(session, name, WRONG) is None
    assert len(hashed) == 1


def test_the_cookies_are_kept_from_scripts_and_say_so(console: Flask, ana: str) -> None:
    browser = Browser(console.test_client())
    cookies = try_in(browser, ana, GOOD).headers.getlist("Set-Cookie")
    assert {re.split("[=;]", cookie)[0] for cookie in cookies} == {"queuectl_80", "queuectl_known_80"}
    assert all("HttpOnly" in cookie and "SameSite=Lax" in cookie for cookie in cookies)
    app = create_app(Config(home=_home(console), database_url=None, public_url="https://queue.example.org"))
    client = Browser(app.test_client())
    url = "https://queue.example.org"
    page = client.get("/login", base_url=url)
    assert page.status_code == 200
    answer = client.post("/login", {"name": ana, "password": GOOD}, base_url=url)
    for cookie in answer.headers.getlist("Set-Cookie"):
        assert cookie.startswith("__Host-")
        assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))


def _home(console: Flask) -> Path:
    return cast(Config, console.extensions["queuectl_config"]).home
