"""Config in the console: values with their bounds and history, what a new one would do, and who may."""

from __future__ import annotations

import re

from tests.console.conftest import Browser
from tests.factories import make_job
from webapp import clock, operations, settings
from webapp.db import reading


def value_of(key: str) -> object:
    with reading() as session:
        return getattr(settings.load(session), key)


def test_every_setting_is_listed_and_has_a_page(admin: Browser) -> None:
    text = admin.get("/config").get_data(as_text=True)
    for key in settings.DEFINITIONS:
        assert f'href="/config/{key}"' in text
        assert admin.get(f"/config/{key}").status_code == 200


def test_a_change_is_stored_and_stands_in_the_history_with_its_author(admin: Browser) -> None:
    assert admin.post("/config/backoff_base", {"value": "3"}).headers["Location"] == "/config/backoff_base"
    assert value_of("backoff_base") == 3
    text = admin.get("/config/backoff_base").get_data(as_text=True)
    assert re.search(r">2</span> → <span class=\"mono\">3<.*?the-admin", text, re.DOTALL)
    assert "the-admin" in admin.get("/config").get_data(as_text=True)
    admin.post("/config/backoff_base", {"reset": "1", "value": "3"})
    assert value_of("backoff_base") == 2


def test_a_value_out_of_bounds_is_refused_and_kept_in_the_field(admin: Browser) -> None:
    response = admin.post("/config/max_retries", {"value": "2.5"})
    text = response.get_data(as_text=True)
    assert response.status_code == 422
    assert "expected a whole number from 0 to 1000" in text
    assert 'value="2.5"' in text
    assert '<table class="plan">' in text  # what the value that stands does
    assert value_of("max_retries") == 3


def test_an_unknown_setting_names_the_nearest(admin: Browser) -> None:
    response = admin.get("/config/backof_base")
    assert response.status_code == 404
    assert b"Did you mean backoff_base?" in response.data
    assert admin.post("/config/nothing", {"value": "1"}).status_code == 404


def test_a_new_value_shows_both_timetables_before_it_is_saved(admin: Browser) -> None:
    text = admin.post("/config/backoff_base/check", {"value": "3"}, partial=True).get_data(as_text=True)
    rows = re.findall(r'<tr class="differs"><td>(\d)</td><td class="number muted">([^<]+)</td>'
                      r'<td class="number">([^<]+)</td>', text)  # fmt: skip
    assert rows == [("1", "2 s", "3 s"), ("2", "4 s", "9 s"), ("3", "8 s", "27 s")]
    assert value_of("backoff_base") == 2
    wrong = admin.post("/config/backoff_base/check", {"value": "x"}, partial=True).get_data(as_text=True)
    assert "expected a number from 1 to 100" in wrong
    assert "consequence" not in wrong


def test_a_shorter_keep_says_how_many_it_would_delete(admin: Browser) -> None:
    for days in (1, 5, 9):
        make_job("dead", finished_at=clock.now() - days * clock.DAY)
    text = admin.post("/config/keep_dead/check", {"value": "4"}, partial=True).get_data(as_text=True)
    assert "2 dead jobs are older than that" in text


def test_a_viewer_sees_the_value_and_no_form(viewer: Browser) -> None:
    operations.set_setting("max_retries", 7, "person:ana")
    text = viewer.get("/config/max_retries").get_data(as_text=True)
    assert "Only an administrator may change it" in text
    assert viewer.post("/config/max_retries", {"value": "1"}).status_code == 403
    assert value_of("max_retries") == 7
