"""Labels in the console: requirements of jobs, labels of workers, and messages if no worker matches."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from tests.console.conftest import Browser
from tests.console.test_job_page import wait_reason
from tests.console.test_submit import only_job, submit
from tests.factories import make_job, make_queue, make_supervisor, make_worker
from webapp.console.display.wait_reason import start_command, wanting
from webapp.insight.blockers import serving
from webapp.insight.fleet import WorkerView
from webapp.lib import clock

START = "python3 manage.py worker start"


def worker(host: str = "web-1", labels: str = "", queues: str = "", **values: Any) -> None:
    """A worker that stays alive during a test; `labels` and `queues` are separated by commas."""
    given = {"labels": labels, "queues": queues}
    lists = {name: f"[{', '.join(repr(one) for one in text.split(','))}]".replace("'", '"')
             for name, text in given.items() if text}  # fmt: skip
    make_worker(host=host, seen_at=clock.now() + clock.seconds(600), **lists, **values)


def text_of(browser: Browser, url: str) -> str:
    html = browser.get(url, partial=True).get_data(as_text=True)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def chips(html: str) -> list[str]:
    return re.findall(r'class="chip"[^>]*>([^<]+)<', html)


# --- why a job waits ---


@pytest.mark.parametrize(
    ("requires", "sentence"),
    [
        ("tape", f"Waiting for a worker with label tape. {START} --label tape"),
        ("gpu,tape", f"Waiting for a worker with label tape. {START} --label gpu --label tape"),
        ("disk,tape", f"Waiting for a worker with labels disk and tape. {START} --label disk"),
        ("gpu,ssd", f"Waiting for one worker with labels gpu and ssd. {START} --label gpu --label ssd"),
        ("gpu,ssd,x", "Waiting for a worker with label x."),
        ("host:web-9", f"Waiting for a worker on web-9. Start one on web-9: {START}"),
        ("gpu,host:web-2", "Waiting for a worker with label gpu on web-2. Start one on"),
        ("mails", "Waiting for a worker with label mails that serves default."),
        ("host:mailer", "Waiting for a worker on mailer that serves default."),
    ],
)
def test_a_missing_label_is_named_with_the_command_that_starts_a_worker(
    operator: Browser, requires: str, sentence: str
) -> None:
    worker("web-1", "gpu")
    worker("web-2", "ssd")
    worker("mailer", "mails", queues="mail")
    make_job(id="job1", requires=requires)
    assert wait_reason(operator).startswith(sentence)


def test_three_labels_without_a_common_worker_are_named_together(operator: Browser) -> None:
    worker("web-1", "a,b")
    worker("web-1", "c")
    make_job(id="job1", requires="a,b,c")
    assert wait_reason(operator).startswith("Waiting for one worker with labels a, b and c.")


def test_other_obstacles_concern_only_matching_workers_and_keep_the_labels(operator: Browser) -> None:
    make_job(id="job1", requires="gpu")
    make_job(id="job2", requires="gpu,host:web-9")
    assert wait_reason(operator) == f"No workers running. {START} --label gpu"
    assert "running. Start one on web-9: " in wait_reason(operator, "job2")
    worker(queues="mail")
    assert f"none serves queue default. {START} --queue default --label gpu" in wait_reason(operator)
    worker()
    worker(labels="gpu", id="w1", requested_state="quiet")
    assert "All workers that serve default and have gpu are draining" in wait_reason(operator)
    assert "/worker/w1/resume" not in operator.get("/job/job1").get_data(as_text=True)  # only admins have this button


def test_if_matching_workers_stop_the_command_starts_a_new_one(operator: Browser) -> None:
    worker()
    worker(labels="gpu", requested_state="stop")
    make_job(id="job1", requires="gpu")
    assert wait_reason(operator).endswith(
        f"that serve default and have gpu are stopping. {START} --queue default --label gpu"
    )


def test_a_job_with_a_matching_worker_counts_only_jobs_with_the_same_requirements(operator: Browser) -> None:
    worker(labels="gpu", id="w1")
    make_job(id="plain", run_at=1)
    make_job(id="first", requires="gpu", run_at=2)
    make_job(id="job1", requires="gpu", run_at=3)
    make_job(id="job2", requires="gpu", run_at=4)
    assert wait_reason(operator, "first") == "Next in line for gpu workers."
    assert wait_reason(operator) == "1 job for gpu workers ahead in queue default."
    assert wait_reason(operator, "job2") == "2 jobs for gpu workers ahead in queue default."
    make_job("processing", worker_id="w1")
    assert wait_reason(operator, "first").endswith("for gpu workers; all its workers are busy.")


def test_a_later_job_shows_missing_labels_already(operator: Browser) -> None:
    worker()
    make_job("failed", id="job1", requires="gpu", max_retries=3)
    make_job("scheduled", id="job2", requires="gpu")
    for name in ("job1", "job2"):
        assert f"Waiting for a worker with label gpu. {START} --label gpu" in wait_reason(operator, name)


def test_a_paused_queue_is_shown_before_missing_labels(operator: Browser) -> None:
    worker()
    make_queue("default", paused_by="person:ben")
    make_job(id="job1", requires="gpu")
    assert wait_reason(operator).startswith("Queue default was paused by ben")


@pytest.mark.parametrize(
    ("queue", "requires", "command"),
    [
        ("", "", START),
        ("mail", "", f"{START} --queue mail"),
        ("", "gpu,ssd", f"{START} --label gpu --label ssd"),
        ("mail", "gpu,host:web-1", f"{START} --queue mail --label gpu"),
    ],
)
def test_the_start_command_has_all_labels_except_the_host(queue: str, requires: str, command: str) -> None:
    assert start_command(queue, requires) == command


def test_a_message_names_the_queue_only_if_workers_of_other_queues_match(operator: Browser) -> None:
    row = make_worker(labels='["gpu"]', queues='["mail"]', host="a")
    other = make_worker(host="b")
    alive = [WorkerView(row, [], True), WorkerView(other, [], True)]
    for requires, words in (
        ("gpu", "a worker with label gpu that serves default"),
        ("tape", "a worker with label tape"),
    ):
        obstacle = serving("default", None, alive, requires).obstacle
        assert obstacle is not None
        assert words == wanting(obstacle)


# --- where labels are shown ---


def test_a_job_shows_its_labels_with_links_to_similar_jobs(viewer: Browser) -> None:
    make_job(id="job1", requires="gpu,host:web-1")
    make_job(id="plain")
    text = viewer.get("/job/job1").get_data(as_text=True)
    assert chips(text) == ["gpu", "host:web-1"]
    assert re.findall(r'href="(/jobs\?q=requires[^"]*)"', text) == ["/jobs?q=requires:gpu",
                                                                    "/jobs?q=requires:host:web-1"]  # fmt: skip
    found = viewer.get("/jobs?q=requires:host:web-1").get_data(as_text=True)
    assert "job1" in found
    assert 'href="/job/plain"' not in found
    assert "<dt>Requires</dt>" not in viewer.get("/job/plain").get_data(as_text=True)


def test_lists_show_labels_of_waiting_jobs_only(viewer: Browser) -> None:
    for state in ("scheduled", "pending", "failed"):
        make_job(state, requires=f"for-{state}")
    make_job("completed", requires="for-nobody")
    assert sorted(chips(viewer.get("/jobs").get_data(as_text=True))) == ["for-failed", "for-pending", "for-scheduled"]
    assert chips(viewer.get("/jobs?state=pending").get_data(as_text=True)) == ["for-pending"]


def test_the_workers_page_shows_given_labels_and_a_supervisor_page_shows_all(viewer: Browser) -> None:
    make_supervisor(id="s1", host="web-1", labels='["ssd", "gpu"]')
    make_supervisor(id="s2", host="web-2")
    assert chips(viewer.get("/workers").get_data(as_text=True)) == ["ssd", "gpu"]
    assert chips(viewer.get("/supervisor/s1").get_data(as_text=True)) == ["gpu", "host:web-1", "ssd"]
    assert chips(viewer.get("/supervisor/s2").get_data(as_text=True)) == ["host:web-2"]


def test_a_queue_with_unserved_labels_shows_them(viewer: Browser) -> None:
    worker()
    worker(labels="ssd", requested_state="quiet")
    for requires in ("", "gpu", "gpu", "ssd"):
        make_job(queue="mail", requires=requires)
    text = text_of(viewer, "/queues")
    assert "2 need a worker with label gpu" in text
    assert "1 needs ssd: all workers that serve mail and have ssd are draining or stopping" in text
    html = viewer.get("/queues").get_data(as_text=True)
    assert "/jobs?state=pending&amp;queue=mail&amp;q=requires:gpu" in html
    worker(labels="gpu,ssd")
    assert "need a worker" not in text_of(viewer, "/queues")


def test_only_the_largest_unserved_label_sets_are_named(viewer: Browser) -> None:
    worker()
    for number in range(1, 6):
        for _ in range(number):
            make_job(requires=f"l{number}")
    text = text_of(viewer, "/queues")
    assert re.findall(r"(\d) need a worker with label (\w+)", text) == [("5", "l5"), ("4", "l4"), ("3", "l3")]
    assert "and 2 more label sets" in text


def test_the_drain_time_of_a_queue_covers_only_served_jobs(viewer: Browser) -> None:
    worker()
    make_job(queue="mail", requires="gpu")
    row = re.search(r'<td[^>]*class="meta drain"[^>]*>(.*?)</td>', viewer.get("/queues").get_data(as_text=True))
    assert row is not None
    assert "–" in row[1]  # noqa: RUF001
    make_job(queue="mail")
    assert "no recent runs" in text_of(viewer, "/queues")


def test_the_overview_reports_unserved_labels_with_jobs_and_command(viewer: Browser) -> None:
    worker()
    make_job(requires="tape")
    text = text_of(viewer, "/")
    assert "1 job needs labels that no worker has" in text
    lacking = "default : 1 job needs a worker with label tape"
    assert f"{lacking} {START} --label tape Start a matching worker, or cancel it." in text
    for number in range(2, 6):
        make_job(queue="mail", requires=f"host:web-{number}")
        make_job(queue="mail", requires=f"host:web-{number}")
    text = text_of(viewer, "/")
    assert "9 jobs need labels that no worker has" in text
    assert "Start a matching worker on web-2, or cancel them." in text
    assert "mail : 2 jobs need a worker on web-2" in text
    assert "and 2 more" in text


def test_the_overview_reports_no_labels_if_a_worker_matches_or_none_runs(viewer: Browser) -> None:
    make_job(requires="gpu")
    assert 'id="need-unlabelled"' not in viewer.get("/").get_data(as_text=True)  # the page reports that no worker runs
    worker(labels="gpu")
    assert 'id="need-' not in viewer.get("/").get_data(as_text=True)


def test_the_requeue_dialog_warns_that_no_worker_matches(operator: Browser) -> None:
    worker()
    for number in range(3):
        make_job("dead", id=f"job{number}", requires="gpu" if number else "")
    html = operator.post("/jobs/requeue", {"id": ["job0", "job1", "job2"]}, partial=True).get_data(as_text=True)
    text = " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
    assert "Queue default : 2 jobs will wait for a worker with label gpu." in text


# --- submit ---


def test_requirements_are_stored_and_prefilled_for_a_resubmit(operator: Browser) -> None:
    assert submit(operator, requires=" ssd, gpu,").status_code == 303
    job = only_job()
    assert job.requires == "gpu,ssd"
    assert re.search(
        r'id="requires"[^>]*value="gpu, ssd"', operator.get(f"/submit?from={job.id}").get_data(as_text=True)
    )


def test_an_invalid_label_is_reported_at_its_field_and_kept(operator: Browser) -> None:
    typed, message = "gpu, -x", "&#39;-x&#39; is not a valid label; expected 1 to 128 characters"
    response = submit(operator, requires=typed, command="echo kept")
    text = response.get_data(as_text=True)
    assert response.status_code == 422
    assert '<a href="#requires">Requires</a>' in text
    problem = re.search(r'id="requires-problem">(.*?)</p>', text, re.DOTALL)
    assert problem is not None
    assert message in problem[1]
    assert re.search(r'id="requires"[^>]*aria-invalid="true"[^>]*autofocus', text, re.DOTALL)
    assert f'value="{typed}"' in text
    assert "echo kept" in text
    checked = operator.post("/submit/check?field=requires", {"command": "", "requires": typed}, partial=True)
    assert message in checked.get_data(as_text=True)


def worker_hint(browser: Browser, field: str = "requires", **form: str) -> str:
    """The form's hint about matching workers after a field has changed."""
    html = browser.post(f"/submit/check?field={field}", form, partial=True).get_data(as_text=True)
    found = re.search(r'<div id="takers" hx-swap-oob="innerHTML">(.*?)</div>', html, re.DOTALL)
    assert found is not None
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", found[1])).split())


def test_the_form_warns_while_typing_that_no_worker_matches(operator: Browser) -> None:
    assert worker_hint(operator, requires="gpu") == ""  # every page reports that no worker runs
    worker("web-1", "gpu")
    assert worker_hint(operator, requires="gpu") == ""
    assert worker_hint(operator, requires="") == ""
    assert worker_hint(operator, requires="-x") == ""
    tape = "No match: the job needs a worker with label tape. It will wait until one is started."
    assert worker_hint(operator, requires="gpu tape") == f"{tape} {START} --label gpu --label tape"
    there = "No match: the job needs a worker on web-9. It will wait until one is started on web-9."
    assert worker_hint(operator, requires="host:WEB-9") == f"{there} {START}"
    assert worker_hint(operator, "queue", queue="mail", requires="tape").startswith(
        "No match: the job needs a worker with label tape"
    )
    make_queue("mail", paused_by="person:ben")
    assert worker_hint(operator, "queue", queue="mail") == (
        "Queue mail is paused. The job will wait until it is resumed."
    )


def test_a_prefilled_form_warns_from_the_start(operator: Browser) -> None:
    worker(queues="mail")
    make_job(id="job1", requires="gpu")
    text = operator.get("/submit?from=job1").get_data(as_text=True)
    assert f"{START} --queue default --label gpu" in text
    assert "No worker serves queue default" in text


def test_the_form_offers_the_labels_of_workers(operator: Browser) -> None:
    def offered() -> list[str]:
        text = operator.get("/submit").get_data(as_text=True)
        names = re.findall(r'data-toggle="([^"]+)"', text)
        assert re.findall(r'<datalist id="offered">(.*?)</datalist>', text) == [
            "".join(f'<option value="{name}">' for name in names)
        ]
        return names

    worker("web-1")
    assert offered() == []  # the label of the only host is not offered
    worker("web-2", "ssd,gpu")
    make_worker(host="gone", labels='["tape"]', seen_at=1)
    assert offered() == ["gpu", "ssd", "host:web-1", "host:web-2"]
