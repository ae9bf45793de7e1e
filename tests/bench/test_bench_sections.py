"""Each section of the benchmark measures real work, in tiny sizes, and leaves no process behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests import bench
from tests.bench import SECTIONS, Bench, BenchError, growth, pool, scratch
from tests.bench.figures import FIGURES
from tests.bench.scratch import MARK, Scratch

pytestmark = pytest.mark.full


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scratch]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch.scratch() as made:
        yield made


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def run(place: Scratch, said: list[str]) -> Bench:
    return Bench(1, place, said.append)


def alive(place: Scratch) -> list[str]:
    """The names of the processes that carry this run's mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == place.environment()[MARK] and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
    return found


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "postgresql"])  # see test_bench_postgresql.py
def test_a_section_measures_all_its_figures(name: str, run: Bench, said: list[str]) -> None:
    rows = bench.measure(run, name, quick=True)
    assert said
    assert run.left_out == []
    assert all(row.rounds and row.value.median >= 0 for row in rows)
    assert [row.figure.key for row in rows if row.value.median == 0 and row.figure.key != "idle.cpu"] == []
    of_section = {"growth": ("growth.", "claim.")}.get(name, (f"{name}.",))
    wanted = {key for key in FIGURES if key.startswith(of_section) and not key.endswith(".most")}
    assert {row.figure.key for row in rows} == wanted
    assert [path for path in run.scratch.folder.iterdir() if path.name.startswith("home")] == []
    assert alive(run.scratch) == []


def test_ten_million_rows_are_measured_only_on_request(run: Bench) -> None:
    run.large = True
    rows = bench.measure(run, "growth", quick=True)
    assert {"growth.finished.most", "growth.pending.most", "growth.scheduled.most"} <= {row.figure.key for row in rows}


def test_the_required_space_is_that_of_the_largest_section() -> None:
    least = bench.space(["drain"], large=False)
    normal, large = (bench.space(["drain", "growth", "console"], large=large) for large in (False, True))
    assert least < normal < large
    assert normal == least + growth.space(growth.Sizes(), large=False)


def test_too_little_space_is_reported_before_anything_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    words = r"GiB free, and this run needs 1048576\.0\. Make room, or name another"
    with pytest.raises(BenchError, match=words), scratch.scratch(2**50):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_failure_ends_workers_and_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places = []

    def fail_while_a_command_runs() -> None:
        with scratch.scratch() as place:
            places.append(place)
            home = place.home()
            pool.fill(home, "sleep 100", 1)
            place.manage(home, "worker", "start")
            scratch.eventually("the command runs", lambda: "sleep" in alive(place))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_while_a_command_runs()
    assert alive(places[0]) == []
    assert list(tmp_path.iterdir()) == []


def test_a_failing_process_is_reported_with_its_last_output(place: Scratch) -> None:
    process = place.python("import sys; sys.exit('no such luck')")
    with pytest.raises(BenchError, match=r"(?s)it ended with 1\..*no such luck"):
        place.wait(process, within=20)


def test_a_drain_that_loses_a_job_is_not_measured(run: Bench) -> None:
    home = run.scratch.home()
    pool.fill(home, "true", 3)
    run.scratch.wait(run.scratch.manage(home, "worker", "start", "--drain"), within=60)
    assert pool.rate_of(home, 3) > 0
    with pytest.raises(BenchError, match=r"of 4 jobs 3 completed, with 3 attempts"):
        pool.rate_of(home, 4)


def test_processes_of_a_run_never_see_the_users_own_queue(place: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUECTL_DATABASE_URL", "postgresql://somewhere/else")
    monkeypatch.setenv("QUEUECTL_HOME", "/somewhere")
    environment = place.environment(place.home())
    assert environment["QUEUECTL_DATABASE_URL"] == ""
    assert environment["QUEUECTL_HOME"].startswith(str(place.folder))
