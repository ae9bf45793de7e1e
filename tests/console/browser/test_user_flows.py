"""Users, tokens, the audit trail and the own account in a real Chromium, with JavaScript and without."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Callable

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import update

from tests.console.browser.conftest import Watched
from webapp.accounts import sessions, tokens, users
from webapp.db.engines import reading, writing
from webapp.db.models import User, UserSession
from webapp.jobs import settings
from webapp.lib import clock

GOOD = "correct horse battery"


@pytest.fixture(autouse=True)
def _wrong_inputs_are_expected(watched: Watched) -> None:
    for status in ("422", "409"):  # Chromium reports each such response as an error
        watched.expect(f"Failed to load resource: the server responded with a status of {status}")


def user(name: str) -> User:
    with reading() as session:
        found = users.find(session, name)
    assert found is not None
    return found


def add_a_person(page: Page) -> None:
    page.goto("/people")
    page.get_by_role("link", name="Add user").click()
    page.fill("#name", "b n")
    page.fill("#password", "short")
    page.get_by_role("button", name="Add user").click()
    expect(page.locator("#name-problem")).to_contain_text("is not allowed")
    expect(page.locator("#name")).to_be_focused()
    page.fill("#name", "ben")
    page.get_by_label("viewer").check()
    page.fill("#password", "password123")
    page.get_by_role("button", name="Add user").click()
    expect(page.locator("#password-problem")).to_contain_text("too easy to guess")
    expect(page.locator("#password")).to_be_focused()
    expect(page.locator("#name")).to_have_value("ben")
    expect(page.get_by_label("viewer")).to_be_checked()
    page.fill("#password", GOOD)
    page.get_by_role("button", name="Add user").click()
    expect(page.get_by_text("User ben added as viewer.")).to_be_visible()


def test_a_user_is_added_promoted_and_disabled(page: Page) -> None:
    add_a_person(page)
    page.get_by_label("operator").check()
    page.get_by_role("button", name="Change role").click()
    expect(page.get_by_text("ben is now operator.")).to_be_visible()
    page.get_by_role("button", name="Disable ben").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Disable ben?")
    dialog.get_by_role("button", name="Cancel").click()
    assert user("ben").disabled_at is None
    page.get_by_role("button", name="Disable ben").click()
    dialog.get_by_role("button", name="Disable ben").click()
    expect(page.get_by_text("ben disabled and signed out everywhere.")).to_be_visible()
    page.get_by_role("button", name="Enable ben").click()
    expect(page.get_by_text("ben can sign in again.")).to_be_visible()


@pytest.mark.full
def test_all_user_pages_work_without_javascript(open_browser: Callable[..., Page]) -> None:
    page = open_browser("admin", java_script_enabled=False)
    add_a_person(page)
    sessions.begin(user("ben"), "192.0.2.7", "curl/8")
    page.goto("/person/ben")
    page.get_by_role("button", name="Sign out the session in curl/8, 192.0.2.7").click()
    expect(page.get_by_text("1 session signed out.")).to_be_visible()
    page.get_by_role("button", name="Disable ben").click()
    expect(page.get_by_role("heading", name="Disable ben?")).to_be_visible()
    page.get_by_role("button", name="Disable ben").click()
    expect(page.get_by_text("ben disabled and signed out everywhere.")).to_be_visible()
    page.goto("/tokens/new")
    page.fill("#name", "deploy")
    page.get_by_role("button", name="Create token").click()
    expect(page.locator("#secret")).to_have_text(re.compile(r"qctl_[\w-]{43}"))
    expect(page.get_by_role("button", name="Copy")).to_be_hidden()
    page.get_by_role("link", name="Done").click()
    page.get_by_role("button", name="Revoke token deploy").click()
    page.get_by_role("button", name="Revoke token").click()
    expect(page.get_by_text("Token deploy revoked.")).to_be_visible()
    page.goto("/audit")
    page.fill("#actor", "a-admin")
    page.locator("#verb").select_option("revoke_token")
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(page.locator(".trail tbody tr")).to_have_count(1)


@pytest.mark.full
def test_a_refused_change_of_the_last_admin_is_explained(page: Page) -> None:
    page.goto("/person/a-admin")
    page.get_by_role("button", name="Disable yourself").click()
    page.get_by_role("button", name="Disable me").click()
    expect(page.locator("#toasts")).to_contain_text("this is the last admin")
    page.locator(".choice").get_by_text("viewer", exact=True).click()
    page.get_by_role("button", name="Change role").click()
    page.get_by_role("button", name="Change my role").click()
    expect(page.locator("#role-problem")).to_contain_text("this is the last admin")


@pytest.mark.full
def test_a_secret_is_shown_once_and_can_be_copied(open_browser: Callable[..., Page]) -> None:
    page = open_browser("admin", permissions=["clipboard-read", "clipboard-write"])
    page.goto("/tokens")
    page.get_by_role("link", name="Create token").first.click()
    page.fill("#name", "de ploy")
    page.get_by_role("button", name="Create token").click()
    expect(page.locator("#name-problem")).to_contain_text("is not allowed")
    page.fill("#name", "deploy")
    page.locator("#scope-operate").check()
    page.locator("#days").select_option("30")
    page.get_by_role("button", name="Create token").click()
    secret = page.locator("#secret").inner_text()
    with reading() as session:
        assert tokens.find(session, secret) is not None
    page.locator("[data-copy]").click()
    expect(page.locator("[data-copy]")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == secret
    page.get_by_role("link", name="Done").click()
    expect(page.locator("#live")).to_contain_text("deploy")
    assert secret not in page.content()


@pytest.mark.full
def test_a_token_is_revoked_in_place(page: Page) -> None:
    secret, _ = tokens.make("deploy", "read", None, "person:ana")
    page.goto("/tokens")
    page.get_by_role("button", name="Revoke token deploy").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke token").click()
    expect(page.get_by_text("Token deploy revoked.")).to_be_visible()
    expect(page.get_by_role("heading", name="No tokens")).to_be_visible()
    with reading() as session:
        assert tokens.find(session, secret) is None


@pytest.mark.full
def test_an_old_session_confirms_its_password_and_continues(open_browser: Callable[..., Page]) -> None:
    page = open_browser("admin", name="ana")
    users.set_password("ana", GOOD, "rule:test", spare=session_of(page))
    page.goto("/people")
    with writing() as session:
        session.execute(update(UserSession).values(confirmed_at=clock.now() - clock.seconds(3600)))
    page.get_by_role("link", name="Add user").click()
    page.fill("#password", "wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_contain_text("Wrong password")
    page.fill("#password", GOOD)
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="Add user")).to_be_visible()


def session_of(page: Page) -> str:
    """The session id in the browser's cookie."""
    import base64

    [value] = [one["value"] for one in page.context.cookies() if one["name"].startswith("queuectl_")]
    payload = value.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["_user_id"])


@pytest.mark.full
def test_a_changed_password_signs_other_browsers_out(open_browser: Callable[..., Page]) -> None:
    page = open_browser("viewer", name="ana")
    sessions.begin(user("ana"), "192.0.2.7", "curl/8")
    page.goto("/account")
    expect(page.locator(".fleet .badge")).to_have_text("this browser")
    page.fill("#password", "short")
    page.get_by_role("button", name="Show the password").click()
    expect(page.locator("#password")).to_have_attribute("type", "text")
    page.get_by_role("button", name="Change password").click()
    expect(page.locator("#password-problem")).to_contain_text("expected 10 to 1000")
    page.fill("#password", GOOD)
    page.get_by_role("button", name="Change password").click()
    expect(page.get_by_text("Password changed.")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out your session")).to_have_count(0)
    page.goto("/jobs")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


@pytest.mark.full
def test_a_user_signs_another_own_browser_out(open_browser: Callable[..., Page]) -> None:
    page = open_browser("viewer", name="ana")
    for address in ("192.0.2.7", "192.0.2.8", "192.0.2.9"):
        sessions.begin(user("ana"), address, "curl/8")
    page.goto("/account")
    page.get_by_role("button", name="Sign out your session in curl/8, 192.0.2.8").click()
    expect(page.get_by_text("1 session signed out.")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Sign out your session"))).to_have_count(2)
    page.get_by_role("button", name="Sign out all others").click()
    expect(page.get_by_text("2 sessions signed out.")).to_be_visible()


@pytest.mark.full
def test_the_audit_trail_is_filtered_and_exported(page: Page, tmp_path: Path) -> None:
    settings.set_setting("lease", 40, "person:ana")
    page.goto("/jobs")
    page.locator(".menu.user summary").click()
    page.get_by_role("link", name="Audit trail").click()
    page.get_by_role("link", name="setting:lease").click()
    expect(page.locator(".trail tbody tr")).to_have_count(1)
    expect(page.locator(".changes")).to_contain_text("30")
    expect(page.locator("#subject")).to_have_value("setting:lease")
    with page.expect_download() as download:
        page.get_by_role("link", name="JSON lines").click()
    file = tmp_path / "trail"
    download.value.save_as(file)
    assert re.fullmatch(r"queuectl-audit-\d{4}-\d\d-\d\d\.jsonl", download.value.suggested_filename)
    assert [json.loads(line)["subject"] for line in file.read_text().splitlines()] == ["setting:lease"]
    page.get_by_role("link", name="Show all").click()
    expect(page.locator(".trail tbody tr").first).to_contain_text("setting:lease")
