"""The palette: where it leads, what it does, and for whom."""

from __future__ import annotations

import html
import re

import pytest

from tests.console.conftest import Browser
from tests.factories import make_job, make_queue
from webapp.db.engines import reading
from webapp.db.models import Queue


def found(browser: Browser, typed: str) -> list[tuple[str, str, str]]:
    """Kind, title and target of each result; a button's target begins with POST."""
    text = browser.get(f"/palette?q={typed}", partial=True).get_data(as_text=True)
    lines = re.findall(
        r'<li><(?:a class="found[^"]*" href|button class="found[^"]*" form="act" formaction)="([^"]*)"(.*?)'
        r'<span class="kind">([^<]*)</span><span class="title[^"]*">([^<]*)</span>',
        text,
    )
    return [
        (kind, html.unescape(title), ("POST " if "hx-post" in rest else "") + html.unescape(url))
        for url, rest, kind, title in lines
    ]


def test_an_id_leads_to_its_job_and_its_actions(operator: Browser, viewer: Browser) -> None:
    make_job("dead", id="job1", command="true")
    make_job("completed", id="job12", command="true")
    assert found(operator, "job1")[:4] == [
        ("Job", "job1", "/job/job1"),
        ("Job", "job12", "/job/job12"),
        ("Action", "Requeue job1", "POST /job/job1/requeue"),
        ("Action", "Discard job1", "POST /job/job1/discard"),
    ]
    assert found(operator, "requeue+job1")[0] == ("Action", "Requeue job1", "POST /job/job1/requeue")
    assert "Action" not in [kind for kind, _, _ in found(viewer, "job1")]


def test_a_queue_can_be_paused_and_resumed(operator: Browser) -> None:
    make_queue("mail")
    make_queue("media", paused_by="person:ana")
    assert found(operator, "pause+mai")[:2] == [
        ("Action", "Pause queue mail", "POST /queue/mail/pause"),
        ("Queue", "mail", "/queue/mail"),
    ]
    assert ("Action", "Resume queue media", "POST /queue/media/resume") in found(operator, "resume")
    assert b"Queue mail paused." in operator.post("/queue/mail/pause", {}, partial=True).data
    with reading() as session:
        mail = session.get(Queue, "mail")
        assert mail is not None
        assert mail.paused_at is not None


def test_groups_commands_settings_and_pages_are_found(operator: Browser, viewer: Browser, admin: Browser) -> None:
    make_job("dead", command="./charge --all", error_key="exit:7", last_error="exit 7: Card declined")
    results = found(operator, "declined")
    assert ("Group", "exit 7: Card declined", "/dead/exit:7") in results
    assert results[-1] == ("Search", "Search jobs for “declined”", "/jobs?q=declined")
    assert ("Command", "charge --all", "/command/charge%20--all") in found(operator, "charge")
    assert ("Setting", "backoff_base", "/config/backoff_base") in found(operator, "backoff+base")
    assert ("Page", "Audit trail", "/audit") in found(admin, "audit")
    assert ("Page", "Audit trail", "/audit") not in found(viewer, "audit")
    assert [title for kind, title, _ in found(viewer, "") if kind == "Page"][:2] == ["Overview", "Jobs"]


@pytest.mark.postgresql
def test_any_text_is_answered(operator: Browser) -> None:
    for typed in ("%25_\\", "'%22<b>", "😀" * 500, "x" * 2000, "a%00b"):
        response = operator.get(f"/palette?q={typed}", partial=True)
        assert response.status_code == 200
        assert b"<b>" not in response.data


def test_without_javascript_it_is_a_page(operator: Browser) -> None:
    make_job("dead", id="job1")
    text = operator.get("/palette?q=job1").get_data(as_text=True)
    assert "<h1>Go to</h1>" in text
    assert 'href="/job/job1"' in text
    assert 'formaction="/job/job1/requeue"' in text
