"""Sign-in: throttling without lock-out, sessions, password confirmation, client addresses."""

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


def attempt_sign_in(browser: Browser, name: str, password: str, **headers: str) -> TestResponse:
    browser.get("/login")
    return browser.post("/login", {"name": name, "password": password}, headers=headers)


def audit_rows() -> list[tuple[str, str, str, str]]:
    with reading() as session:
        rows = session.scalars(select(Audit).where(Audit.verb == "sign_in").order_by(Audit.id)).all()
    return [(row.actor, row.subject, row.outcome, row.address or "") for row in rows]


# --- throttling ---


@pytest.fixture
def frozen_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, a wait of one second could end on a busy machine."""
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)


@pytest.mark.parametrize("name", ["ana", "nobody"])
@pytest.mark.usefixtures("frozen_clock")
def test_too_many_wrong_passwords_are_throttled_for_known_and_unknown_names(
    anonymous: Browser, ana: str, name: str
) -> None:
    answers = [attempt_sign_in(anonymous, name, WRONG) for _ in range(8)]
    assert [answer.status_code for answer in answers[:5]] == [422] * 5
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert "Too many attempts. Wait" in answers[-1].text


@pytest.mark.usefixtures("frozen_clock")
def test_during_a_wait_the_right_password_is_refused(anonymous: Browser, ana: str) -> None:
    for _ in range(8):
        attempt_sign_in(anonymous, ana, WRONG)
    assert attempt_sign_in(anonymous, ana, GOOD).status_code == 429


@pytest.mark.usefixtures("frozen_clock")
def test_an_attacker_does_not_lock_out_the_owner_of_an_account(console: Flask, ana: str) -> None:
    home, elsewhere = Browser(console.test_client()), Browser(console.test_client())
    assert attempt_sign_in(home, ana, GOOD).status_code == 303
    home.get("/account")
    home.post("/logout")
    for _ in range(10):
        attempt_sign_in(elsewhere, ana, WRONG)
    assert attempt_sign_in(elsewhere, ana, GOOD).status_code == 429
    assert attempt_sign_in(home, ana, GOOD).status_code == 303


@pytest.mark.usefixtures("frozen_clock")
def test_an_attacker_in_the_same_network_does_not_lock_out_the_owner(
    console: Flask, ana: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(login_throttle.FREE, "address", 3)
    home, elsewhere = Browser(console.test_client()), Browser(console.test_client())
    assert attempt_sign_in(home, ana, GOOD).status_code == 303
    home.get("/account")
    home.post("/logout")
    assert [attempt_sign_in(elsewhere, f"name{n}", WRONG).status_code for n in range(6)][-1] == 429
    assert attempt_sign_in(home, ana, GOOD).status_code == 303


def test_a_known_browser_counts_for_its_owner_only_and_is_throttled_too(console: Flask, ana: str) -> None:
    users.add("ben", GOOD, "viewer", "rule:test")
    home = Browser(console.test_client())
    assert attempt_sign_in(home, "ben", GOOD).status_code == 303
    home.get("/account")
    home.post("/logout")
    assert [attempt_sign_in(home, ana, WRONG).status_code for _ in range(8)][-1] == 429
    assert [attempt_sign_in(home, "ben", WRONG).status_code for _ in range(14)][-1] == 429


def test_an_address_that_tries_many_names_is_throttled(anonymous: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(login_throttle.FREE, "address", 3)
    # The wait doubles with each failure, so a slow machine must wait too.
    assert any(attempt_sign_in(anonymous, f"name{n}", WRONG).status_code == 429 for n in range(14))


def test_sign_ins_and_refusals_are_audited_without_the_typed_name(anonymous: Browser, ana: str) -> None:
    attempt_sign_in(anonymous, ana, WRONG)
    attempt_sign_in(anonymous, "my-secret-typed-in-the-wrong-field", WRONG)
    attempt_sign_in(anonymous, ana, GOOD)
    assert audit_rows() == [
        ("anonymous", "user:ana", "refused", "127.0.0.1"),
        ("anonymous", "user", "refused", "127.0.0.1"),
        ("person:ana", "user:ana", "done", "127.0.0.1"),
    ]


def test_a_password_confirmation_is_audited_with_its_user(console: Flask, ana: str) -> None:
    browser = Browser(console.test_client())
    attempt_sign_in(browser, ana, GOOD)
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


def test_a_copied_cookie_is_invalid_after_sign_out(console: Flask, ana: str) -> None:
    browser = Browser(console.test_client())
    attempt_sign_in(browser, ana, GOOD)
    thief = Browser(console.test_client())
    cookie = browser.client.get_cookie("queuectl_80")
    assert cookie is not None
    thief.client.set_cookie("queuectl_80", cookie.value)
    assert thief.client.get("/jobs").status_code == 200
    browser.get("/account")
    assert browser.post("/logout").status_code == 303
    assert thief.client.get("/jobs").status_code == 303


def test_pages_extend_a_session_and_refreshes_do_not(operator: Browser) -> None:
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


def test_the_database_does_not_contain_the_session_id_of_a_cookie(operator: Browser) -> None:
    with operator.client.session_transaction() as session:
        session_id = session["_user_id"]
    with reading() as database:
        row = database.scalars(select(UserSession)).one()
        assert session_id not in {str(getattr(row, column.key)) for column in UserSession.__table__.columns}
        assert sessions.is_this(row, session_id)


# --- password confirmation ---


@pytest.fixture
def sensitive(console: Flask) -> list[str]:
    """Adds a route that needs a recent password. Returns the list of its calls."""
    done: list[str] = []

    @needs("operator", fresh=True)
    def act() -> str:
        done.append("done")
        return "done"

    console._got_first_request = False
    console.add_url_rule("/sensitive", "sensitive", act, methods=["GET", "POST"])
    return done


def expire_confirmation() -> None:
    with writing() as session:
        session.execute(update(UserSession).values(confirmed_at=clock.now() - sessions.FRESH - 1))


def test_a_sensitive_action_asks_for_the_password_and_then_continues(
    console: Flask, ana: str, sensitive: list[str]
) -> None:
    browser = Browser(console.test_client())
    attempt_sign_in(browser, ana, GOOD)
    assert browser.get("/sensitive").text == "done"
    expire_confirmation()
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
        assert session["_user_id"] != before, "the session continues under another id"
    assert browser.get("/sensitive").text == "done"


def test_password_confirmation_is_throttled_like_sign_in(console: Flask, ana: str) -> None:
    browser = Browser(console.test_client())
    attempt_sign_in(browser, ana, GOOD)
    browser.client.delete_cookie("queuectl_known_80")
    browser.get("/reauth")
    assert [browser.post("/reauth", {"password": WRONG}).status_code for _ in range(8)][-1] == 429


# --- client addresses ---


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
def test_x_forwarded_for_is_read_from_trusted_proxies_only(
    home: object, trusted: str, peer: str, forwarded: str, found: str
) -> None:
    app = create_app(load({"QUEUECTL_HOME": str(home), "HOME": str(home), "QUEUECTL_TRUSTED_PROXIES": trusted}))
    with app.test_request_context(headers={"X-Forwarded-For": forwarded}, environ_base={"REMOTE_ADDR": peer}):
        assert address() == found


def test_an_invalid_proxy_address_is_refused_with_the_name_of_the_setting() -> None:
    with pytest.raises(ConfigError, match="QUEUECTL_TRUSTED_PROXIES is 'the proxy'"):
        load({"HOME": "/", "QUEUECTL_HOME": "/nowhere", "QUEUECTL_TRUSTED_PROXIES": "the proxy"})


def test_unknown_and_known_names_cost_one_password_hash_each(
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
def test_the_first_sign_in_of_a_process_costs_the_same_for_any_name(
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


def test_sign_in_cookies_are_hidden_from_scripts(console: Flask, ana: str) -> None:
    browser = Browser(console.test_client())
    cookies = attempt_sign_in(browser, ana, GOOD).headers.getlist("Set-Cookie")
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
