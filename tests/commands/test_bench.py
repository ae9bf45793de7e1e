"""`bench`: its output for users and programs, and that it leaves nothing behind, however it ends."""

from __future__ import annotations

import signal
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

import psutil
import pytest

from tests.bench import SECTIONS, Bench, BenchError, whole_run
from tests.bench.rounds import Row, plain_row, ratio_row
from tests.bench.scratch import MARK
from tests.commands.conftest import Cli, Processes
from tests.deadline import DEADLINE


@pytest.fixture(autouse=True)
def scratch_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for scratch folders."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace measurements by fixed rows; collect the names of the requested sections."""
    names: list[str] = []

    def measure(run: Bench, name: str, *, quick: bool) -> list[Row]:
        names.append(name)
        run.say(f"measuring {name}")
        run.left_out.append("the moon: it is too far.")
        return [
            ratio_row("drain.2x4.durable", [4000.0, 4100.0], [2600.0, 2650.0], "jobs/s", note="CPU 300 µs a job"),
            ratio_row("drain.2x4", [4000.0, 8000.0], [2600.0, 5200.0], "jobs/s"),
            plain_row("idle.pss", [72.5], parts={"maintenance": 20.0}),
            plain_row("start.warm", [1.25]),
        ]

    monkeypatch.setattr(whole_run, "measure", measure)
    return names


def test_the_table_has_value_spread_goal_and_result(cli: Cli, measured: list[str]) -> None:
    result = cli("bench", "drain", "--quick")
    assert result.code == 0, result.err
    assert measured == ["drain"]
    assert result.lines[2].split() == ["FIGURE", "VALUE", "LEAST", "GREATEST", "OURS", "LIMIT", "GOAL", "RESULT"]
    met, noisy, missed, without = (" ".join(line.split()) for line in result.lines[3:7])
    assert met.endswith("0.648 x 0.646 0.65 2,625 jobs/s 4,050 jobs/s ≥ 0.55 met")
    assert noisy.endswith("too noisy")
    assert missed.endswith("72.5 MiB 72.5 72.5 ≤ 50 missed")
    assert without.endswith("1.25 s 1.25 1.25")
    assert "CPU 300 µs a job." in result.out
    assert "--slots 4: too noisy to quote, the limit moved by 67% between rounds." in result.out
    assert "Not measured: the moon: it is too far." in result.out
    assert "Tiny sizes" in result.out


def test_progress_goes_to_stderr(cli: Cli, measured: list[str]) -> None:
    result = cli("bench", "drain", "--quick", "--json")
    assert result.err == "measuring drain\n"
    assert result.json["rows"]


def test_json_has_each_round_and_why_a_figure_is_too_noisy(cli: Cli, measured: list[str]) -> None:
    found = cli("bench", "drain", "--quick", "--rounds", "2", "--json").json
    assert (found["rounds"], found["quick"], found["left_out"]) == (2, True, ["the moon: it is too far."])
    met, noisy, missed, without = found["rows"]
    assert met["rounds"][0] == {"limit": 4000.0, "ours": 2600.0, "ratio": 0.65}
    judged = (met["key"], met["goal"], met["met"], met["too_noisy"])
    assert judged == ("drain.2x4.durable", {"at_least": 0.55}, True, None)
    assert noisy["too_noisy"] == "the limit moved by 67% between rounds"
    assert (missed["met"], missed["parts"]) == (False, {"maintenance": 20.0})
    assert (without["goal"], without["met"]) == (None, None)


def test_without_a_section_all_are_measured_in_order(cli: Cli, measured: list[str]) -> None:
    assert cli("bench", "--quick").code == 0
    assert measured == [name for name in SECTIONS if name != "postgresql"]  # there is no server
    measured.clear()
    cli("bench", "start", "drain", "start", "--quick")
    assert measured == ["drain", "start"]


def test_the_machine_is_described_without_its_name_or_a_path(cli: Cli, measured: list[str], scratch_here: Path) -> None:
    result = cli("bench", "drain", "--quick")
    assert "cpus" in result.lines[0]
    assert "file system" in result.lines[0]
    assert str(scratch_here.parent) not in result.out + result.err
    assert socket.gethostname() not in result.out + result.err


def test_an_unknown_section_is_refused_with_the_known_ones(cli: Cli) -> None:
    result = cli("bench", "brain")
    assert result.code == 2
    assert "'brain' is not one of" in result.err
    assert "'drain'" in result.err


def test_a_failed_section_is_reported_beside_the_results_of_the_others(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(run: Bench, name: str, *, quick: bool) -> list[Row]:
        if name == "slots":
            raise BenchError("the workers did not start.")
        return [plain_row("start.warm", [1.25])]

    monkeypatch.setattr(whole_run, "measure", measure)
    result = cli("bench", "slots", "start", "--quick")
    assert result.code == 1
    assert "Not measured: slots: the workers did not start." in result.out
    assert "1.25 s" in result.out


def test_without_a_server_its_section_is_skipped_unless_it_was_named(cli: Cli, measured: list[str]) -> None:
    words = "Not measured: postgresql: name a PostgreSQL in which databases may be made in QUEUECTL_BENCH_POSTGRES"
    result = cli("bench", "--quick")
    assert (result.code, words in result.out) == (0, True)


def test_without_a_server_a_named_section_fails_in_one_line(cli: Cli) -> None:
    result = cli("bench", "postgresql", "--quick")
    words = "Not measured: postgresql: name a PostgreSQL in which databases may be made in QUEUECTL_BENCH_POSTGRES"
    assert (result.code, words in result.out) == (1, True)


def test_the_help_has_the_sections(cli: Cli) -> None:
    result = cli("bench", "--help")
    assert all(f"  {name:<10}  {what}\n" in result.out for name, what in SECTIONS.items())


@pytest.mark.full
def test_a_real_run_prints_its_measurements_and_leaves_nothing_behind(processes: Processes, scratch_here: Path) -> None:
    result = processes.run("bench", "cli", "--quick", "--rounds", "1")
    assert result.code == 0, result.err
    assert "`manage.py enqueue`, of a bare Python's durable INSERT" in result.out
    assert list(scratch_here.iterdir()) == []


def draining(folder: Path) -> list[psutil.Process]:
    """Processes of a benchmark that drain a home in this folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mine = str(folder) in process.environ().get("QUEUECTL_HOME", "")
            if mine and MARK in process.environ() and "--drain" in process.cmdline():
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.full)]
)
def test_an_interrupted_run_leaves_nothing_behind(
    processes: Processes, scratch_here: Path, eventually: Callable[..., Any], number: int, code: int
) -> None:
    process = processes.start("bench", "slots", "--quick")
    workers = eventually(lambda: draining(scratch_here))
    process.send_signal(number)
    assert process.wait(DEADLINE) == code
    psutil.wait_procs(workers, timeout=DEADLINE)
    assert draining(scratch_here) == []
    assert list(scratch_here.iterdir()) == []
