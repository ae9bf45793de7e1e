"""How other queues are run beside ours, with a peer made for the test that needs no installation and no server."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import psutil
import pytest

from tests.bench import Bench, BenchError, drain
from tests.bench.peers import POSTGRESQL, REDIS, Peer, known, running
from tests.bench.peers.running import Place, Running, attempt
from tests.bench.pool import pss_of
from tests.bench.scratch import scratch

# A queue that is a folder: a job is a file, a worker takes the first one that it can remove.
_SCRIPT = """
import os, uuid
os.makedirs("jobs", exist_ok=True)
def put(kind):
    open(f"jobs/{uuid.uuid4().hex}.{kind}", "x").close()
PUT = {"run": lambda: put("run"), "clock": lambda: put("clock")}
"""
_RESET = "import shutil; shutil.rmtree('jobs', ignore_errors=True)"
_WORKER = """
import os, sys, time
import bench_job
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        break
while True:
    for name in os.listdir("jobs") if os.path.isdir("jobs") else ():
        try:
            os.unlink(f"jobs/{name}")
        except FileNotFoundError:
            continue
        getattr(bench_job, name.partition(".")[2])()
    time.sleep(0.005)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as made:
        bench = Bench(1, made, lambda _: None)
        folder = made.kept("peers")
        programs = folder / "venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "python").symlink_to(os.path.realpath(sys.executable))
        (folder / "bench_job.py").write_text(running._JOB)
        (folder / "folder.py").write_text(_SCRIPT)
        (folder / "worker.py").write_text(_WORKER)
        yield Place(bench, folder, versions={"folder": "1.2"})


@pytest.fixture
def peer(place: Place) -> Running:
    made = Peer("folder", "a folder", ("folder",), _SCRIPT, _RESET, lambda count: ("python", "worker.py", str(count)))
    place.bench.peers.append(Running(made, place))
    return place.bench.peers[0]


def test_a_peer_drains_its_jobs(peer: Running) -> None:
    assert peer.title == "a folder 1.2"
    assert peer.drain(2, 30) > 0
    assert peer.drain(1, 5) > 0  # what the first left behind is no hindrance
    assert len(peer.place.times.read_text().splitlines()) == 5


def test_the_pick_up_time_of_a_peer_is_in_milliseconds_without_warm_up_jobs(peer: Running) -> None:
    times = peer.pick_up(4)
    assert len(times) == 4
    assert all(0 < one < 10_000 for one in times)


def test_an_idle_peer_is_measured_with_all_its_processes(peer: Running, eventually: Callable[..., Any]) -> None:
    with peer.working(3) as process:
        eventually(lambda: len(psutil.Process(process.pid).children()) == 2)
        assert peer.idles(process.pid, 0.01)[1] > pss_of(process.pid)
        eventually(lambda: peer.idles(process.pid, 0.1)[0] > 0)


def test_a_drain_has_peers_beside_our_queue(peer: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "SHAPES", {})
    rows = drain.measure(peer.place.bench, drain.Sizes(jobs=20, peer_jobs=5, peer_workers=(1, 2)))
    assert [(row.figure.key, row.figure.title) for row in rows] == [
        ("drain.folder.1", "a folder 1.2, drain by 1 workers, of the bare spawn loops"),
        ("drain.folder.2", "a folder 1.2, drain by 2 workers, of the bare spawn loops"),
    ]
    assert rows[0].rounds[0]["limit"] == rows[1].rounds[0]["limit"]


def test_a_failing_peer_is_left_out_with_its_error(peer: Running) -> None:
    bench = peer.place.bench
    (peer.place.folder / "folder.py").write_text("raise SystemExit('it is broken')")
    assert attempt(bench, peer, lambda one: one.drain(1, 5)) is None
    assert bench.peers == []
    assert bench.left_out[0].startswith("a folder 1.2: ")
    assert "it is broken" in bench.left_out[0]


def test_a_peer_with_too_few_finished_jobs_is_not_measured(peer: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Running, "_lines", lambda _: 5)  # as if they were all there
    (peer.place.folder / "worker.py").write_text("import time; time.sleep(60)")
    with pytest.raises(BenchError, match="was given 5 jobs and did 0"):
        peer.drain(1, 5)


def test_peers_without_their_servers_are_left_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place.folder))
    monkeypatch.setattr(running, "_install", lambda *_: None)
    bench = Bench(1, place.bench.scratch, lambda _: None)
    monkeypatch.setattr(bench.scratch, "kept", lambda _: place.folder)
    with running.installed(bench):
        assert [peer.peer.needs for peer in bench.peers] == [""]
    wanting = [peer for peer in known() if peer.needs]
    assert {peer.needs for peer in wanting} == {REDIS, POSTGRESQL}
    assert len(bench.left_out) == len(wanting)
    assert "huey (Redis): there is no redis-server on the PATH." in bench.left_out
    assert any("QUEUECTL_BENCH_POSTGRES" in sentence for sentence in bench.left_out)


def test_peers_that_cannot_be_installed_are_left_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise BenchError("no such package")

    monkeypatch.setattr(running, "_install", fail)
    monkeypatch.setattr(running, "_redis", lambda *_: "")
    bench = Bench(1, place.bench.scratch, lambda _: None)
    monkeypatch.setattr(bench.scratch, "kept", lambda _: place.folder)
    with running.installed(bench):
        assert bench.peers == []
    assert "all peers: they could not be installed. no such package" in bench.left_out
