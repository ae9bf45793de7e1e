"""The first rule, a test message whose answer appears by itself, and what a rule would have sent, in a browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import update

from tests.factories import make_job
from tests.notifications.factories import HOOK, channel_named, make_channel, rule_named
from webapp.db.engines import writing
from webapp.db.models import Delivery
from webapp.lib import clock


def test_the_first_rule_is_made_from_the_overview(page: Page) -> None:
    page.goto("/")
    page.get_by_role("link", name="Set up notifications").click()
    expect(page.get_by_label("Mail addresses")).to_be_focused()
    expect(page.get_by_label("URL")).to_be_hidden()
    page.get_by_label("Webhook").check()
    expect(page.get_by_label("Mail addresses")).to_be_hidden()
    page.get_by_label("URL").fill(HOOK)
    page.get_by_role("button", name="Notify me").click()
    secret = page.locator("#secret")
    expect(secret).to_contain_text("whsec_")
    assert secret.inner_text() == channel_named("webhook").secret
    assert rule_named("failures").events.startswith(",group-new,")
    page.goto("/")
    expect(page.locator("#unheard")).to_have_count(0)


def test_a_test_message_shows_its_answer_without_a_reload(page: Page) -> None:
    make_channel()
    page.goto("/notifications")
    page.get_by_role("button", name="Send a test message to ops").click()
    page.wait_for_url("**/notification/*")
    expect(page.get_by_role("heading", level=1)).to_have_text("Test message to ops")
    page.evaluate("window.stayed = true")
    values = {"state": "sent", "answer": "204 No Content", "tries": 1, "ended_at": clock.now(), "body": "It works."}
    with writing() as session:
        session.execute(update(Delivery).values(**values))
    expect(page.get_by_text("The receiver answered: 204 No Content")).to_be_visible()
    assert page.evaluate("window.stayed")
    page.get_by_role("button", name="Send again").click()
    page.wait_for_url("**/notification/2")


@pytest.mark.full
def test_the_form_of_a_rule_shows_what_it_would_have_sent_while_it_is_filled_in(page: Page) -> None:
    make_channel()
    make_job("dead", command="./backup.sh", error_key="one", finished_at=clock.now() - clock.DAY)
    page.goto("/rules/new")
    preview = page.locator("#preview")
    expect(preview).to_contain_text("would have sent 1 message")
    page.get_by_label("Command").fill("*other*")
    page.get_by_label("Command").blur()
    expect(preview).to_contain_text("would have sent 0 messages")
    page.locator("[name=on][value=group-new]").uncheck()
    expect(page.locator("#on-problem")).to_have_text("Select at least one event.")
