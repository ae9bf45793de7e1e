"""Labels on the command line: workers have them, jobs require them, lists show both."""

from __future__ import annotations

import signal
from typing import Any, Callable

import pytest
from flask import Flask

from tests.commands.conftest import Cli, Processes
from tests.deadline import DEADLINE
from tests.factories import make_job, make_supervisor, make_worker
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail
from worker import processes as machine


def job_of(job_id: str) -> Job:
    with reading() as session:
        job = job_detail.find(session, job_id)
    assert job is not None
    return job


# --- jobs ---


@pytest.mark.parametrize(
    "options", [["--requires", "ssd", "--requires", "gpu"], ["--requires", "gpu,ssd"], ["--requires", "ssd gpu"]]
)
def test_a_job_can_require_labels(app: Flask, cli: Cli, options: list[str]) -> None:
    result = cli("enqueue", "--command", "true", "--id", "a", *options)
    assert (result.code, result.err) == (0, "")
    assert job_of("a").requires == "gpu,ssd"


def test_in_json_labels_are_a_text_or_a_list(app: Flask, cli: Cli) -> None:
    cli("enqueue", "-", stdin=b'{"id": "a", "command": "true", "requires": "gpu"}\n'
                              b'{"id": "b", "command": "true", "requires": ["host:Web-1", "gpu"]}\n')  # fmt: skip
    assert [job_of(name).requires for name in ("a", "b")] == ["gpu", "gpu,host:web-1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--command", "true", "--requires", "-x"],
            "requires: '-x' is not a valid label; expected 1 to 128 characters",
        ),
        (["--requires", "gpu", '{"command": "true"}'], "In JSON they are keys of the object"),
    ],
)
def test_an_invalid_label_is_reported_and_nothing_is_stored(
    app: Flask, cli: Cli, arguments: list[str], words: str
) -> None:
    result = cli("enqueue", *arguments)
    assert result.code != 0
    assert words in result.err
    assert cli("list", "--json").json == []


def test_lists_and_show_print_required_labels_and_a_search_finds_them(app: Flask, cli: Cli) -> None:
    make_job(id="plain")
    assert "REQUIRES" not in cli("list").out
    assert "requires" not in cli("show", "plain").out
    make_job(id="both", requires="gpu,ssd")
    make_job("dead", id="dead", requires="gpu")
    make_job(id="here", requires="host:web-1")
    out = cli("list").out
    assert out.splitlines()[0].split()[:4] == ["ID", "STATE", "QUEUE", "REQUIRES"]
    assert "gpu, ssd" in out
    assert "requires   gpu, ssd\n" in cli("show", "both").out
    assert cli("show", "both", "--json").json["requires"] == ["gpu", "ssd"]
    assert [job["id"] for job in cli("list", "--search", "requires:gpu", "--json").json] == ["dead", "both"]
    assert [job["id"] for job in cli("list", "--search", "requires:host:WEB-1", "--json").json] == ["here"]
    pending = cli("list", "--state", "pending", "--search", "requires:gpu", "--json").json
    assert [job["id"] for job in pending] == ["both"]


def test_jobs_without_a_matching_worker_are_in_the_status_and_alarm_the_doctor(app: Flask, cli: Cli) -> None:
    def doctor() -> dict[str, str]:
        (found,) = [one for one in cli("doctor", "--json").json if one["check"] == "workers"]
        return dict(found)

    make_worker(labels='["ssd"]')
    make_job(requires="ssd")
    assert "no worker for" not in cli("status").out
    assert doctor()["result"] == "ok"
    make_job(queue="mail", requires="gpu,ssd")
    for _ in range(2):
        make_job(requires="host:web-9")
    assert "2 in default (requires host:web-9); 1 in mail (requires gpu, ssd)" in cli("status").out
    told = doctor()
    assert told["result"] == "warn"
    assert "1 running, but none has the labels that 3 jobs require: gpu, host:web-9, ssd." in told["detail"]
    assert "manage.py worker start --label NAME" in told["advice"]
    make_worker(host="web-9", labels='["gpu", "ssd"]')
    assert doctor()["result"] == "ok"


# --- workers ---


@pytest.mark.parametrize("command", [["worker", "start"], ["up"]])
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["-x"], "'-x' is not a valid label; expected 1 to 128 characters"),
        (["gpu,ssd"], "Give --label once for each label."),
        (["host:web-1"], "Workers get theirs automatically, here 'host:"),
        ([f"l{number}" for number in range(9)], "9 labels are too many; a worker has at most 8."),
    ],
)
def test_an_invalid_worker_label_is_refused_before_anything_starts(
    cli: Cli, command: list[str], given: list[str], words: str
) -> None:
    result = cli(*command, *(word for label in given for word in ("--label", label)))
    assert result.code == 2
    assert "--label" in result.err
    assert words in result.err


def test_workers_and_supervisors_are_listed_with_their_labels(app: Flask, cli: Cli) -> None:
    make_supervisor(id="s1", host="Web-1", labels='["ssd", "gpu"]')
    make_worker(id="w1", supervisor_id="s1", host="Web-1", labels='["ssd", "gpu"]')
    for command in ("list", "supervisors"):
        header, line = cli("worker", command).lines
        assert "LABELS" in header.split()
        assert "ssd, gpu" in line
        (one,) = cli("worker", command, "--json").json
        assert one["labels"] == ["gpu", "host:web-1", "ssd"]


def test_without_labels_the_lists_have_no_label_column(app: Flask, cli: Cli) -> None:
    make_supervisor(id="s1")
    make_worker(id="w1", supervisor_id="s1")
    assert "LABELS" not in cli("worker", "list").out
    assert "LABELS" not in cli("worker", "supervisors").out


def test_queue_json_counts_pending_jobs_by_required_labels(app: Flask, cli: Cli) -> None:
    make_job()
    make_job(requires="gpu")
    make_job(requires="gpu")
    (queue,) = cli("queue", "list", "--json").json
    assert queue["pending"] == 3
    assert [(one["requires"], one["pending"]) for one in queue["waiting"]] == [([], 1), (["gpu"], 2)]


def test_a_worker_started_with_labels_runs_jobs_that_require_them(
    app: Flask, processes: Processes, cli: Cli, eventually: Callable[..., Any]
) -> None:
    host = f"host:{machine.host_name()}"
    cli("enqueue", "--command", "true", "--id", "mine", "--requires", "gpu", "--requires", host)
    cli("enqueue", "--command", "true", "--id", "others", "--requires", "gpu,tape", "--priority", "100")
    worker = processes.start("worker", "start", "--label", "ssd", "--label", "gpu", "--label", "gpu")
    eventually(lambda: job_of("mine").state == "completed")
    assert job_of("others").state == "pending"
    (one,) = cli("worker", "list", "--json").json
    assert one["labels"] == ["gpu", host.lower(), "ssd"]
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(DEADLINE) == 0


def test_up_gives_its_workers_the_labels(
    app: Flask, processes: Processes, cli: Cli, eventually: Callable[..., Any]
) -> None:
    cli("enqueue", "--command", "true", "--id", "mine", "--requires", "gpu")
    running = processes.start("up", "--port", "0", "--workers", "1", "--label", "gpu", "--label", "ssd")
    eventually(lambda: job_of("mine").state == "completed")
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=DEADLINE)
    assert "1, 1 job at a time, with gpu, ssd" in said
