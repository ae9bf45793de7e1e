"""Users in the console: adding, roles, disabling, passwords, sessions; and the user's own account."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Callable, Optional

import pytest
from flask import Flask
from sqlalchemy import update

from tests.console.conftest import Browser, Client
from webapp import create_app
from webapp.accounts import sessions, users
from webapp.config import Config
from webapp.console.display.wording import browser
from webapp.db.engines import reading, writing
from webapp.db.models import User, UserSession
from webapp.lib import clock

GOOD = "correct horse battery"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


def add(name: str, role: str = "viewer") -> User:
    users.add(name, GOOD, role, "person:test")
    return user(name)


def user(name: str) -> User:
    with reading() as session:
        found = users.find(session, name)
    assert found is not None
    return found


def handles(name: str) -> list[str]:
    with reading() as session:
        found = users.find(session, name)
        assert found is not None
        return [sessions.handle_of(row) for row in sessions.of_user(session, found.id)]


def expire_confirmation() -> None:
    """Move the last password confirmation one hour back, but not the last use of the session."""
    with writing() as session:
        session.execute(update(UserSession).values(confirmed_at=clock.now() - clock.seconds(3600)))


def problem(text: str, field: str) -> str:
    found = re.search(rf'<p class="problem" id="{field}-problem">([^<]*)</p>', text)
    assert found, field
    return found[1]


def test_a_user_is_added_and_errors_stand_at_their_fields_with_the_input_kept(admin: Browser) -> None:
    form = {"name": "b n", "role": "viewer", "password": GOOD}
    for wrong, field, words in (
        ({"name": "b n"}, "name", "is not allowed"),
        ({"name": "THE-admin"}, "name", "is already used"),
        ({"name": "ben", "password": "short"}, "password", "Has 5 characters; expected 10 to 1000."),
        ({"name": "ben", "password": "password123"}, "password", "Is too easy to guess"),
        ({"name": "ben", "role": "king"}, "role", "is not a role"),
    ):
        response = admin.post("/people/new", {**form, **wrong})
        text = response.get_data(as_text=True)
        assert response.status_code == 422
        assert words in problem(text, field)
        assert f'value="{wrong["name"]}"' in text if "name" in wrong else True
        assert GOOD not in text
    response = admin.post("/people/new", {**form, "name": "ben"})
    assert response.headers["Location"] == "/person/ben"
    assert user("ben").role == "viewer"
    assert "User ben added as viewer." in admin.get("/person/ben").get_data(as_text=True)


def test_the_list_shows_sessions_and_disabled_users(admin: Browser) -> None:
    sessions.begin(add("ana"), "192.0.2.7", FIREFOX)
    add("ben")
    users.set_disabled("ben", True, "person:test")
    text = admin.get("/people").get_data(as_text=True)
    ana, ben = (re.search(rf'href="/person/{name}".*?</tr>', text, re.DOTALL) for name in ("ana", "ben"))
    assert ana is not None
    assert ben is not None
    assert "1 session" in ana[0]
    assert "disabled" in ben[0]
    assert "not signed in" in ben[0]


def test_a_users_page_shows_each_session_with_address_and_browser(admin: Browser) -> None:
    sessions.begin(add("ana"), "192.0.2.7", FIREFOX)
    text = admin.get("/person/ana").get_data(as_text=True)
    assert "Firefox 128 on Linux" in text
    assert "192.0.2.7" in text
    assert admin.get("/person/nobody").status_code == 404


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (FIREFOX, "Firefox 128 on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 "
         "Safari/537.36 Edg/131.0.0.0", "Edge 131 on Windows"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 "
         "Safari/605.1.15", "Safari 17 on macOS"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
         "CriOS/126.0.6478.54 Mobile/15E148 Safari/604.1", "Chrome 126 on iPhone"),
        ("Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile "
         "Safari/537.36", "Chrome 126 on Android"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("x" * 50, "x" * 39 + "…"),
        ("", "unknown browser"),
        (None, "unknown browser"),
    ],
)  # fmt: skip
def test_a_browser_is_named_in_a_few_words(agent: str, words: str) -> None:
    assert browser(agent) == words


def test_a_lower_role_ends_sessions_and_an_unknown_role_is_refused(admin: Browser) -> None:
    sessions.begin(add("ana", "operator"), None, "")
    response = admin.post("/person/ana/role", {"role": "king"})
    assert response.status_code == 422
    assert "is not a role" in problem(response.get_data(as_text=True), "role")
    assert admin.post("/person/ana/role", {"role": "admin"}).headers["Location"] == "/person/ana"
    assert len(handles("ana")) == 1
    admin.post("/person/ana/role", {"role": "viewer"})
    assert (user("ana").role, handles("ana")) == ("viewer", [])
    admin.get("/person/ana")
    admin.post("/person/ana/role", {"role": "viewer"})
    assert "already viewer" in admin.get("/person/ana").get_data(as_text=True)


def test_lowering_ones_own_role_needs_confirmation_and_ends_the_session(admin: Browser) -> None:
    add("ana", "admin")
    asked = admin.post("/person/the-admin/role", {"role": "viewer"}).get_data(as_text=True)
    assert "Change your own role to viewer?" in asked
    assert "Only another admin can" in asked
    assert user("the-admin").role == "admin"
    response = admin.post("/person/the-admin/role", {"role": "viewer", "confirmed": "1"})
    assert response.headers["Location"] == "/login"
    assert user("the-admin").role == "viewer"
    assert admin.get("/people").headers["Location"].startswith("/login")


def test_the_last_admin_can_be_neither_demoted_nor_disabled(admin: Browser) -> None:
    response = admin.post("/person/the-admin/role", {"role": "viewer", "confirmed": "1"})
    assert response.status_code == 422
    assert "this is the last admin" in problem(response.get_data(as_text=True), "role")
    for partial in (False, True):
        response = admin.post("/person/the-admin/disable", {"confirmed": "1"}, partial=partial)
        assert response.status_code == 409
        assert "must stay admin: this is the last admin" in response.get_data(as_text=True)
    assert user("the-admin").disabled_at is None


def test_disabling_needs_confirmation_ends_sessions_and_can_be_reverted(admin: Browser) -> None:
    sessions.begin(add("ana"), None, "")
    asked = admin.post("/person/ana/disable", partial=True)
    assert "Disable ana?" in asked.get_data(as_text=True)
    assert "ask" in asked.headers["HX-Trigger"]
    assert user("ana").disabled_at is None
    done = admin.post("/person/ana/disable", {"confirmed": "1"}, partial=True)
    assert done.headers["HX-Redirect"] == "/person/ana"
    assert (user("ana").disabled_at is not None, handles("ana")) == (True, [])
    assert admin.post("/person/ana/disable", {"confirmed": "1"}).status_code == 409
    assert admin.post("/person/ana/enable").headers["Location"] == "/person/ana"
    assert user("ana").disabled_at is None
    assert admin.post("/person/ana/enable").status_code == 409
    assert "Disable yourself?" in admin.post("/person/the-admin/disable").get_data(as_text=True)


def test_a_new_password_is_checked_and_ends_sessions(admin: Browser) -> None:
    sessions.begin(add("ana"), None, "")
    response = admin.post("/person/ana/password", {"password": "ana-ana-ana"})
    assert response.status_code == 422
    assert "too easy to guess" in problem(response.get_data(as_text=True), "password")
    assert len(handles("ana")) == 1
    assert admin.post("/person/ana/password", {"password": "another horse battery"}).status_code == 303
    assert handles("ana") == []
    with reading() as session:
        assert users.authenticate(session, "ana", "another horse battery") is not None


def test_one_session_ends_at_once_and_all_sessions_after_confirmation(admin: Browser) -> None:
    ana = add("ana")
    for _ in range(3):
        sessions.begin(ana, None, "")
    first = handles("ana")[0]
    assert admin.post("/person/ana/sessions/end", {"handle": first}).status_code == 303
    assert first not in handles("ana")
    assert admin.post("/person/ana/sessions/end", {"handle": first}).status_code == 409
    assert admin.post("/person/ana/sessions/end", {"handle": "%"}).status_code == 400
    assert "Sign ana out everywhere?" in admin.post("/person/ana/sessions/end").get_data(as_text=True)
    assert len(handles("ana")) == 2
    admin.post("/person/ana/sessions/end", {"confirmed": "1"})
    assert handles("ana") == []


def test_ending_all_own_sessions_keeps_the_current_one(admin: Browser) -> None:
    sessions.begin(user("the-admin"), None, "")
    admin.post("/person/the-admin/sessions/end", {"confirmed": "1"})
    assert len(handles("the-admin")) == 1
    assert admin.get("/people").status_code == 200


@pytest.mark.parametrize("url", ["/people/new", "/person/ana", "/tokens/new"])
def test_forms_that_grant_rights_ask_for_the_password_first(admin: Browser, url: str) -> None:
    add("ana")
    admin.get("/account")
    expire_confirmation()
    assert admin.get(url).headers["Location"] == f"/reauth?next={url}"
    assert admin.get("/people").status_code == 200


@pytest.mark.parametrize(
    "url",
    ["/people/new", "/person/ana/role", "/person/ana/disable", "/person/ana/enable", "/person/ana/password",
     "/person/ana/sessions/end", "/tokens/new"],
)  # fmt: skip
def test_changes_of_rights_are_refused_without_a_recent_password(admin: Browser, url: str) -> None:
    add("ana")
    admin.get("/account")
    expire_confirmation()
    form = {"name": "eve", "role": "admin", "password": GOOD, "scope": "admin", "confirmed": "1"}
    response = admin.post(url, {**form, "back": "/person/ana"})
    assert response.headers["Location"] == "/reauth?next=/person/ana"
    assert user("ana").role == "viewer"


# --- own account -----------------------------------------------------------------------------------------------------


def test_a_user_who_just_signed_in_changes_the_password_and_stays_signed_in(viewer: Browser) -> None:
    sessions.begin(user("the-viewer"), None, "")
    page = viewer.get("/account").get_data(as_text=True)
    assert 'name="current"' not in page
    response = viewer.post("/account/password", {"password": "short"})
    assert response.status_code == 422
    assert "Has 5 characters" in problem(response.get_data(as_text=True), "password")
    before = handles("the-viewer")
    assert viewer.post("/account/password", {"password": GOOD}).headers["Location"] == "/account"
    assert viewer.get("/account").status_code == 200
    after = handles("the-viewer")
    assert len(after) == 1
    assert after[0] not in before  # the session continues under another id


def test_an_older_session_must_confirm_the_old_password_once(viewer: Browser) -> None:
    users.set_password("the-viewer", GOOD, "person:test", spare=cookie_id(viewer))
    viewer.get("/account")
    expire_confirmation()
    assert 'name="current"' in viewer.get("/account").get_data(as_text=True)
    for typed in ({}, {"current": "wrong"}):
        response = viewer.post("/account/password", {"password": "another horse battery", **typed})
        assert response.status_code == 422
        assert "Wrong password" in problem(response.get_data(as_text=True), "current")
    response = viewer.post("/account/password", {"current": GOOD, "password": "short"})
    assert response.status_code == 422
    assert 'name="current"' not in response.get_data(as_text=True)
    assert viewer.post("/account/password", {"password": "another horse battery"}).status_code == 303
    assert viewer.get("/account").status_code == 200


def cookie_id(browser: Browser) -> str:
    with browser.client.session_transaction() as session:
        return str(session["_user_id"])


def test_too_many_wrong_passwords_are_throttled(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer.get("/account")
    expire_confirmation()
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)  # a wait of one second could end on a busy machine
    answers = [viewer.post("/account/password", {"current": "wrong", "password": GOOD}) for _ in range(8)]
    assert [answer.status_code for answer in answers][-1] == 429
    assert int(answers[-1].headers["Retry-After"]) > 0


def test_own_sessions_are_listed_and_can_be_ended(viewer: Browser) -> None:
    for _ in range(2):
        sessions.begin(user("the-viewer"), "192.0.2.7", FIREFOX)
    page = viewer.get("/account").get_data(as_text=True)
    assert page.count("this browser") == 1
    other = re.findall(r'name="handle" value="([0-9a-f]{16})"', page)
    assert len(other) == 2
    assert viewer.post("/account/sessions/end", {"handle": other[0]}).headers["Location"] == "/account"
    assert len(handles("the-viewer")) == 2
    assert viewer.post("/account/sessions/end", partial=True).headers["HX-Redirect"] == "/account"
    assert len(handles("the-viewer")) == 1
    assert viewer.get("/account").status_code == 200


def test_a_user_cannot_end_the_session_of_another_user(viewer: Browser) -> None:
    sessions.begin(add("ana"), None, "")
    assert viewer.post("/account/sessions/end", {"handle": handles("ana")[0]}).status_code == 409
    assert len(handles("ana")) == 1


@pytest.mark.parametrize("public", [None, "https://queue.example.org"])
def test_every_cookie_has_the_right_attributes(console: Flask, config: Config, public: Optional[str]) -> None:
    add("ana")
    app = create_app(replace(config, public_url=public))
    base = public or "http://localhost"
    app.test_client_class = Client
    client = app.test_client()
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/login", base_url=base).text)
    assert token is not None
    form = {"csrf_token": token[1], "name": "ana", "password": GOOD}
    cookies = client.post("/login", data=form, base_url=base).headers.getlist("Set-Cookie")
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/account", base_url=base).text)
    assert token is not None
    form = {"csrf_token": token[1], "theme": "dark", "tick": "2", "keys": "off"}
    chosen = client.post("/account", data=form, base_url=base).headers.getlist("Set-Cookie")
    gone = client.post("/logout", data=form, base_url=base).headers.getlist("Set-Cookie")
    for cookie in (*cookies, *chosen, *gone):
        name = cookie.partition("=")[0]
        assert "SameSite=Lax" in cookie, cookie
        assert ("HttpOnly" in cookie) is (name not in {"theme", "tick", "keys"}), cookie
        assert ("Secure" in cookie) is (public is not None), cookie
        assert name.startswith("__Host-") is (public is not None and "queuectl" in name), cookie
    assert not any("_known_" in cookie for cookie in gone)  # the browser remains a known one


def test_the_menu_offers_only_pages_of_the_role(sign_in: Callable[[str], Browser]) -> None:
    menus = {role: menu_of(sign_in(role)) for role in ("viewer", "operator", "admin")}
    assert menus["viewer"] == menus["operator"]
    assert {"/people", "/tokens", "/audit"}.isdisjoint(menus["viewer"])
    assert {"/account", "/people", "/tokens", "/audit"} <= set(menus["admin"])


def menu_of(browser: Browser) -> list[str]:
    text = browser.get("/jobs").get_data(as_text=True)
    sheet = re.search(r'class="menu user".*?</details>', text, re.DOTALL)
    assert sheet is not None
    return re.findall(r'href="([^"]*)"', sheet[0])
