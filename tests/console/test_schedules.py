"""The pages of schedules: list, one schedule, the form with its checks and preview, the verbs and their roles."""

from __future__ import annotations

import json
from typing import Callable

import pytest
from sqlalchemy import insert, update

from tests.commands.conftest import run_here
from tests.console.conftest import Browser
from tests.factories import make_job
from webapp.console.display.env_values import MASK
from webapp.db.engines import reading, writing
from webapp.db.models import Fire, Schedule
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock
from webapp.schedules import actions, spec, views
from webapp.schedules.spec import ScheduleSpec

FORM = {"name": "nightly", "repeat": "cron", "cron": "30 2 * * *", "tz": "Europe/Berlin", "command": "./backup.sh",
        "overlap": "skip", "catch_up": "last"}  # fmt: skip


def add(name: str = "nightly", **fields: object) -> None:
    actions.add(spec.parse({"name": name, "cron": "30 2 * * *", "job": {"command": "./x.sh"}, **fields}), "person:ana")


def stored(name: str = "nightly") -> ScheduleSpec:
    with reading() as session:
        found = views.described(views.find(session, name))
    assert found is not None
    return found


def version(name: str = "nightly") -> int:
    with reading() as session:
        return views.find(session, name).version


def test_an_empty_list_explains_schedules(admin: Browser) -> None:
    page = admin.get("/schedules").get_data(as_text=True)
    assert "No schedules" in page
    assert "schedule import" in page


def test_a_schedule_is_added_and_shown(admin: Browser) -> None:
    response = admin.post("/schedules/new", {**FORM, "env": "A=1", "max_retries": "0", "catch_up_window": "2h"})
    assert response.status_code == 303
    read = stored()
    assert (read.timing.tz, read.job.command, dict(read.job.env), read.job.max_retries, read.catch_up_window) == (
        "Europe/Berlin", "./backup.sh", {"A": "1"}, 0, 7200)  # fmt: skip
    page = admin.get("/schedule/nightly").get_data(as_text=True)
    for words in ("At 02:30 every day", "Europe/Berlin", "./backup.sh", "No fires yet"):
        assert words in page
    assert "nightly" in admin.get("/schedules").get_data(as_text=True)


def test_an_invalid_form_names_each_field_and_keeps_the_input(admin: Browser) -> None:
    typed = {**FORM, "name": "a b", "cron": "61 2 * * *", "tz": "Mars/X", "command": "", "not_later_than": "25:00"}
    response = admin.post("/schedules/new", typed)
    page = response.get_data(as_text=True)
    assert response.status_code == 422
    for words in ("A-Z a-z", "inute &#39;61&#39;", "Mars/X", "Is empty", "06:00", 'value="61 2 * * *"'):
        assert words in page
    with reading() as session, pytest.raises(NotFound):
        views.find(session, "a b")


def test_an_interval_that_is_missing_is_told_at_its_field(admin: Browser) -> None:
    page = admin.post("/schedules/new", {**FORM, "repeat": "every", "every": ""}).get_data(as_text=True)
    assert "Fix this field" in page
    assert "Enter an interval such as 15m" in page


def test_a_taken_name_is_reported_at_its_field(admin: Browser) -> None:
    add()
    response = admin.post("/schedules/new", FORM)
    assert response.status_code == 422
    assert "is taken by another schedule" in response.get_data(as_text=True)


def test_the_form_shows_the_meaning_and_the_next_fires_while_typing(admin: Browser) -> None:
    page = admin.post("/schedules/check?field=cron", {**FORM, "command": ""}, partial=True).get_data(as_text=True)
    assert "At 02:30 every day" in page
    assert page.count("02:30") >= 5
    wrong = admin.post("/schedules/check?field=cron", {**FORM, "cron": "* 25 * * *"}, partial=True)
    assert "our &#39;25&#39;" in wrong.get_data(as_text=True)


def test_an_edit_shows_the_moved_fires_before_it_is_saved(admin: Browser) -> None:
    add(tz="Europe/Berlin")
    changed = {**FORM, "cron": "0 5 * * *", "seen": str(version())}
    page = admin.post("/schedule/nightly/edit", changed).get_data(as_text=True)
    assert "fires of the next 7 days" in page
    assert stored().timing.cron == "30 2 * * *"
    assert admin.post("/schedule/nightly/edit", {**changed, "confirmed": "1"}).status_code == 303
    assert stored().timing.cron == "0 5 * * *"


def test_an_edit_that_moves_no_fire_is_saved_at_once(admin: Browser) -> None:
    add(tz="Europe/Berlin")
    changed = {**FORM, "command": "./other.sh", "seen": str(version())}
    assert admin.post("/schedule/nightly/edit", changed).status_code == 303
    assert stored().job.command == "./other.sh"


def test_a_run_in_between_does_not_spoil_an_edit(admin: Browser) -> None:
    add(tz="Europe/Berlin")
    seen = str(version())
    actions.run_now("nightly", "person:ben")
    assert admin.post("/schedule/nightly/edit", {**FORM, "command": "./new.sh", "seen": seen}).status_code == 303
    assert stored().job.command == "./new.sh"


def test_an_edit_does_not_overwrite_a_change_of_another_user(admin: Browser) -> None:
    add()
    seen = str(version())
    actions.pause("nightly", "person:ben")
    response = admin.post("/schedule/nightly/edit", {**FORM, "seen": seen, "confirmed": "1"})
    assert response.status_code == 422
    assert "Another user changed this schedule" in response.get_data(as_text=True)
    assert not stored().enabled


def test_an_edit_keeps_the_pause_and_the_anchor(admin: Browser) -> None:
    add("poll", cron=None, every=900)
    anchor = stored("poll").timing.anchor
    actions.pause("poll", "person:ana")
    form = {**FORM, "repeat": "every", "every": "15m", "command": "./new.sh", "seen": str(version("poll"))}
    assert admin.post("/schedule/poll/edit", form).status_code == 303
    assert (stored("poll").enabled, stored("poll").timing.anchor) == (False, anchor)


def test_a_job_or_a_schedule_can_prefill_the_form(admin: Browser) -> None:
    job = make_job("completed", command="./once.sh", queue="reports")
    page = admin.get(f"/schedules/new?job={job.id}").get_data(as_text=True)
    assert "./once.sh" in page
    assert 'value="reports"' in page
    add(tz="Asia/Tokyo")
    assert "Asia/Tokyo" in admin.get("/schedules/new?from=nightly").get_data(as_text=True)


def test_the_form_shows_no_secrets_and_keeps_them(admin: Browser) -> None:
    secret, masked = {"A": "1", "API_TOKEN": "t0psecret"}, {**FORM, "env": f"A=1\nAPI_TOKEN={MASK}"}
    make_job("dead", id="job1", env=json.dumps(secret))
    assert admin.post("/schedules/new", {**masked, "env_of": "job:job1"}).status_code == 303
    for url in ("/schedules/new?job=job1", "/schedules/new?from=nightly", "/schedule/nightly/edit"):
        assert "t0psecret" not in admin.get(url).get_data(as_text=True)
    admin.post("/schedule/nightly/edit", {**masked, "note": "new", "seen": version()})
    admin.post("/schedules/new", {**masked, "name": "other", "env_of": "schedule:nightly"})
    assert (stored().note, stored().job.env, stored("other").job.env) == ("new", secret, secret)


def test_a_schedule_is_paused_resumed_and_run_now(admin: Browser) -> None:
    add()
    assert admin.post("/schedule/nightly/pause", {"for": "2h"}).status_code == 303
    page = admin.get("/schedule/nightly").get_data(as_text=True)
    assert "paused" in page
    assert admin.post("/schedule/nightly/pause", {"for": "soon"}, partial=True).status_code == 409
    assert admin.post("/schedule/nightly/resume").status_code == 303
    assert admin.post("/schedule/nightly/resume", partial=True).status_code == 409
    assert admin.post("/schedule/nightly/run").status_code == 303
    again = admin.post("/schedule/nightly/run", partial=True)
    assert again.status_code == 409
    assert "has not ended" in again.get_data(as_text=True)
    page = admin.get("/schedule/nightly").get_data(as_text=True)
    assert "run now by" in page
    assert "Waiting" in page


def skip(*minutes: int, reason: str = "paused") -> list[int]:
    """Write skipped fires, so many minutes ago. Returns their due times."""
    with reading() as session:
        schedule_id = views.find(session, "nightly").id
    dues = [clock.now() // clock.SECOND * clock.SECOND - 60 * ago * clock.SECOND for ago in minutes]
    row = {"schedule_id": schedule_id, "decided_at": 1, "outcome": "skipped", "reason": reason, "job_id": None}
    with writing() as session:
        session.execute(insert(Fire), [{**row, "due_at": due} for due in dues])
    return dues


def test_skipped_fires_are_offered_one_by_one_and_all(admin: Browser) -> None:
    add(overlap="allow")
    first, _, last = skip(3, 2, 1)
    actions.pause("nightly", "person:ana")
    resumed = admin.post("/schedule/nightly/resume", partial=True).get_data(as_text=True)
    assert "3 fires were skipped while it was paused" in resumed
    page = admin.get("/schedule/nightly").get_data(as_text=True)
    for words in ("3 fires were skipped while it was paused.", "Run the last one", "Run all 3"):
        assert words in page
    assert page.count(f"/fires/{first}/run") == 2, "of one button, for htmx and without"
    url = f"/schedule/nightly/fires/{first}/run"
    assert admin.post(url).status_code == 303
    again = admin.post(url, partial=True)
    assert again.status_code == 409
    assert "has run already" in again.get_data(as_text=True)
    assert admin.post(f"/schedule/nightly/fires/{last}/run", {"since": str(first)}).status_code == 303
    page = admin.get("/schedule/nightly").get_data(as_text=True)
    assert page.count("run by person:") == 3
    assert "Run all" not in page


def test_only_one_fire_is_offered_if_its_jobs_may_not_overlap(admin: Browser) -> None:
    add()
    skip(3, 2, 1)
    page = admin.get("/schedule/nightly").get_data(as_text=True)
    assert "Run the last one" in page
    assert "Run all" not in page


def test_at_most_a_hundred_fires_run_at_once(admin: Browser) -> None:
    add(overlap="allow")
    dues = skip(*range(110, 0, -1))
    page = admin.get("/schedule/nightly").get_data(as_text=True)
    assert "More than 100 fires were skipped while it was paused" in page
    assert "Run the last 100" in page
    assert admin.post(f"/schedule/nightly/fires/{dues[-1]}/run", {"since": str(dues[10])}).status_code == 303
    with reading() as session:
        assert views.count_fires(session, views.find(session, "nightly"), "caught_up") == 100


def test_a_schedule_is_removed_after_confirmation(admin: Browser) -> None:
    add()
    assert "Remove schedule nightly?" in admin.post("/schedule/nightly/remove").get_data(as_text=True)
    assert stored()
    assert admin.post("/schedule/nightly/remove", {"confirmed": "1"}).status_code == 303
    assert admin.get("/schedule/nightly").status_code == 404


@pytest.mark.parametrize(("role", "run", "edit"), [("viewer", 403, 403), ("operator", 303, 403), ("admin", 303, 422)])
def test_operators_run_and_pause_and_only_admins_edit(
    sign_in: Callable[[str], Browser], role: str, run: int, edit: int
) -> None:
    add()
    (due,) = skip(1)
    browser = sign_in(role)
    page = browser.get("/schedule/nightly").get_data(as_text=True)
    assert ("Run now" in page) == (run == 303)
    assert ("Run it" in page) == (run == 303)
    assert ("/schedule/nightly/edit" in page) == (edit != 403)
    assert browser.post(f"/schedule/nightly/fires/{due}/run").status_code == run
    assert browser.post("/schedule/nightly/run").status_code == (403 if run == 403 else 409)
    assert browser.post("/schedules/new", {**FORM, "cron": "x"}).status_code == edit


def break_it(stored: bool = True) -> None:
    """`stored`: a decider has noticed."""
    gone = {"spec": '{"name": "nightly", "cron": "0 2 * * *", "tz": "Mars/X", "job": {"command": "x"}}'}
    with writing() as session:
        session.execute(update(Schedule).values(**gone))
        if stored:
            session.execute(update(Schedule).values(broken="tz: 'Mars/X' is unknown", next_fire_at=None))


@pytest.mark.parametrize("stored", [True, False], ids=["a decider noticed", "no decider noticed"])
def test_a_broken_schedule_shows_the_reason(admin: Browser, stored: bool) -> None:
    add(tz="Europe/Berlin")
    (due,) = skip(1)
    break_it(stored)
    for url in ("/schedules", "/schedule/nightly", *(["/schedules?show=attention"] if stored else [])):
        assert "Mars/X" in admin.get(url).get_data(as_text=True)
    form = admin.get("/schedule/nightly/edit").get_data(as_text=True)
    assert 'value="0 2 * * *"' in form
    assert "Mars/X&#39; is unknown" in form
    for verb in ("run", "pause", "resume", f"fires/{due}/run"):
        response = admin.post(f"/schedule/nightly/{verb}", partial=True)
        assert (response.status_code, "Mars/X" in response.get_data(as_text=True)) == (409, verb != "resume")
    assert admin.get("/schedules/new?from=nightly").status_code == 409


def test_a_broken_schedule_is_reported_to_users_and_monitors(admin: Browser) -> None:
    add()
    assert admin.get("/readyz?schedules").status_code == 200
    break_it()
    assert admin.get("/readyz?schedules").status_code == 503
    assert "schedules: 1 need attention" in admin.get("/readyz").get_data(as_text=True)
    overview = admin.get("/").get_data(as_text=True)
    assert "1 schedule needs attention" in overview
    assert "Mars/X" in overview
    found = {one["check"]: one for one in run_here("doctor", "--json").json}
    assert (found["schedules"]["result"], "Mars/X" in found["schedules"]["detail"]) == ("warn", True)


def test_text_of_a_schedule_is_escaped(admin: Browser) -> None:
    add(note="<script>alert(1)</script>", owner="<b>", job={"command": "echo '<img src=x>'"})
    for url in ("/schedules", "/schedule/nightly", "/schedule/nightly/edit", "/schedules/new?from=nightly"):
        page = admin.get(url).get_data(as_text=True)
        assert "<script>alert" not in page
        assert "<img src=x>" not in page


def test_the_ledger_has_pages_and_a_filter_by_outcome(admin: Browser) -> None:
    add(cron=None, every=1)
    with reading() as session:
        schedule_id = views.find(session, "nightly").id
    row = {"schedule_id": schedule_id, "decided_at": clock.now(), "reason": "paused", "job_id": None}
    rows = [
        {**row, "due_at": number * clock.SECOND, "outcome": ("skipped", "missed")[number % 2]} for number in range(120)
    ]
    with writing() as session:
        session.execute(insert(Fire), rows)
    first = admin.get("/schedule/nightly").get_data(as_text=True)
    assert first.count('id="fire-') == 50
    second = admin.get(f"/schedule/nightly?before={70 * clock.SECOND}").get_data(as_text=True)
    assert f'id="fire-{69 * clock.SECOND}"' in second
    missed = admin.get("/schedule/nightly?outcome=missed").get_data(as_text=True)
    assert "skipped</span>" not in missed
    assert admin.get("/schedule/nightly?outcome=x").status_code == 404
