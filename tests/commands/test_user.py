"""`user`: add, list, passwd; passwords come from a pipe or a prompt, never from the command line."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from webapp.accounts import sessions, users
from webapp.db.engines import reading

pytestmark = pytest.mark.every_python

GOOD = b"correct horse battery\n"


def may_log_in(name: str, password: str) -> bool:
    with reading() as session:
        return users.authenticate(session, name, password) is not None


def test_a_user_is_added_with_a_piped_password_and_listed(app: Flask, cli: Cli) -> None:
    result = cli("user", "add", "ben", "--role", "viewer", "--password-stdin", stdin=GOOD)
    assert (result.code, result.out, result.err) == (0, "ben: account created, role viewer\n", "")
    assert may_log_in("ben", "correct horse battery")
    (user,) = cli("user", "list", "--json").json
    assert (user["name"], user["role"], user["disabled_at"]) == ("ben", "viewer", None)
    assert set(user) == {"name", "role", "created_at", "disabled_at"}
    assert cli("user", "list").lines[1].split()[:2] == ["ben", "viewer"]


def test_a_new_password_replaces_the_old_one(app: Flask, cli: Cli) -> None:
    cli("user", "add", "ben", "--password-stdin", stdin=GOOD)
    assert cli("user", "passwd", "ben", "--password-stdin", stdin=b"another good one\r\n").code == 0
    assert may_log_in("ben", "another good one")
    assert not may_log_in("ben", "correct horse battery")


@pytest.mark.parametrize(
    ("argv", "stdin", "words"),
    [
        (["add", "ben"], b"short\n", "Error: password: has 5 characters; expected 10 to 1000.\n"),
        (["add", "b n"], GOOD, "Error: name: 'b n' is not allowed"),
        (["passwd", "nobody"], GOOD, "Error: name: no such user: 'nobody'.\n"),
    ],
)
def test_an_invalid_value_is_one_line(app: Flask, cli: Cli, argv: list[str], stdin: bytes, words: str) -> None:
    result = cli("user", *argv, "--password-stdin", stdin=stdin)
    assert (result.code, result.out) == (4 if "no such user" in words else 1, "")
    assert result.err.startswith(words)
    assert cli("user", "list", "--json").json == []


def test_without_a_terminal_a_password_must_be_piped_explicitly(cli: Cli) -> None:
    result = cli("user", "add", "ben", stdin=GOOD)
    assert (result.code, result.out) == (2, "")
    assert "--password-stdin" in result.err


def test_an_empty_list_names_the_set_up_link(app: Flask, cli: Cli) -> None:
    assert "No users yet" in cli("user", "list").err


def test_a_role_is_changed_and_a_user_is_disabled_and_enabled_again(app: Flask, cli: Cli) -> None:
    for name, role in (("root", "admin"), ("ana", "operator")):
        cli("user", "add", name, "--role", role, "--password-stdin", stdin=b"correct horse battery\n")
    assert cli("user", "role", "ana", "viewer").out == "ana: role is now viewer\n"
    assert cli("user", "role", "ana", "viewer").out == "ana: role is already viewer\n"
    assert cli("user", "disable", "ana").out == "ana: disabled\n"
    assert cli("user", "enable", "ana").out == "ana: enabled\n"
    [ana] = [one for one in cli("user", "list", "--json").json if one["name"] == "ana"]
    assert (ana["role"], ana["disabled_at"]) == ("viewer", None)
    for argv in (["role", "root", "viewer"], ["disable", "root"]):
        result = cli("user", *argv)
        assert (result.code, result.out) == (5, "")
        assert "last admin" in result.err
    assert "no such user: 'ben'" in cli("user", "enable", "ben").err


def test_sessions_are_listed_and_ended(app: Flask, cli: Cli) -> None:
    cli("user", "add", "ben", "--password-stdin", stdin=GOOD)
    assert cli("user", "sessions", "ben").err == "ben is not signed in.\n"
    with reading() as session:
        ben = users.find(session, "ben")
    assert ben is not None
    sessions.begin(ben, "192.0.2.7", "a browser\x1b[2J")
    assert r"a browser\x1b[2J" in cli("user", "sessions", "ben").out
    (one,) = cli("user", "sessions", "ben", "--json").json
    assert (one["address"], set(one)) == ("192.0.2.7", {"address", "browser", "started_at", "used_at"})
    assert cli("user", "sessions", "ben", "--end").out == "ben: signed out, sessions ended: 1\n"
    assert cli("user", "sessions", "ben", "--end").out == "ben is not signed in.\n"
    for argv in (["nobody"], ["nobody", "--end"]):
        result = cli("user", "sessions", *argv)
        assert (result.code, result.out, result.err) == (4, "", "Error: name: no such user: 'nobody'.\n")
