"""The search box of the list: input, errors, the cap, and actions on all matching jobs."""

from __future__ import annotations

import html
import json
import re
from typing import Optional

import pytest

from tests.console.conftest import Browser
from tests.console.test_job_list import ids
from tests.factories import change_job, make_job, make_jobs
from webapp.db.engines import reading, writing
from webapp.db.models import BulkAction, Job, OutputTail
from webapp.jobs import actions, filters, search
from webapp.lib import clock


def main_of(browser: Browser, url: str, status: int = 200) -> str:
    response = browser.get(url)
    assert response.status_code == status
    return html.unescape(response.get_data(as_text=True).split("<main")[1].split("</main>")[0])


def link(text: str, words: str) -> Optional[str]:
    """The target of the link with this text."""
    found = re.search(rf'href="([^"]*)"[^>]*>(?:<svg.*?</svg>)?{words}', text, re.DOTALL)
    return found[1] if found else None


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("/jobs?q=state:dead+exit:1", "/jobs?state=dead&q=exit%3A1"),
        ("/jobs?state=failed&queue=a&q=queue:mail+state:dead+x", "/jobs?state=dead&queue=mail&q=x"),
        ("/jobs?state=failed&sort=latest&q=state:dead", "/jobs?state=dead"),
        ("/jobs?q=queue:mail+%22a+b%22+exit:1&before=5", "/jobs?queue=mail&q=%22a+b%22+exit%3A1"),
    ],
)
def test_a_typed_state_or_queue_moves_to_the_tabs_and_the_queue_field(operator: Browser, typed: str, url: str) -> None:
    response = operator.get(typed)
    assert (response.status_code, response.headers["Location"]) == (303, url)


def test_a_refresh_is_never_redirected(operator: Browser) -> None:
    make_job("dead", id="a")
    response = operator.get("/jobs?q=state:dead", partial=True)
    assert response.status_code == 200
    assert b">a</span>" in response.data


def test_the_search_box_tabs_and_queue_field_show_the_current_filter(operator: Browser) -> None:
    make_job("dead", id="a", queue="mail", exit_code=127)
    make_job("dead", id="b", queue="mail", exit_code=1)
    make_job("dead", id="c")
    text = main_of(operator, "/jobs?state=dead&queue=mail&q=exit:127")
    assert re.findall(r'<span class="id">([^<]+)', text) == ["a"]
    assert 'name="q" value="exit:127"' in text
    assert '<option value="mail" selected>mail</option>' in text
    assert 'href="/jobs?state=failed&queue=mail&q=exit%3A127"' in text
    assert "tab-count" not in text, "counts would need seven searches"
    assert '<span class="tab-count">3</span>' in main_of(operator, "/jobs?state=dead")
    assert '<option value="gone" selected>gone</option>' in main_of(operator, "/jobs?queue=gone")


def test_an_invalid_search_is_reported_at_the_box_and_the_rest_is_kept(operator: Browser) -> None:
    make_job("dead", id="a", queue="mail")
    text = main_of(operator, "/jobs?state=failed&queue=mail&sort=latest&q=redis:7+state:dead+%22x", 422)
    assert 'name="q" value="redis:7 state:dead "x"' in text
    assert '<input type="hidden" name="state" value="failed">' in text
    assert '<input type="hidden" name="sort" value="latest">' in text
    assert '<option value="mail" selected>mail</option>' in text
    assert "Unknown search term redis:. Known terms: state:" in text
    assert "data-live" not in text, "an invalid search has nothing to refresh"
    assert "A search has at most 500 characters; this one has 501." in main_of(operator, "/jobs?q=" + "x" * 501, 422)


def test_a_list_is_reversed_if_an_index_supports_it(operator: Browser) -> None:
    now = clock.now()
    make_jobs([{"state": "dead", "id": f"d{n}", "finished_at": now + n} for n in range(60)])
    make_jobs([{"state": "scheduled", "id": f"s{n}", "run_at": now + n} for n in range(3)])
    oldest = "/jobs?state=dead&sort=oldest"
    assert ids(operator, oldest)[:2] == ["d0", "d1"]
    text = main_of(operator, oldest)
    newer = link(text, "Newer")
    assert newer is not None
    assert "sort=oldest" in newer
    assert ids(operator, newer) == [f"d{n}" for n in range(50, 60)]
    back = link(main_of(operator, newer), "Older")
    assert back is not None
    assert ids(operator, back) == [f"d{n}" for n in range(50)]
    assert link(text, "Scheduled") is None or "sort" not in str(link(text, "scheduled"))
    assert ids(operator, "/jobs?state=scheduled&sort=latest") == ["s2", "s1", "s0"]
    assert ids(operator, "/jobs?state=scheduled&sort=soonest") == ["s0", "s1", "s2"]
    assert operator.get("/jobs?state=scheduled&sort=oldest").status_code == 404


def test_a_search_whose_time_is_over_says_so_and_continues_in_the_same_page(
    operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 10)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    make_jobs([{"id": f"j{n:02}", "state": "completed", "exit_code": 7 if n in (3, 28) else 0} for n in range(35)])
    text = main_of(operator, "/jobs?q=exit:7")
    assert "1 match so far. Searched 10 jobs." in text
    assert 'id="bulk"' in text
    found = re.findall(r'<span class="id">([^<]+)', text)
    for searched in (20, 30):
        on = re.search(r'hx-get="([^"]*)" hx-trigger="load', text)
        assert on is not None
        text = html.unescape(operator.get(on[1], partial=True).get_data(as_text=True))
        assert text.lstrip().startswith("<tr")
        assert f"1 match so far. Searched {searched} jobs." in text
        found += re.findall(r'<span class="id">([^<]+)', text)
    plain = link(text, "Search further")
    on = re.search(r'hx-get="([^"]*)" hx-trigger="load', text)
    assert on is not None
    text = html.unescape(operator.get(on[1], partial=True).get_data(as_text=True))
    found += re.findall(r'<span class="id">([^<]+)', text)
    assert found == ["j28", "j03"]
    assert "Searched to the end. 2 matches on this page." in text
    assert "hx-trigger" not in text
    assert plain is not None
    assert ids(operator, plain) == ["j03"], "without JavaScript the link leads on"
    assert "Searched " not in main_of(operator, "/jobs?state=completed")


def test_a_page_that_a_search_has_filled_leads_to_the_next_one(
    operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 40)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    make_jobs([{"id": f"j{n:03}", "state": "completed", "exit_code": 7} for n in range(120)])
    first = main_of(operator, "/jobs?q=exit:7")
    assert len(re.findall(r'<span class="id">', first)) == 40
    on = re.search(r'hx-get="([^"]*)" hx-trigger="load', first)
    assert on is not None
    rest = html.unescape(operator.get(on[1], partial=True).get_data(as_text=True))
    assert len(re.findall(r'<span class="id">', rest)) == 10
    more = link(rest, "Next page")
    assert more is not None
    assert ids(operator, more)[0] == "j069"


def test_a_search_reads_errors_and_output_and_shows_the_line_found(operator: Browser) -> None:
    job = make_job("dead", id="a", last_error="exit code 1")
    make_job("dead", id="b", last_error="<b>No route</b>")
    make_job("completed", id="c")
    with writing() as session:
        session.add(OutputTail(job_seq=job.seq, text="fine\n<i>no route to host</i>\n"))
    response = operator.get("/jobs?q=%22no+route%22").get_data(as_text=True)
    assert ids(operator, "/jobs?q=%22no+route%22") == ["b", "a"]
    assert "… &lt;i&gt;no route to host&lt;/i&gt;" in response
    assert "fine" not in response
    form = {"all": "1", "state": "", "q": '"no route" -error:route', "confirmed": "1"}
    assert b"Requeued 1 job." in operator.post("/jobs/requeue", form, partial=True).data


def test_days_are_in_the_zone_of_the_reader(operator: Browser) -> None:
    make_job("completed", id="a", changed_at=clock.parse_iso("2026-11-24T23:30:00Z"))
    assert ids(operator, "/jobs?q=on:2026-11-24") == ["a"]
    operator.client.set_cookie("tz", "Europe/Berlin")
    assert ids(operator, "/jobs?q=on:2026-11-24") == []
    assert ids(operator, "/jobs?q=on:2026-11-25") == ["a"]
    assert "2026-11-24 (Europe/Berlin)" in main_of(operator, "/jobs?q=on:never", 422)


# --- all matches -----------------------------------------------------------------------------------------------------


def test_an_action_on_all_matches_covers_jobs_beyond_the_cap_and_says_so(
    operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The action covers exactly the matching jobs, within and beyond the cap of the search."""
    monkeypatch.setattr(filters, "SEARCH_CAP", 10)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(actions, "READS_PER_BATCH", 2)
    jobs = [
        {"id": f"{state}{n:02}", "state": state, "command": "needle" if n % 9 == 0 else "hay", "queue": "mail"}
        for state in ("dead", "completed")
        for n in range(50)
    ]
    make_jobs(jobs)
    form = {"all": "1", "state": "dead", "queue": "mail", "q": "needle"}
    asked = html.unescape(operator.post("/jobs/discard", form, partial=True).get_data(as_text=True))
    assert "Discard 6 jobs?" in asked  # what cannot be undone is counted beyond the cap
    asked_to_requeue = html.unescape(operator.post("/jobs/requeue", form, partial=True).get_data(as_text=True))
    assert "Requeue all matching jobs?" in asked_to_requeue
    assert "1 job matches among those searched in 0 s." in asked_to_requeue
    assert "The action covers all jobs" in asked_to_requeue
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', asked))
    response = operator.post("/jobs/discard", hidden, partial=True)
    assert b"Discarded 6 jobs." in response.data
    with reading() as session:
        left = {job.id for job in session.query(Job)}
    assert left == {str(one["id"]) for one in jobs if one["state"] != "dead" or one["command"] == "hay"}


def test_an_action_on_all_matches_is_allowed_before_the_first_match(
    operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 3)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    make_jobs([{"state": "dead", "id": f"d{n}", "command": "needle" if n == 0 else "hay"} for n in range(9)])
    asked = operator.post("/jobs/requeue", {"all": "1", "q": "needle"}, partial=True)
    assert b"0 jobs match among those searched" in asked.data
    done = operator.post("/jobs/requeue", {"all": "1", "q": "needle", "confirmed": "1"}, partial=True)
    assert b"Requeued 1 job." in done.data
    none = operator.post("/jobs/requeue", {"all": "1", "q": "id:nothing"}, partial=True)
    assert none.status_code == 409


def test_a_relative_time_is_fixed_by_the_confirmation(operator: Browser) -> None:
    make_job("dead", id="new")
    make_job("dead", id="old", changed_at=clock.now() - clock.seconds(7200))
    asked = html.unescape(
        operator.post("/jobs/requeue", {"all": "1", "q": "since:1h"}, partial=True).get_data(as_text=True)
    )
    assert "Requeue 1 job?" in asked
    hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', asked))
    assert re.match(r"since:20\d\d-", hidden["q"])
    operator.post("/jobs/requeue", hidden, partial=True)
    with reading() as session:
        act = session.query(BulkAction).one()
    assert json.loads(act.filter)["since"] == search.parse(hidden["q"]).since
    assert ids(operator, "/jobs?state=dead") == ["old"]


def test_the_dialog_shows_examples_in_the_order_of_the_list(operator: Browser) -> None:
    now = clock.now()
    make_jobs([{"state": "scheduled", "id": f"s{n}", "run_at": now + clock.seconds(100 - n)} for n in range(7)])
    shown = ids(operator, "/jobs?state=scheduled")
    assert shown[:2] == ["s6", "s5"]

    def examples(form: dict[str, object]) -> list[str]:
        asked = operator.post("/jobs/cancel", form, partial=True).get_data(as_text=True)
        return re.findall(r'<span class="id">([^<]+)</span>', asked)

    assert examples({"id": shown}) == shown[:5]
    assert examples({"all": "1", "state": "scheduled"}) == shown[:5]
    change_job("s6", run_at=now + clock.seconds(500))
    assert examples({"all": "1", "state": "scheduled"}) == ["s5", "s4", "s3", "s2", "s1"]


def test_an_invalid_search_in_a_form_is_refused_and_moves_nothing(operator: Browser) -> None:
    make_job("dead", id="a")
    form = {"all": "1", "state": "dead", "q": "redis:7", "confirmed": "1"}
    assert operator.post("/jobs/requeue", form).status_code == 400
    assert operator.post("/jobs/requeue", {**form, "q": "state:failed"}).status_code == 400
    assert ids(operator, "/jobs?state=dead") == ["a"]
