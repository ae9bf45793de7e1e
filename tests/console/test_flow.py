"""Batches and chains in the console: what the pages say, and their buttons."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tests.console.conftest import Browser
from tests.factories import change_job
from webapp.core import job_spec
from webapp.core.flow.batches import read
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import actions, job_detail
from webapp.jobs.flow import chains
from webapp.lib import clock


def submit(*jobs: Mapping[str, object], batch: object = None) -> None:
    specs = [job_spec.parse({"command": "true", **job}) for job in jobs]
    actions.enqueue(specs, "person:ana", batch=read(batch) if batch else None)


def state_of(job_id: str) -> str:
    with reading() as session:
        job = job_detail.find(session, job_id)
    assert job is not None
    return job.state


def text_of(browser: Browser, url: str) -> str:
    return browser.get(url).get_data(as_text=True)


def test_a_blocked_job_names_what_it_waits_for_and_its_page_draws_the_chain(operator: Browser) -> None:
    submit({"id": "a"}, {"id": "b", "after": ["a"]}, {"id": "c", "after": ["b"]})
    text = text_of(operator, "/job/b")
    assert "Waits for 1 job: " in text
    assert re.findall(r"<title>(\w+): (\w+)", text) == [("a", "pending"), ("b", "blocked"), ("c", "blocked")]
    assert 'href="/job/a" class="box pending"' in text
    assert "style=" not in text.split('class="card chain"')[1]
    change_job("a", state="dead", started_at=1, finished_at=5_000_001)
    text = text_of(operator, "/job/b")
    assert "Requeue a</button>" in text
    assert "dead · 5 s" in text
    assert "Chain</h2>" not in text_of(operator, f"/job/{alone()}")


def alone() -> str:
    submit({"id": "alone"})
    return "alone"


def test_the_jobs_below_a_dead_one_are_cancelled_after_confirmation_and_can_be_restored(
    operator: Browser, viewer: Browser
) -> None:
    submit({"id": "a"}, {"id": "b", "after": ["a"]}, {"id": "c", "after": ["b"]})
    change_job("a", state="dead", finished_at=clock.now())
    assert "Cancel 2 jobs below…" in text_of(operator, "/job/a")
    assert "Cancel 2 jobs below…" not in text_of(viewer, "/job/a")
    asked = operator.post("/job/a/cancel-below", {}).get_data(as_text=True)
    assert "Cancel 2 jobs below a?" in asked
    assert operator.post("/job/a/cancel-below", {"confirmed": "1"}).status_code == 303
    assert {state_of("b"), state_of("c")} == {"cancelled"}
    assert operator.post("/job/a/cancel-below", {"confirmed": "1"}).status_code == 409
    assert operator.post("/activity/1/undo", {}).status_code == 303
    assert {state_of("b"), state_of("c")} == {"blocked"}


def test_a_wrong_parent_or_batch_is_reported_at_its_field(operator: Browser) -> None:
    submit({"id": "x"}, batch="done")
    key = re.search(r'name="form_key" value="([^"]+)"', text_of(operator, "/submit"))
    assert key is not None
    form = {"form_key": key[1], "command": "true"}
    for field, value, told in (
        ("after", "none", "No such job: &#39;none&#39;"),
        ("batch", "no name", "Is not a name"),
        ("batch", "done", "The batch &#39;done&#39; was closed at"),
    ):
        response = operator.post("/submit", {**form, field: value})
        assert response.status_code == 422
        assert told in response.get_data(as_text=True)
        assert f'href="#{field}"' in response.get_data(as_text=True)


def test_a_batch_shows_failures_callbacks_and_its_buttons(operator: Browser, viewer: Browser) -> None:
    submit({"id": "a"}, {"id": "b"}, batch={"name": "n", "open": True, "on_done": {"command": "./mail.sh"}})
    change_job("a", state="dead", finished_at=clock.now(), last_error="exit code 9", error_key="k")
    text = text_of(operator, "/batch/n")
    for words in ("1 of 2</b> ended", "1 failed", "exit code 9", "./mail.sh", "Close batch", "Requeue all dead…"):
        assert words in text
    assert "Close batch" not in text_of(viewer, "/batch/n")
    assert operator.post("/batch/n/close", {}).status_code == 303
    assert operator.post("/batch/n/close", {}).status_code == 409
    assert "Requeue 1 job?" in operator.post("/batch/n/requeue", {}).get_data(as_text=True)
    operator.post("/batch/n/requeue", {"confirmed": "1"})
    operator.post("/batch/n/cancel", {"confirmed": "1"})
    with reading() as session:
        assert {job.state for job in session.query(Job)} == {"cancelled"}
    assert 'href="/batch/n"' in text_of(viewer, "/batches")
    assert 'href="/batch/n"' in text_of(viewer, "/batches?active")
    assert viewer.get("/batches?before=x").status_code == 400
    assert operator.post("/batch/none/cancel", {}).status_code == 404


def test_a_large_graph_shares_boxes_by_state_and_a_long_chain_has_few_columns(operator: Browser) -> None:
    submit(*({"id": f"c{place}", "after": [f"c{place - 1}"] if place else []} for place in range(250)))
    text = text_of(operator, "/job/c100")
    assert 20 <= text.count('<g class="box ') + text.count('<a href="/job/c') <= 400
    assert text.count("<rect width=") <= 42
    with reading() as session:
        job = job_detail.find(session, "c249")
        assert job is not None
        found = chains.graph(session, job)
    assert found is not None
    assert found.nodes[-1].layer == 249
