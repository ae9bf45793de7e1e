"""Limits of memory and processes: they work, are reported, spare other jobs, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worker.conftest import Fleet, Queue
from worker.runner import cgroups, limits
from worker.runner.limits import Limits, ResourceLimits
from worker.runner.posix import _GATE

Start = Callable[..., Fleet]
MIB = 1024**2

grouped = pytest.mark.skipif(len(cgroups.offered()) < 2, reason="no control groups can be made here")


def _left(worker: int) -> list[Path]:
    """The groups that the worker with this pid has created and not removed."""
    return [group for base in cgroups.bases().values() for group in base.glob(f"queuectl-job-{worker}-*")]


def test_an_attempt_with_too_much_memory_fails_with_the_reason_and_its_neighbour_continues(
    queue: Queue, fleet: Start
) -> None:
    queue.set(job_memory_limit=64)
    fleet(slots=2)
    neighbour = queue.enqueue("sleep 1; echo well")
    job = queue.reaches(queue.enqueue("head -c 300M /dev/zero | tail -c 300M", max_retries=0), "dead")
    [attempt] = queue.attempts(job.id)
    if len(cgroups.offered()) == 2:
        assert attempt.reason == "memory"
        assert "exceeded job_memory_limit (64 MiB)" in (job.last_error or "")
    else:
        assert "memory exhausted" in (job.last_error or "")
    queue.reaches(neighbour, "completed")


@grouped
def test_an_attempt_with_too_many_processes_gets_errors_and_a_reason(queue: Queue, fleet: Start) -> None:
    queue.set(job_process_limit=20)
    fleet(slots=2)
    neighbour = queue.enqueue("for one in 1 2 3 4 5; do sleep 1 & done; wait")
    job = queue.reaches(
        queue.enqueue("i=0; while [ $i -lt 60 ]; do sleep 60 & i=$((i+1)); done", max_retries=0), "dead"
    )
    assert queue.attempts(job.id)[0].reason == "processes"
    assert "exceeded job_process_limit (20 processes)" in (job.last_error or "")
    queue.reaches(neighbour, "completed")


@grouped
def test_a_job_below_its_limits_runs_unchanged_and_leaves_no_group(queue: Queue, fleet: Start, tmp_path: Path) -> None:
    queue.set(job_memory_limit=64, job_process_limit=20)
    fleet()
    job_id = queue.enqueue("cat; pwd; echo $0; ls /proc/self/fd | wc -l; exit 3", cwd=str(tmp_path), max_retries=0)
    queue.reaches(job_id, "dead")
    [attempt] = queue.attempts(job_id)
    assert (attempt.reason, attempt.exit_code) == ("exit", 3)
    assert attempt.output.decode().splitlines() == [str(tmp_path), "/bin/sh", "4"]  # ls opens the folder itself
    assert _left(queue.workers()[0].pid) == []


@grouped
def test_with_a_control_group_no_daemon_escapes_although_others_run_beside_it(
    queue: Queue, fleet: Start, tmp_path: Path, alive: Callable[[int], bool], pid_in: Callable[[Path], int]
) -> None:
    queue.set(job_process_limit=50)
    fleet(slots=2)
    queue.enqueue("sleep 3600")
    job_id = queue.enqueue(f"(env -i setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 3600' &) ; sleep 0.3")
    queue.reaches(job_id, "completed")
    assert not alive(pid_in(tmp_path / "pid"))


@grouped
def test_groups_of_a_killed_worker_are_removed_by_the_next(
    queue: Queue, fleet: Start, tmp_path: Path, pid_in: Callable[[Path], int]
) -> None:
    queue.set(job_memory_limit=64)
    fleet()
    job_id = queue.enqueue(f"[ $QUEUECTL_ATTEMPT = 2 ] || {{ echo $$ > {tmp_path}/pid; sleep 3600; }}")
    pid_in(tmp_path / "pid")
    worker = queue.workers()[0].pid
    assert len(_left(worker)) == 1
    os.kill(worker, signal.SIGKILL)
    queue.reaches(job_id, "completed")
    assert _left(worker) == []


def test_a_command_that_waits_for_its_limits_never_starts_if_its_worker_dies(tmp_path: Path) -> None:
    for word, begun in ((b"go\n", True), (b"", False)):
        here = tmp_path / f"begun-{begun}"
        subprocess.run([*_GATE, "touch", str(here)], input=word, check=False)
        assert here.exists() is begun


def test_without_control_groups_resource_limits_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_bases", dict)
    fence = ResourceLimits(Limits(64 * MIB, 1000))
    with subprocess.Popen([*_GATE, "cat", "/proc/self/limits"], stdin=-1, stdout=-1) as process:
        fence.enclose(process.pid)
        out, _ = process.communicate(b"go\n")
    lines = {line[:26].strip(): line[26:].split() for line in out.decode().splitlines()}
    assert lines["Max address space"][:2] == [str(64 * MIB)] * 2
    assert int(lines["Max processes"][0]) > 1000  # those that run already are counted, too
    assert (fence.reached(), fence.pids()) == ("", set())


# --- finding groups ---

_V1 = """10:pids:/user/one
4:cpu,memory:/
0::/unseen
"""
_V1_MOUNTS = """30 24 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,cpu,memory
32 24 0:28 / /proc rw - proc proc rw
"""


def _proc(folder: Path, cgroup: str, mounts: str) -> Path:
    (folder / "cgroup").write_text(cgroup)
    (folder / "mountinfo").write_text(mounts)
    return folder


def test_groups_of_version_1_are_found_by_controller(tmp_path: Path) -> None:
    found = cgroups._own_groups(_proc(tmp_path, _V1, _V1_MOUNTS))
    assert {str(place.base) for place in found} == {"/sys/fs/cgroup/pids/user/one", "/sys/fs/cgroup/memory"}
    assert {name for place in found for name in place.controllers} >= {"memory", "pids"}


def test_a_group_outside_of_the_mounted_tree_is_not_used(tmp_path: Path) -> None:
    mounts = "30 24 0:26 /docker/one /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    assert cgroups._own_groups(_proc(tmp_path, "10:pids:/docker/two\n", mounts)) == []
    [place] = cgroups._own_groups(_proc(tmp_path, "10:pids:/docker/one/below\n", mounts))
    assert str(place.base) == "/sys/fs/cgroup/pids/below"


def test_a_group_of_version_2_at_the_top_is_used_and_its_processes_move_into_a_subgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = tmp_path / "cgroup fs".replace(" ", "-")
    mounted.mkdir()
    (mounted / "cgroup.controllers").write_text("cpu memory pids\n")
    (mounted / "cgroup.procs").write_text("71\n72\n")
    proc = _proc(tmp_path, "0::/\n", f"30 24 0:26 / {mounted} rw - cgroup2 cgroup2 rw\n")
    [place] = cgroups._own_groups(proc)
    assert (place.top, place.unified, place.base) == (True, True, mounted)
    written: list[tuple[str, str]] = []

    def write(file: Path, text: str) -> None:
        written.append((str(file.relative_to(mounted)), text))
        if file.name == "cgroup.subtree_control" and len(written) == 1:
            raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(cgroups, "write", write)
    assert cgroups._open(place) == mounted
    house = f"{cgroups.HOUSE}/cgroup.procs"
    enable = ("cgroup.subtree_control", "+memory +pids")
    assert written == [enable, (house, "71"), (house, "72"), enable]
    # Once there, the same base is found again.
    (mounted / cgroups.HOUSE / "cgroup.controllers").write_text("memory pids\n")
    (proc / "cgroup").write_text(f"0::/{cgroups.HOUSE}\n")
    [again] = cgroups._own_groups(proc)
    assert (again.top, again.base) == (True, mounted)
