"""Labels in the console: what jobs require, who has it, and what a person is told where nobody has."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest

from tests.console.conftest import Browser
from tests.console.test_job_page import told
from tests.console.test_submit import only_job, submit
from tests.factories import make_job, make_queue, make_supervisor, make_worker
from webapp.console.display.wait_reason import start_command, wanting
from webapp.insight.blockers import serving
from webapp.insight.fleet import WorkerView
from webapp.lib import clock

START = "python3 manage.py worker start"


def worker(host: str = "web-1", labels: str = "", queues: str = "", **values: Any) -> None:
    """One that lives for as long as a test does; labels and queues with commas between."""
    given = {"labels": labels, "queues": queues}
    lists = {name: f"[{', '.join(repr(one) for one in text.split(','))}]".replace("'", '"')
             for name, text in given.items() if text}  # fmt: skip
    make_worker(host=host, seen_at=clock.now() + clock.seconds(600), **lists, **values)


def shown(browser: Browser, url: str) -> str:
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
def test_what_nobody_has_is_named_with_the_command_that_helps(operator: Browser, requires: str, sentence: str) -> None:
    worker("web-1", "gpu")
    worker("web-2", "ssd")
    worker("mailer", "mails", queues="mail")
    make_job(id="job1", requires=requires)
    assert told(operator).startswith(sentence)


def test_three_labels_that_nobody_has_together(operator: Browser) -> None:
    worker("web-1", "a,b")
    worker("web-1", "c")
    make_job(id="job1", requires="a,b,c")
    assert told(operator).startswith("Waiting for one worker with labels a, b and c.")


def test_other_obstacles_are_told_for_the_jobs_own_workers_and_keep_its_labels(operator: Browser) -> None:
    make_job(id="job1", requires="gpu")
    make_job(id="job2", requires="gpu,host:web-9")
    assert told(operator) == f"No workers running. {START} --label gpu"
    assert "running. Start one on web-9: " in told(operator, "job2")
    worker(queues="mail")
    assert f"none serves queue default. {START} --queue default --label gpu" in told(operator)
    worker()
    worker(labels="gpu", id="w1", requested_state="quiet")
    assert "All workers that serve default and have gpu are draining" in told(operator)
    assert "/worker/w1/resume" not in operator.get("/job/job1").get_data(as_text=True)  # an administrator's


def test_workers_with_the_labels_that_stop_are_replaced_by_the_command(operator: Browser) -> None:
    worker()
    worker(labels="gpu", requested_state="stop")
    make_job(id="job1", requires="gpu")
    assert told(operator).endswith(f"that serve default and have gpu are stopping. {START} --queue default --label gpu")


def test_a_job_that_somebody_may_take_is_counted_among_its_likes(operator: Browser) -> None:
    worker(labels="gpu", id="w1")
    make_job(id="plain", run_at=1)
    make_job(id="first", requires="gpu", run_at=2)
    make_job(id="job1", requires="gpu", run_at=3)
    make_job(id="job2", requires="gpu", run_at=4)
    assert told(operator, "first") == "Next in line for gpu workers."
    assert told(operator) == "1 job for gpu workers ahead in queue default."
    assert told(operator, "job2") == "2 jobs for gpu workers ahead in queue default."
    make_job("processing", worker_id="w1")
    assert told(operator, "first").endswith("for gpu workers; all its workers are busy.")


def test_what_is_to_run_later_is_told_already_that_nobody_would_take_it(operator: Browser) -> None:
    worker()
    make_job("failed", id="job1", requires="gpu", max_retries=3)
    make_job("scheduled", id="job2", requires="gpu")
    for name in ("job1", "job2"):
        assert f"Waiting for a worker with label gpu. {START} --label gpu" in told(operator, name)


def test_a_paused_queue_comes_before_labels_that_are_missing(operator: Browser) -> None:
    worker()
    make_queue("default", paused_by="person:ben")
    make_job(id="job1", requires="gpu")
    assert told(operator).startswith("Queue default was paused by ben")


@pytest.mark.parametrize(
    ("queue", "requires", "command"),
    [
        ("", "", START),
        ("mail", "", f"{START} --queue mail"),
        ("", "gpu,ssd", f"{START} --label gpu --label ssd"),
        ("mail", "gpu,host:web-1", f"{START} --queue mail --label gpu"),
    ],
)
def test_a_command_gives_the_labels_but_for_a_hosts(queue: str, requires: str, command: str) -> None:
    assert start_command(queue, requires) == command


def test_a_sentence_speaks_of_a_queue_only_where_workers_of_another_have_it(operator: Browser) -> None:
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


# --- where it is shown ---


def test_a_job_shows_its_labels_and_each_leads_to_its_likes(viewer: Browser) -> None:
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


def test_lists_show_labels_while_a_job_waits(viewer: Browser) -> None:
    for state in ("scheduled", "pending", "failed"):
        make_job(state, requires=f"for-{state}")
    make_job("completed", requires="for-nobody")
    assert sorted(chips(viewer.get("/jobs").get_data(as_text=True))) == ["for-failed", "for-pending", "for-scheduled"]
    assert chips(viewer.get("/jobs?state=pending").get_data(as_text=True)) == ["for-pending"]


def test_the_fleet_shows_what_workers_were_given_and_a_supervisor_all_that_they_have(viewer: Browser) -> None:
    make_supervisor(id="s1", host="web-1", labels='["ssd", "gpu"]')
    make_supervisor(id="s2", host="web-2")
    assert chips(viewer.get("/workers").get_data(as_text=True)) == ["ssd", "gpu"]
    assert chips(viewer.get("/supervisor/s1").get_data(as_text=True)) == ["gpu", "host:web-1", "ssd"]
    assert chips(viewer.get("/supervisor/s2").get_data(as_text=True)) == ["host:web-2"]


def test_a_queue_of_which_a_part_is_not_served_says_so(viewer: Browser) -> None:
    worker()
    worker(labels="ssd", requested_state="quiet")
    for requires in ("", "gpu", "gpu", "ssd"):
        make_job(queue="mail", requires=requires)
    text = shown(viewer, "/queues")
    assert "2 need a worker with label gpu" in text
    assert "1 needs ssd: all workers that serve mail and have ssd are draining or stopping" in text
    html = viewer.get("/queues").get_data(as_text=True)
    assert "/jobs?state=pending&amp;queue=mail&amp;q=requires:gpu" in html
    worker(labels="gpu,ssd")
    assert "need a worker" not in shown(viewer, "/queues")


def test_of_many_such_parts_the_fullest_are_named(viewer: Browser) -> None:
    worker()
    for number in range(1, 6):
        for _ in range(number):
            make_job(requires=f"l{number}")
    text = shown(viewer, "/queues")
    assert re.findall(r"(\d) need a worker with label (\w+)", text) == [("5", "l5"), ("4", "l4"), ("3", "l3")]
    assert "and 2 more label sets" in text


def test_how_long_a_queue_needs_is_told_of_what_is_taken(viewer: Browser) -> None:
    worker()
    make_job(queue="mail", requires="gpu")
    row = re.search(r'<td[^>]*class="meta drain"[^>]*>(.*?)</td>', viewer.get("/queues").get_data(as_text=True))
    assert row is not None
    assert "–" in row[1]  # noqa: RUF001
    make_job(queue="mail")
    assert "no recent runs" in shown(viewer, "/queues")


def test_the_overview_calls_for_a_person_and_names_jobs_labels_and_command(viewer: Browser) -> None:
    worker()
    make_job(requires="tape")
    text = shown(viewer, "/")
    assert "1 job needs labels that no worker has" in text
    told_so = "Start a matching worker, or cancel it. default : 1 job needs a worker with label tape"
    assert f"{told_so} {START} --label tape" in text
    for number in range(2, 6):
        make_job(queue="mail", requires=f"host:web-{number}")
        make_job(queue="mail", requires=f"host:web-{number}")
    text = shown(viewer, "/")
    assert "9 jobs need labels that no worker has" in text
    assert "Start a matching worker on web-2, or cancel them." in text
    assert "mail : 2 jobs need a worker on web-2" in text
    assert "and 2 more" in text


def test_the_overview_is_still_where_somebody_has_the_labels_or_nobody_runs(viewer: Browser) -> None:
    make_job(requires="gpu")
    assert 'id="need-unlabelled"' not in viewer.get("/").get_data(as_text=True)  # that no worker runs is said
    worker(labels="gpu")
    assert 'class="needs card"' not in viewer.get("/").get_data(as_text=True)


def test_a_requeue_says_before_that_nobody_would_take_the_jobs(operator: Browser) -> None:
    worker()
    for number in range(3):
        make_job("dead", id=f"job{number}", requires="gpu" if number else "")
    html = operator.post("/jobs/requeue", {"id": ["job0", "job1", "job2"]}, partial=True).get_data(as_text=True)
    text = " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())
    assert "Queue default : 2 jobs will wait for a worker with label gpu." in text


# --- submit ---


def test_what_is_required_is_stored_and_filled_in_again(operator: Browser) -> None:
    assert submit(operator, requires=" ssd, gpu,").status_code == 303
    job = only_job()
    assert job.requires == "gpu,ssd"
    assert re.search(
        r'id="requires"[^>]*value="gpu, ssd"', operator.get(f"/submit?from={job.id}").get_data(as_text=True)
    )


def test_a_wrong_label_is_told_at_its_field_and_kept(operator: Browser) -> None:
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


def taken(browser: Browser, field: str = "requires", **form: str) -> str:
    """What the form says of who would take the job, once a field has changed."""
    html = browser.post(f"/submit/check?field={field}", form, partial=True).get_data(as_text=True)
    found = re.search(r'<div id="takers" hx-swap-oob="innerHTML">(.*?)</div>', html, re.DOTALL)
    assert found is not None
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", found[1])).split())


def test_while_somebody_types_it_is_told_that_nobody_would_take_the_job(operator: Browser) -> None:
    assert taken(operator, requires="gpu") == ""  # that no worker runs stands on every page
    worker("web-1", "gpu")
    assert taken(operator, requires="gpu") == ""
    assert taken(operator, requires="") == ""
    assert taken(operator, requires="-x") == ""
    tape = "No match: the job needs a worker with label tape. It will wait until one is started."
    assert taken(operator, requires="gpu tape") == f"{tape} {START} --label gpu --label tape"
    there = "No match: the job needs a worker on web-9. It will wait until one is started on web-9."
    assert taken(operator, requires="host:WEB-9") == f"{there} {START}"
    assert taken(operator, "queue", queue="mail", requires="tape").startswith(
        "No match: the job needs a worker with label tape"
    )
    make_queue("mail", paused_by="person:ben")
    assert taken(operator, "queue", queue="mail") == ("Queue mail is paused. The job will wait until it is resumed.")


def test_the_form_says_so_from_the_start_where_it_is_filled_in(operator: Browser) -> None:
    worker(queues="mail")
    make_job(id="job1", requires="gpu")
    text = operator.get("/submit?from=job1").get_data(as_text=True)
    assert f"{START} --queue default --label gpu" in text
    assert "No worker serves queue default" in text


def test_labels_that_workers_have_are_offered(operator: Browser) -> None:
    def offered() -> list[str]:
        text = operator.get("/submit").get_data(as_text=True)
        names = re.findall(r'data-toggle="([^"]+)"', text)
        assert re.findall(r'<datalist id="offered">(.*?)</datalist>', text) == [
            "".join(f'<option value="{name}">' for name in names)
        ]
        return names

    worker("web-1")
    assert offered() == []  # its host's alone is no choice
    worker("web-2", "ssd,gpu")
    make_worker(host="gone", labels='["tape"]', seen_at=1)
    assert offered() == ["gpu", "ssd", "host:web-1", "host:web-2"]
