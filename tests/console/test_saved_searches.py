"""Saved views and the list as a file: owners, names, formats, audit trail."""

from __future__ import annotations

import html
import json
import re
from typing import Callable, Optional

import pytest

from tests.console.conftest import Browser
from tests.factories import make_job, make_user
from webapp.accounts import saved_searches
from webapp.db.engines import reading
from webapp.db.models import Audit, View


def audit_rows() -> list[tuple[str, str, str]]:
    with reading() as session:
        rows = session.query(Audit).filter(Audit.verb != "sign_in").order_by(Audit.id)
        return [(row.actor, row.verb, row.subject) for row in rows]


def saved_views() -> list[tuple[str, str]]:
    with reading() as session:
        return [(view.name, view.query) for view in session.query(View).order_by(View.id)]


def view_links(browser: Browser, url: str = "/jobs") -> list[tuple[str, str]]:
    text = browser.get(url).get_data(as_text=True)
    found = re.findall(r'<a class="view" href="([^"]*)"[^>]*>([^<]*)</a>', text)
    return [(html.unescape(name), html.unescape(url)) for url, name in found]


def test_a_search_is_saved_renamed_and_removed(viewer: Browser) -> None:
    form = {"name": "  dead   mails ", "state": "dead", "queue": "mail", "q": "exit:1 since:2h", "sort": "oldest"}
    response = viewer.post("/views", form)
    url = "/jobs?state=dead&queue=mail&q=exit%3A1+since%3A2h&sort=oldest"
    assert (response.status_code, response.headers["Location"]) == (303, url)
    assert view_links(viewer) == [("dead mails", url)]
    text = viewer.get(url).get_data(as_text=True)
    assert 'aria-current="page">dead mails</a>' in text
    found = re.search(r'action="/view/(\d+)/rename"', text)
    assert found is not None
    assert viewer.post(f"/view/{found[1]}/rename", {"name": "old mails"}).headers["Location"] == url
    assert view_links(viewer) == [("old mails", url)]
    assert viewer.post(f"/view/{found[1]}/remove").headers["Location"] == url
    assert view_links(viewer) == []
    assert viewer.post(f"/view/{found[1]}/remove").status_code == 404
    who = "person:the-viewer"
    assert audit_rows() == [
        (who, "save_view", "view:dead mails"),
        (who, "rename_view", "view:old mails"),
        (who, "remove_view", "view:old mails"),
    ]


def test_a_typed_state_is_saved_as_the_state_filter(viewer: Browser) -> None:
    viewer.post("/views", {"name": "x", "q": "state:dead boom"})
    assert saved_views() == [("x", "state=dead&q=boom")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (" ", "Enter a name"),
        ("x" * 61, "at most 60 characters; this one has 61"),
        ("a\x1bb", "a character that cannot be shown"),
        ("MAILS", "You already have a view named 'MAILS'"),
    ],
)
def test_an_invalid_name_is_reported_and_the_input_is_kept(viewer: Browser, name: str, words: str) -> None:
    viewer.post("/views", {"name": "mails", "queue": "mail"})
    response = viewer.post("/views", {"name": name, "state": "dead", "q": "exit:1"})
    text = html.unescape(response.get_data(as_text=True))
    assert response.status_code == 422
    assert words in text
    assert f'id="view-name" name="name" value="{name}"' in text
    assert '<input type="hidden" name="q" value="exit:1">' in text
    assert 'hx-get="/jobs?state=dead&q=exit%3A1"' in text, "the list continues to refresh"
    assert saved_views() == [("mails", "queue=mail")]


def test_an_invalid_search_is_not_saved(viewer: Browser) -> None:
    response = viewer.post("/views", {"name": "x", "q": "redis:7"})
    assert response.status_code == 422
    assert b"Unknown search term redis:" in response.data
    assert saved_views() == []


def test_a_user_can_neither_see_nor_change_the_views_of_another_user(sign_in: Callable[[str], Browser]) -> None:
    first, second = sign_in("viewer"), sign_in("admin")
    first.post("/views", {"name": "mine", "state": "dead"})
    with reading() as session:
        (view,) = session.query(View).all()
    assert view_links(second) == []
    assert second.post(f"/view/{view.id}/rename", {"name": "yours"}).status_code == 404
    assert second.post(f"/view/{view.id}/remove").status_code == 404
    second.post("/views", {"name": "mine", "state": "failed"})
    assert saved_views() == [("mine", "state=dead"), ("mine", "state=failed")]


def test_a_view_cannot_take_the_name_of_another_but_can_change_its_case(viewer: Browser) -> None:
    viewer.post("/views", {"name": "a", "state": "dead"})
    viewer.post("/views", {"name": "b", "state": "failed"})
    with reading() as session:
        first = session.query(View).filter_by(name="a").one().id
    response = viewer.post(f"/view/{first}/rename", {"name": "b"})
    assert response.status_code == 422
    assert b"already" in response.data
    assert viewer.post(f"/view/{first}/rename", {"name": "A"}).status_code == 303
    assert [name for name, _ in saved_views()] == ["A", "b"]


def test_the_number_of_views_per_user_is_limited(console: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_searches, "MAX_VIEWS", 2)
    user = make_user("ana")
    for name in ("a", "b"):
        saved_searches.save(user.id, name, "state=dead", "person:ana")
    with pytest.raises(saved_searches.ViewError, match="You have 2 views"):
        saved_searches.save(user.id, "c", "", "person:ana")


def test_a_view_name_is_escaped(viewer: Browser) -> None:
    viewer.post("/views", {"name": "<img src=x>\u202e", "state": "dead"})
    text = viewer.get("/jobs").get_data(as_text=True)
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert "&lt;img src=x&gt;\u2039U+202E\u203a" in text


# --- export ----------------------------------------------------------------------------------------------------------


def test_an_export_has_a_file_name_and_an_audit_entry(viewer: Browser) -> None:
    make_job("dead", id="a", command="=1+1", env='{"SECRET": "s3cr3t"}', exit_code=1)
    make_job("dead", id="b", exit_code=2)
    text = html.unescape(viewer.get("/jobs?state=dead&q=exit:1").get_data(as_text=True))
    (csv_url,) = re.findall(r'href="(/jobs\.csv[^"]*)"', text)
    (json_url,) = re.findall(r'href="(/jobs\.jsonl[^"]*)"', text)
    response = viewer.get(csv_url)
    assert response.status_code == 200
    assert response.content_type == "text/csv; charset=utf-8"
    disposition = response.headers["Content-Disposition"]
    assert re.fullmatch(r"attachment; filename=queuectl-jobs-dead-\d{4}-\d\d-\d\d\.csv", disposition)
    assert [line.split(",")[0] for line in response.get_data(as_text=True).split("\r\n")] == ["\ufeffid", "a", ""]
    response = viewer.get(json_url)
    assert response.content_type == "application/jsonl; charset=utf-8"
    assert json.loads(response.get_data())["env"] == {"SECRET": None}
    with reading() as session:
        row = session.query(Audit).filter_by(verb="export_jobs").first()
    assert audit_rows() == [("person:the-viewer", "export_jobs", "jobs")] * 2
    assert row is not None
    assert json.loads(row.detail or "") == {"format": "csv", "search": "state=dead&q=exit%3A1"}


def test_operators_get_environment_values_in_json_only(operator: Browser) -> None:
    make_job(id="a", env='{"SECRET": "s3cr3t"}')
    assert b"s3cr3t" in operator.get("/jobs.jsonl").data
    assert b"s3cr3t" not in operator.get("/jobs.csv").data


@pytest.mark.parametrize(("query", "status"), [("q=redis:7", 400), ("state=gone", 404), ("sort=upwards", 404)])
def test_an_invalid_export_is_refused_and_not_audited(viewer: Browser, query: str, status: int) -> None:
    for kind in ("csv", "jsonl"):
        assert viewer.get(f"/jobs.{kind}?{query}").status_code == status
    assert audit_rows() == []


def test_an_export_needs_a_session(anonymous: Browser) -> None:
    location: Optional[str] = anonymous.get("/jobs.csv?state=dead").headers["Location"]
    assert location is not None
    assert location.startswith("/login?next=")
