"""The page of workers and supervisors: states, actions, scaling, and refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.console.conftest import Browser
from tests.factories import make_job, make_supervisor, make_worker
from webapp.commands import serve as command
from webapp.console import workers
from webapp.db.engines import reading
from webapp.db.models import Supervisor, Worker
from webapp.jobs.worker_actions import MAX_WORKERS
from webapp.lib import clock


def wanted_of(supervisor_id: str) -> int:
    with reading() as session:
        return session.get_one(Supervisor, supervisor_id).wanted


def requested_state_of(worker_id: str) -> str:
    with reading() as session:
        return session.get_one(Worker, worker_id).requested_state


def text_of(browser: Browser, url: str = "/workers") -> str:
    return browser.get(url).get_data(as_text=True)


def test_a_stopping_worker_cannot_be_resumed(admin: Browser) -> None:
    make_worker(id="w1", requested_state="stop")
    make_worker(id="w2", requested_state="quiet")
    page = admin.get("/workers").get_data(as_text=True)
    assert "/worker/w1/" not in page
    assert "/worker/w2/resume" in page
    response = admin.post("/worker/w1/resume", partial=True)
    assert response.status_code == 409
    assert b"Worker w1 is already stopping" in response.data


# --- the page ---


def test_workers_are_grouped_by_host_and_supervisor(admin: Browser) -> None:
    make_supervisor(id="s1", host="web-1", wanted=3, slots=4, queues='["mail"]')
    make_supervisor(id="s2", host="batch-2")
    make_worker(id="w1", supervisor_id="s1", host="web-1", slots=4, cpu_time=clock.seconds(36), memory=20 * 2**20)
    make_worker(id="w2", supervisor_id="s1", host="web-1", slots=4)
    make_worker(id="w3", supervisor_id="s2", host="batch-2")
    make_worker(id="w4", supervisor_id="older", host="batch-2")  # a supervisor without a row
    make_job("processing", id="job1", worker_id="w1")
    text = text_of(admin)
    order = [text.index(name) for name in ("batch-2", "s2", "worker-w3", "web-1", "s1", "worker-w1", "worker-w2")]
    assert order == sorted(order)
    assert "<b>4 workers</b> on 2 hosts" in text
    assert "1 of 8 slots busy" in text
    assert "queues mail" in text
    assert "1 to start" in text
    assert "36 s, 1 %" in text
    assert "20.0 MiB" in text
    assert 'href="/job/job1"' in text
    assert "/supervisor/older/scale" not in text


def test_a_supervisor_without_workers_shows_how_to_scale_it(admin: Browser, viewer: Browser) -> None:
    make_supervisor(id="s1", wanted=0)
    text = text_of(admin)
    assert "No jobs will run: this supervisor is scaled to 0 workers. Press <b>+</b>" in text
    assert "manage.py worker scale s1 1" in text
    assert 'value="-1"' not in text
    assert "An admin can scale it up." in text_of(viewer)
    make_worker(supervisor_id="s2")
    assert "No jobs will run here" in text_of(admin)


def test_a_stopping_or_silent_supervisor_cannot_be_scaled(admin: Browser) -> None:
    make_supervisor(id="s1", stopped_at=1)
    make_worker(supervisor_id="s1")
    make_supervisor(id="s2", seen_at=clock.now() - clock.seconds(300))
    make_worker(supervisor_id="s2", seen_at=clock.now() - clock.seconds(300))
    make_supervisor(id="s3", seen_at=clock.now() - clock.seconds(300))  # it has no workers
    text = text_of(admin)
    assert "stopping: finishes its jobs first" in text
    assert "not responding, last seen" in text
    assert "s3" not in text
    assert admin.post("/supervisor/s1/scale", {"by": "+1"}).status_code == 409
    assert admin.post("/supervisor/s3/scale", {"by": "+1"}).status_code == 409
    assert admin.get("/supervisor/s3").status_code == 404


def test_only_the_newest_stopped_workers_are_listed(admin: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "MOST_ENDED", 2)
    for number in range(4):
        make_worker(id=f"w{number}", state="stopped", stopped_at=clock.now() - clock.seconds(number))
    text = text_of(admin)
    assert re.findall(r'id="ended-(\w+)"', text) == ["w0", "w1", "more"]
    assert "and 2 more" in text


# --- stopping and scaling ---


@pytest.mark.postgresql
def test_a_stopped_worker_shrinks_the_pool_and_undo_restores_it(admin: Browser) -> None:
    make_supervisor(id="s1", wanted=4)
    for number in range(4):
        make_worker(id=f"w{number}", supervisor_id="s1")
    said = admin.post("/worker/w1/stop", partial=True).get_data(as_text=True)
    assert "Worker w1 is stopping: it finishes its jobs first. Pool 4 → 3." in said
    assert wanted_of("s1") == 3
    undo = re.search(r'formaction="([^"]*)"[^>]*name="(\w+)" value="(\d+)"[^>]*>Undo<', said)
    assert undo is not None
    admin.post(undo[1], {undo[2]: undo[3]})
    assert wanted_of("s1") == 4
    page = text_of(admin)
    assert page.index("Drain</b>: finishes its jobs and takes no new ones") < page.index("Stop</b>: finishes its jobs")
    admin.post("/worker/w2/stop")  # without JavaScript
    assert ">Undo<" in text_of(admin)


@pytest.mark.parametrize(
    ("data", "after", "said"),
    [
        ({"by": "+1"}, 3, "Scaling s1 from 2 to 3 workers. New workers start within seconds."),
        ({"by": "-1"}, 1, "Scaling s1 from 2 to 1 worker. The least busy workers finish their jobs, then stop."),
        ({"workers": "7"}, 7, "Scaling s1 from 2 to 7 workers."),
        ({"workers": "2"}, 2, "already has 2 workers."),
    ],
)
@pytest.mark.parametrize("partial", [True, False])
def test_a_supervisor_is_scaled(admin: Browser, data: dict[str, Any], after: int, said: str, partial: bool) -> None:
    make_supervisor(id="s1", wanted=2)
    response = admin.post("/supervisor/s1/scale", data, partial=partial)
    text = response.get_data(as_text=True) if partial else text_of(admin, response.headers["Location"])
    assert said in text
    assert wanted_of("s1") == after


@pytest.mark.parametrize("typed", ["", "x", "-1", "257", "1.5", "99999999999"])
def test_an_invalid_number_is_refused_and_stays_in_the_field(admin: Browser, typed: str) -> None:
    make_supervisor(id="s1", wanted=2)
    response = admin.post("/supervisor/s1/scale", {"workers": typed})
    text = response.get_data(as_text=True)
    assert response.status_code == 422
    assert f'value="{typed}"' in text
    assert "from 0 to 256" in text
    assert wanted_of("s1") == 2


def test_scaling_the_last_workers_down_needs_confirmation(admin: Browser) -> None:
    make_supervisor(id="s1", wanted=1)
    make_worker(id="w1", supervisor_id="s1")
    asked = admin.post("/supervisor/s1/scale", {"by": "-1"}, partial=True).get_data(as_text=True)
    assert "Scale down to 0 workers?" in asked
    assert wanted_of("s1") == 1
    assert "Scale down to 0 workers?" in admin.post("/supervisor/s1/scale", {"workers": "0"}).get_data(as_text=True)
    admin.post("/supervisor/s1/scale", {"workers": "0", "confirmed": "1"})
    assert wanted_of("s1") == 0
    make_supervisor(id="s2", wanted=1)
    make_supervisor(id="s3", wanted=1)
    make_worker(id="w3", supervisor_id="s3")
    admin.post("/supervisor/s2/scale", {"by": "-1"})  # the other supervisor keeps its worker
    assert wanted_of("s2") == 0


def test_stopping_the_last_worker_needs_confirmation(admin: Browser) -> None:
    for name in ("w1", "w2"):
        make_worker(id=name)
    make_worker(id="w3", seen_at=1)  # silent workers do not count
    assert "is stopping: it finishes its jobs first" in admin.post("/worker/w2/stop", partial=True).get_data(
        as_text=True
    )
    asked = admin.post("/worker/w1/stop", partial=True).get_data(as_text=True)
    assert "Stop the last worker?" in asked
    assert requested_state_of("w1") == "run"
    admin.post("/worker/w1/stop", {"confirmed": "1"})
    assert requested_state_of("w1") == "stop"


def test_admins_can_scale_on_the_page_of_a_supervisor(admin: Browser, viewer: Browser) -> None:
    make_supervisor(id="s1", wanted=2, queues='["mail", "default"]')
    assert "mail, default" in text_of(admin, "/supervisor/s1")
    assert 'name="workers"' in text_of(admin, "/supervisor/s1")
    assert "Only admins can change it" in text_of(viewer, "/supervisor/s1")
    assert viewer.post("/supervisor/s1/scale", {"by": "+1"}).status_code == 403
    assert admin.get("/supervisor/nobody").status_code == 404
    assert admin.post("/supervisor/nobody/scale", {"by": "+1"}).status_code == 404


def test_start_and_scale_have_the_same_limit() -> None:
    assert command.MOST_WORKERS == MAX_WORKERS
