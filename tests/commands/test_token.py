"""`token`: only the secret goes to stdout, once; an ended token stays ended."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from webapp.accounts import tokens
from webapp.db.engines import reading

pytestmark = pytest.mark.every_python


def works(secret: str) -> bool:
    with reading() as session:
        return tokens.find(session, secret) is not None


def test_a_new_token_prints_only_its_secret_and_only_once(app: Flask, cli: Cli) -> None:
    result = cli("token", "create", "deploy", "--scope", "submit", "--days", "30")
    assert result.code == 0
    (secret,) = result.lines
    assert works(secret)
    assert "shown only once" in result.err
    assert secret not in result.err
    listed = cli("token", "list", "--json")
    assert secret not in listed.out
    (one,) = listed.json
    assert (one["name"], one["scope"], one["state"], one["created_by"]) == ("deploy", "submit", "works", "person:ana")
    assert one["expires_at"] is not None
    assert cli("token", "list").lines[1].split()[:3] == ["deploy", "submit", "active"]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["create", "de ploy", "--scope", "read"], 1, "Error: name: 'de ploy' is not allowed"),
        (["create", "deploy", "--scope", "read", "--days", "0"], 1, "Error: days: 0 is not allowed"),
        (["create", "deploy", "--scope", "king"], 2, "Error: Invalid value for '--scope'"),
        (["create", "deploy"], 2, "Error: Missing option '--scope'"),
        (["revoke", "deploy"], 4, "Error: no active token: 'deploy'."),
    ],
)
def test_an_invalid_value_is_one_line(app: Flask, cli: Cli, argv: list[str], code: int, words: str) -> None:
    result = cli("token", *argv)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(words)
    assert result.err.count("\n") == 1


def test_a_revoked_token_is_invalid_and_listed_with_all(app: Flask, cli: Cli) -> None:
    secret = cli("token", "create", "deploy", "--scope", "read").out.strip()
    assert cli("token", "revoke", "deploy").out == "deploy: revoked\n"
    assert not works(secret)
    assert cli("token", "revoke", "deploy").code == 4
    assert "Use --all" in cli("token", "list").err
    (one,) = cli("token", "list", "--all", "--json").json
    assert (one["state"], one["revoked_by"]) == ("revoked", "person:ana")
