"""API tokens: stored as a hash, limited in time and by scope."""

from __future__ import annotations

from typing import Optional

import pytest
import time_machine
from sqlalchemy import select, text

from webapp.accounts import tokens
from webapp.accounts.tokens import AccountError
from webapp.db.engines import reading
from webapp.db.models import Audit, Token

pytestmark = pytest.mark.usefixtures("own_clock", "app")


def works(secret: str) -> Optional[str]:
    with reading() as session:
        found = tokens.find(session, secret)
    return found.name if found is not None else None


def test_a_token_is_shown_once_and_stored_as_a_hash() -> None:
    secret, token = tokens.make("deploy", "submit", 30, "person:ana")
    assert secret.startswith("qctl_")
    assert len(secret) >= len("qctl_") + 43  # 256 bits
    assert works(secret) == "deploy"
    assert works(secret[:-1]) is None
    with reading() as session:
        for table in ("tokens", "audit", "events"):
            for row in session.execute(text(f"SELECT * FROM {table}")):
                assert not any(secret in str(value) or secret[5:] in str(value) for value in row)
    assert token.scope == "submit"


def test_a_token_ends_when_it_expires_or_is_revoked() -> None:
    with time_machine.travel(1_000_000_000, tick=False) as clock:
        secret, _ = tokens.make("short", "read", 1, "person:ana")
        clock.shift(86399)
        assert works(secret) == "short"
        clock.shift(2)
        assert works(secret) is None
    secret, _ = tokens.make("deploy", "read", None, "person:ana")
    assert tokens.revoke("deploy", "person:ben") is True
    assert works(secret) is None
    assert tokens.revoke("deploy", "person:ben") is False
    with reading() as session:
        assert [token.name for token in tokens.list_all(session)] == []
        assert {token.name for token in tokens.list_all(session, ended=True)} == {"deploy", "short"}


@pytest.mark.parametrize(
    ("name", "scope", "days", "field"),
    [("", "read", 1, "name"), ("a b", "read", 1, "name"), ("a", "root", 1, "scope"), ("a", "read", 0, "days"),
     ("a", "read", 4000, "days")],
)  # fmt: skip
def test_an_invalid_value_is_refused_with_its_field(name: str, scope: str, days: int, field: str) -> None:
    with pytest.raises(AccountError) as caught:
        tokens.make(name, scope, days, "person:ana")
    assert caught.value.field == field


def test_a_name_is_used_once_even_after_its_token_is_revoked() -> None:
    tokens.make("deploy", "read", 1, "person:ana")
    tokens.revoke("deploy", "person:ana")
    with pytest.raises(AccountError, match="is already used"):
        tokens.make("deploy", "read", 1, "person:ana")


def test_use_is_recorded_about_once_a_minute() -> None:
    with time_machine.travel(1_000_000_000, tick=False) as clock:
        _, token = tokens.make("deploy", "read", 30, "person:ana")
        seen = []
        for _ in range(3):
            with reading() as session:
                token = session.scalars(select(Token)).one()
            tokens.note_use(token, "192.0.2.1", 1.0)
            with reading() as session:
                seen.append(session.scalar(select(Token.used_at)))
            clock.shift(40)
    assert seen[0] == seen[1] != seen[2]


def test_creating_and_revoking_are_audited() -> None:
    tokens.make("deploy", "read", None, "person:ana")
    tokens.revoke("deploy", "person:ben")
    with reading() as session:
        rows = [(row.actor, row.verb, row.subject) for row in session.scalars(select(Audit).order_by(Audit.id))]
    assert rows == [("person:ana", "make_token", "token:deploy"), ("person:ben", "revoke_token", "token:deploy")]


@pytest.mark.parametrize(
    ("scope", "needed", "allowed"),
    [("admin", "read", True), ("read", "submit", False), ("submit", "submit", True), ("submit", "operate", False)],
)
def test_a_scope_includes_the_lower_ones(scope: str, needed: str, allowed: bool) -> None:
    assert tokens.may(scope, needed) is allowed
