"""Users, passwords, and the one-time set-up link of the first start."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
import time_machine
from flask import Flask
from sqlalchemy import select

from webapp.accounts import sessions, users
from webapp.accounts.users import AccountError
from webapp.db import engines
from webapp.db.application import create_core
from webapp.db.engines import reading
from webapp.db.models import Audit, Event, SetupLink, User

GOOD = "correct horse battery"

pytestmark = pytest.mark.usefixtures("own_clock", "app")


def user(name: str, password: str) -> bool:
    with reading() as session:
        return users.authenticate(session, name, password) is not None


def test_only_the_right_password_of_a_known_user_is_accepted() -> None:
    users.add("ana", GOOD, "admin", "person:test")
    assert user("ana", GOOD)
    assert not user("ana", GOOD + "!")
    assert not user("bob", GOOD)


def test_the_database_contains_no_password_and_no_set_up_link() -> None:
    link = users.new_setup_link()
    users.add("ana", GOOD, "admin", "person:test")
    with reading() as session:
        [stored] = session.scalars(select(User))
        assert stored.password_hash.startswith("$argon2id$")
        [kept] = session.scalars(select(SetupLink.token_hash))
        details = list(session.scalars(select(Event.detail)))
    assert link is not None
    assert link not in kept
    assert not any(GOOD in (detail or "") for detail in details)


@pytest.mark.parametrize(
    ("name", "password", "role", "field"),
    [
        ("", GOOD, "admin", "name"),
        ("a b", GOOD, "admin", "name"),
        ("ana\n", GOOD, "admin", "name"),
        ("ana", "short", "admin", "password"),
        ("ana", "aaaaaaaaaaaaaa", "admin", "password"),
        ("ana.the.long", "Ana.The.Long", "admin", "password"),
        ("ana", "x" * 1001, "admin", "password"),
        ("ana", GOOD, "root", "role"),
    ],
)
def test_an_invalid_value_is_refused_with_its_field(name: str, password: str, role: str, field: str) -> None:
    with pytest.raises(AccountError) as caught:
        users.add(name, password, role, "person:test")
    assert caught.value.field == field
    with reading() as session:
        assert users.list_all(session) == []


@pytest.mark.postgresql
def test_names_are_unique_regardless_of_case() -> None:
    users.add("Ana", GOOD, "viewer", "person:test")
    with pytest.raises(AccountError, match="'ana' is already used"):
        users.add("ana", GOOD, "viewer", "person:test")


def signed_in(name: str) -> str:
    with reading() as session:
        user = users.find(session, name)
    assert user is not None
    return sessions.begin(user, "192.0.2.1", "a browser")


def lives(session_id: str) -> bool:
    with reading() as session:
        return sessions.find(session, session_id) is not None


def test_a_new_password_ends_every_session_except_the_current_one() -> None:
    users.add("ana", GOOD, "viewer", "person:test")
    one, other = signed_in("ana"), signed_in("ana")
    users.set_password("ana", GOOD + " staple", "person:ana", spare=one)
    assert (lives(one), lives(other)) == (True, False)
    users.set_password("ana", GOOD + " stapler", "person:test")
    assert not lives(one)
    assert user("ana", GOOD + " stapler")
    with pytest.raises(AccountError, match="no such user: 'bob'"):
        users.set_password("bob", GOOD, "person:test")


def test_a_lower_role_and_disabling_end_sessions_and_a_higher_role_does_not() -> None:
    users.add("root", GOOD, "admin", "person:test")
    users.add("ana", GOOD, "viewer", "person:test")
    one = signed_in("ana")
    assert users.set_role("ana", "operator", "person:root")
    assert lives(one)
    assert not users.set_role("ana", "operator", "person:root")
    assert users.set_role("ana", "viewer", "person:root")
    assert not lives(one)
    one = signed_in("ana")
    assert users.set_disabled("ana", True, "person:root")
    assert not lives(one)
    assert not user("ana", GOOD)
    assert users.set_disabled("ana", False, "person:root")
    assert not lives(one), "an ended session stays ended"
    assert user("ana", GOOD)


def test_the_last_admin_cannot_be_demoted() -> None:
    users.add("root", GOOD, "admin", "person:test")
    with pytest.raises(AccountError, match="last admin"):
        users.set_role("root", "operator", "person:root")
    with pytest.raises(AccountError, match="last admin"):
        users.set_disabled("root", True, "person:root")
    assert user("root", GOOD)


@pytest.mark.postgresql
def test_if_two_admins_demote_each_other_at_once_one_remains(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ana", "eve"):
        users.add(name, GOOD, "admin", "person:test")
    keep, both_are_in = users._keep_an_administrator, threading.Barrier(2)
    apps = {"ana": app, "eve": create_core(app.extensions["queuectl_config"])}  # as two processes: a write lock each

    def keep_when_the_other_is_here_too(*arguments: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            both_are_in.wait(1.0)
        keep(*arguments)

    def demote(name: str) -> bool:
        with apps[name].app_context(), suppress(AccountError):
            return users.set_role(name, "viewer", "person:test")
        return False

    monkeypatch.setattr(users, "_keep_an_administrator", keep_when_the_other_is_here_too)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(demote, ["ana", "eve"])) == [False, True]
    with apps["eve"].app_context():
        engines.disconnect()


def test_without_an_admin_other_users_can_still_be_changed() -> None:
    users.add("ana", GOOD, "operator", "person:test")
    assert users.set_role("ana", "viewer", "person:test")
    assert users.set_disabled("ana", True, "person:test")


def test_one_session_or_all_except_the_current_one_can_be_ended() -> None:
    users.add("ana", GOOD, "viewer", "person:test")
    one, two, three = signed_in("ana"), signed_in("ana"), signed_in("ana")
    with reading() as session:
        rows = sessions.of_user(session, users.list_all(session)[0].id)
    [handle] = [sessions.handle_of(row) for row in rows if sessions.is_this(row, two)]
    assert users.end_sessions("ana", "person:ana", handle=handle) == 1
    assert [lives(one), lives(two), lives(three)] == [True, False, True]
    assert users.end_sessions("ana", "person:ana", spare=one) == 1
    assert [lives(one), lives(three)] == [True, False]


@pytest.mark.parametrize("password", ["password123", "Password2024!", "qwertyuiop", "ana-ana-ana", "abcdefghij"])
def test_common_passwords_and_passwords_like_the_name_are_refused(password: str) -> None:
    with pytest.raises(AccountError, match="too easy to guess"):
        users.add("ana", password, "viewer", "person:test")


def test_the_set_up_link_creates_one_admin_and_works_once() -> None:
    link = users.new_setup_link()
    assert link is not None
    with reading() as session:
        assert users.setup_link_is_good(session, link)
        assert not users.setup_link_is_good(session, link + "x")
    assert users.set_up(link, "ana", GOOD) is True
    assert users.set_up(link, "eve", GOOD) is False
    assert users.new_setup_link() is None
    with reading() as session:
        assert [(one.name, one.role) for one in users.list_all(session)] == [("ana", "admin")]
        [told] = session.scalars(select(Audit))
        assert (told.actor, told.verb, told.subject) == ("person:ana", "add_user", "user:ana")


@pytest.mark.postgresql
def test_if_two_users_open_the_set_up_link_at_once_one_becomes_admin(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = users.new_setup_link()
    assert link is not None
    add, both_are_in = users._add, threading.Barrier(2)

    def add_when_the_other_is_here_too(*arguments: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            both_are_in.wait(1.0)
        add(*arguments)

    def come(name: str) -> bool:
        with app.app_context():
            return users.set_up(link, name, GOOD)

    monkeypatch.setattr(users, "_add", add_when_the_other_is_here_too)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(come, ["ana", "eve"])) == [False, True]
    with reading() as session:
        assert len(users.list_all(session)) == 1


def test_a_refused_name_or_password_does_not_use_up_the_link() -> None:
    link = users.new_setup_link()
    assert link is not None
    with pytest.raises(AccountError):
        users.set_up(link, "ana", "short")
    assert users.set_up(link, "ana", GOOD) is True


def test_a_new_link_replaces_the_old_one_and_each_link_expires_after_an_hour() -> None:
    first, second = users.new_setup_link(), users.new_setup_link()
    assert first is not None
    assert second is not None
    assert users.set_up(first, "ana", GOOD) is False
    with time_machine.travel(time.time() + 3601):
        assert users.set_up(second, "ana", GOOD) is False
    assert users.set_up(second, "ana", GOOD) is True


def test_the_link_is_invalid_once_an_admin_exists() -> None:
    link = users.new_setup_link()
    assert link is not None
    users.add("ana", GOOD, "admin", "person:root")
    assert users.set_up(link, "eve", GOOD) is False
