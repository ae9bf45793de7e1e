"""Settings in the console: bounds, history, the effect of a new value, and each role's rights."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import select

from tests.accounts.test_audit_log import write_lines
from tests.console.conftest import Browser
from tests.factories import make_job, make_worker
from webapp.core import settings as setting_values
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.insight import size_limit
from webapp.jobs import filters, queries, settings
from webapp.lib import clock


def value_of(key: str) -> object:
    with reading() as session:
        return getattr(settings.load(session), key)


def test_every_setting_is_listed_and_has_a_page(admin: Browser) -> None:
    text = admin.get("/config").get_data(as_text=True)
    for key in setting_values.DEFINITIONS:
        assert f'href="/config/{key}"' in text
        assert admin.get(f"/config/{key}").status_code == 200


def test_a_change_is_stored_and_the_history_shows_its_author(admin: Browser) -> None:
    assert admin.post("/config/backoff_base", {"value": "3"}).headers["Location"] == "/config/backoff_base"
    assert value_of("backoff_base") == 3
    text = admin.get("/config/backoff_base").get_data(as_text=True)
    assert re.search(r">2</span> .*?default</span> → <span class=\"mono\">3<.*?the-admin", text, re.DOTALL)
    assert "the-admin" in admin.get("/config").get_data(as_text=True)
    admin.post("/config/backoff_base", {"reset": "1", "value": "3"})
    assert value_of("backoff_base") == 2


def test_a_value_out_of_bounds_is_refused_and_stays_in_the_field(admin: Browser) -> None:
    response = admin.post("/config/max_retries", {"value": "2.5"})
    text = response.get_data(as_text=True)
    assert response.status_code == 422
    assert "expected a whole number from 0 to 1000" in text
    assert 'value="2.5"' in text
    assert '<table class="plan">' in text  # the effect of the current value
    assert value_of("max_retries") == 3


def test_an_unknown_setting_suggests_the_nearest_name(admin: Browser) -> None:
    response = admin.get("/config/backof_base")
    assert response.status_code == 404
    assert b"Did you mean backoff_base?" in response.data
    assert admin.post("/config/nothing", {"value": "1"}).status_code == 404


def test_a_new_value_shows_both_retry_schedules_before_it_is_saved(admin: Browser) -> None:
    text = admin.post("/config/backoff_base/check", {"value": "3"}, partial=True).get_data(as_text=True)
    rows = re.findall(r'<tr class="differs"><td>(\d)</td><td class="number muted">([^<]+)</td>'
                      r'<td class="number">([^<]+)</td>', text)  # fmt: skip
    assert rows == [("1", "2 s", "3 s"), ("2", "4 s", "9 s"), ("3", "8 s", "27 s")]
    assert value_of("backoff_base") == 2
    wrong = admin.post("/config/backoff_base/check", {"value": "x"}, partial=True).get_data(as_text=True)
    assert "expected a number from 1 to 100" in wrong
    assert "consequence" not in wrong


def test_a_shorter_retention_shows_how_many_jobs_it_would_delete(admin: Browser) -> None:
    for days in (1, 5, 9):
        make_job("dead", finished_at=clock.now() - days * clock.DAY)
    text = admin.post("/config/keep_dead/check", {"value": "4"}, partial=True).get_data(as_text=True)
    assert "Saving deletes 2 dead letters within minutes, with attempts and output." in text
    assert "Nothing is deleted now" in admin.post("/config/keep_dead/check", {"value": "10"}, partial=True).get_data(
        as_text=True
    )


def test_enter_in_a_field_that_deletes_jobs_asks_first(admin: Browser) -> None:
    for _ in range(3):
        make_job("completed", finished_at=clock.now() - 9 * clock.DAY)
    asked = admin.post("/config/keep_completed", {"value": "4", "seen": "0"})
    assert "Delete 3 completed jobs?" in asked.text
    assert "Save and delete 3 jobs</button>" in asked.text
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', asked.text))
    assert (hidden["value"], hidden["seen"], value_of("keep_completed")) == ("4", "0", 30)
    assert admin.post("/config/keep_completed", hidden).status_code == 303
    assert value_of("keep_completed") == 4


def test_the_count_of_old_jobs_stops_at_its_cap(admin: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "COUNT_CAP", 3)
    for _ in range(5):
        make_job("completed", finished_at=clock.now() - 9 * clock.DAY)
    text = admin.post("/config/keep_completed/check", {"value": "4"}, partial=True).get_data(as_text=True)
    assert "Saving deletes 3+ completed jobs" in text


def test_a_queue_has_a_page_for_its_own_value(admin: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    for days in (5, 9):
        for queue in ("mail", "mail", "default"):
            make_job("completed", queue=queue, finished_at=clock.now() - days * clock.DAY)

    def preview(key: str, value: str) -> str:
        return admin.post(f"/config/{key}/check", {"value": value}, partial=True).get_data(as_text=True)

    assert admin.get("/config/keep_completed/queue?queue=+mail").headers["Location"] == "/config/keep_completed@mail"
    assert "Saving deletes 4 completed jobs of queue mail within minutes" in preview("keep_completed@mail", "4")
    assert "of queue mail is that old" in preview("keep_completed@mail", "20")
    assert admin.post("/config/keep_completed@mail", {"value": "20"}).status_code == 303
    assert "Saving deletes 2 completed jobs within minutes" in preview("keep_completed", "4")  # without those of mail
    monkeypatch.setattr(filters, "SEARCH_CAP", 5)
    assert "Saving deletes at least 1 completed job within minutes" in preview("keep_completed", "4")
    assert 'href="/config/keep_completed@mail">mail</a>: 20 days' in admin.get("/config/keep_completed").text
    assert "1 queue has another value." in admin.get("/config").text
    page = admin.get("/config/keep_completed@mail").text
    assert "Reset to default (30, as all queues)" in page
    admin.post("/config/keep_completed@mail", {"reset": "1"})
    assert "another value" not in admin.get("/config").text
    assert admin.get("/config/keep_completed@none").status_code == 404
    assert admin.get("/config/lease@mail").status_code == 404


def test_the_limits_of_output_and_size_show_what_they_would_delete(
    admin: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state in ("completed", "cancelled", "dead"):
        make_job(state, finished_at=clock.now() - 9 * clock.DAY)

    def preview(key: str, value: str) -> str:
        return admin.post(f"/config/{key}/check", {"value": value}, partial=True).get_data(as_text=True)

    assert "Saving deletes the output of 2 ended jobs within minutes" in preview("keep_output", "4")
    assert "Output is deleted with its job" in preview("keep_output", "0")
    monkeypatch.setattr(size_limit, "used", lambda _: 5 * 1024**2)
    assert "Saving deletes about 3.0 MiB within minutes" in preview("max_database_size", "2")
    assert "The database holds 5.0 MiB. Nothing is deleted now." in preview("max_database_size", "6")
    assert "No limit" in preview("max_database_size", "0")


def test_a_shorter_audit_retention_shows_how_many_entries_it_would_delete(admin: Browser) -> None:
    def preview(days: int) -> str:
        return admin.post("/config/keep_audit/check", {"value": str(days)}, partial=True).get_data(as_text=True)

    write_lines(-1)  # written by a wrong clock
    assert "No audit entry is that old" in preview(300)
    write_lines(400, 390, 380)
    assert "Saving deletes 3 audit entries within a day" in preview(300)
    assert "3 audit entries are older than that and will be deleted within a day" in preview(365)
    assert "All audit entries are kept" in preview(0)


def test_a_new_backoff_does_not_move_waiting_retries_and_says_so(admin: Browser) -> None:
    run_at = make_job("failed").run_at
    make_job("failed")
    text = admin.post("/config/backoff_base/check", {"value": "9"}, partial=True).get_data(as_text=True)
    assert "2 jobs are waiting for a retry. Their start times do not change" in text
    assert "start times" not in admin.get("/config/backoff_base").get_data(as_text=True)  # moves nothing
    admin.post("/config/backoff_base", {"value": "9"})
    with reading() as session:
        assert run_at in session.scalars(select(Job.run_at)).all()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lease", "10", "for 10 s is presumed dead"),
        ("lease", "10", "1 worker has been silent for longer than that."),
        ("lease", "60", "Longer pauses are tolerated"),
        ("shutdown_grace", "0", "stopped at once"),
        ("kill_grace", "8", "killed if it still runs 8 s later"),
        ("job_timeout", "60", "1 running job has already run longer."),
        ("job_timeout", "0", "have no time limit"),
        ("output_limit", "2048", "up to 2.0 KiB of output per attempt: the first and the last 1.0 KiB"),
        ("job_memory_limit", "2048", "may use 2.0 GiB"),
        ("job_process_limit", "1000", "may have 1,000 processes and threads"),
        ("max_retries", "0", "failed jobs become dead letters at once"),
        ("backoff_jitter", "0.5", "Up to 50 % is added"),
    ],
)
def test_every_setting_shows_its_effect(admin: Browser, key: str, value: str, expected: str) -> None:
    make_worker(seen_at=clock.now() - clock.seconds(20))
    make_job("processing", started_at=clock.now() - clock.seconds(90))
    make_job("processing", started_at=clock.now() - clock.seconds(90), timeout=500)
    assert expected in admin.post(f"/config/{key}/check", {"value": value}, partial=True).get_data(as_text=True)


def test_without_javascript_a_button_previews_the_effect_and_saves_nothing(admin: Browser) -> None:
    response = admin.post("/config/backoff_base", {"value": "3", "preview": "1"})
    text = response.get_data(as_text=True)
    assert (response.status_code, value_of("backoff_base")) == (200, 2)
    assert 'value="3"' in text
    assert "New wait" in text
    assert "Not saved yet. The current value is 2." in text
    assert admin.post("/config/backoff_base", {"value": "x", "preview": "1"}).status_code == 422


# --- history ---


def newest(key: str = "backoff_base") -> int:
    with reading() as session:
        return settings.history(session, key, 1)[0].id


def test_a_change_is_reverted_with_one_button(admin: Browser) -> None:
    settings.set_setting("backoff_base", 3, "person:ana")
    settings.set_setting("backoff_base", 4, "person:ben")
    text = admin.get("/config/backoff_base").get_data(as_text=True)
    assert re.findall(r'name="change" value="\d+"[^>]*>Revert to ([\d.]+)<', text) == ["3", "2"]
    data = {"change": newest(), "seen": newest()}
    assert admin.post("/config/backoff_base/revert", data).headers["Location"] == "/config/backoff_base"
    assert value_of("backoff_base") == 3
    text = admin.get("/config/backoff_base").get_data(as_text=True)
    assert "Saved: backoff_base = 3" in text
    assert re.search(r"reverted</span></p><p class=\"sub\">.*?the-admin", text, re.DOTALL)


def test_a_revert_to_the_default_restores_the_default(admin: Browser) -> None:
    settings.set_setting("backoff_base", 3, "person:ana")
    admin.post("/config/backoff_base/revert", {"change": newest(), "seen": newest()})
    text = admin.get("/config/backoff_base").get_data(as_text=True)
    assert "Saved: backoff_base = 2 (default)" in text
    assert 'name="reset"' not in text


def test_a_stale_form_is_refused_and_keeps_the_input(admin: Browser) -> None:
    settings.set_setting("backoff_base", 3, "person:ana")
    seen = newest()
    settings.set_setting("backoff_base", 4, "person:ben")
    saved = admin.post("/config/backoff_base", {"value": "5", "seen": seen})
    text = saved.get_data(as_text=True)
    assert saved.status_code == 409
    assert "ben changed it to 4. Not saved. Save again to set it to 5." in text
    assert 'value="5"' in text
    reverted = admin.post("/config/backoff_base/revert", {"change": seen, "seen": seen})
    assert reverted.status_code == 409
    assert "Not reverted" in reverted.get_data(as_text=True)
    assert admin.post("/config/backoff_base", {"value": "5", "reset": "1", "seen": seen}).status_code == 409
    assert value_of("backoff_base") == 4
    again = re.search(r'name="seen" value="(\d+)"', text)
    assert again
    assert admin.post("/config/backoff_base", {"value": "5", "seen": again[1]}).status_code == 303
    assert value_of("backoff_base") == 5


def test_a_change_of_another_setting_cannot_be_reverted(admin: Browser) -> None:
    settings.set_setting("max_retries", 5, "person:ana")
    assert admin.post("/config/backoff_base/revert", {"change": newest("max_retries")}).status_code == 404
    assert admin.post("/config/backoff_base/revert", {"change": "x"}).status_code == 400
    assert admin.post("/config/nothing/revert", {"change": "1"}).status_code == 404


def test_a_viewer_can_read_the_history_but_not_revert(viewer: Browser) -> None:
    settings.set_setting("max_retries", 7, "person:ana")
    assert "/revert" not in viewer.get("/config/max_retries").get_data(as_text=True)
    assert viewer.post("/config/max_retries/revert", {"change": newest("max_retries")}).status_code == 403


def test_a_viewer_sees_the_value_without_a_form(viewer: Browser) -> None:
    settings.set_setting("max_retries", 7, "person:ana")
    text = viewer.get("/config/max_retries").get_data(as_text=True)
    assert "Only admins can change it" in text
    assert viewer.post("/config/max_retries", {"value": "1"}).status_code == 403
    assert value_of("max_retries") == 7
