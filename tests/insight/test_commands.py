"""The runs of one command pattern: by hour, spread over the hours, and its last failures."""

from __future__ import annotations

import pytest

from tests.factories import make_attempt, make_job
from webapp.db.engines import reading
from webapp.insight import commands, rollups
from webapp.insight.commands import CommandView
from webapp.insight.rollups import REST
from webapp.insight.windows import RANGES
from webapp.lib import clock, histograms
from webapp.lib.clock import HOUR, MINUTE

SECOND = clock.SECOND
pytestmark = [pytest.mark.postgresql, pytest.mark.usefixtures("app")]


@pytest.fixture(autouse=True)
def _stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.now() // HOUR * HOUR + 30 * MINUTE
    monkeypatch.setattr(clock, "now", lambda: now)


def ended(command: str, ago: int, took: int = SECOND, state: str = "completed", queue: str = "default") -> None:
    at = clock.now() - ago
    job = make_job("completed", command=command, queue=queue, finished_at=at)
    make_attempt(job, 1, state, started_at=at - took, finished_at=at, due_at=at - took, error=f"error {ago}")


def seen(shape: str, over: str = "7d") -> CommandView:
    with reading() as session:
        return commands.view(session, shape, RANGES[over].window(clock.now()))


def fold() -> None:
    while rollups.fold():
        pass


@pytest.mark.parametrize("folds", [False, True])
def test_a_command_has_its_runs_durations_and_failures(folds: bool) -> None:
    for number in range(8):
        ended(f"/opt/x/report.sh --day {number}", number * 11 * HOUR, (number + 1) * SECOND)
    ended("report.sh --day 9", 2 * HOUR, 40 * SECOND, "failed", queue="other")
    ended("report.sh --month 9", 2 * HOUR)
    if folds:
        fold()
    view = seen("report.sh --day N")
    assert (view.total.completed, view.total.failed) == (8, 1)
    assert [run.failed for run in view.runs].count(True) == 1
    assert len(view.runs) == 9
    assert view.runs == sorted(view.runs, key=lambda run: run.finished_at)
    assert [run.error for run in view.failures] == [f"error {2 * HOUR}"]
    assert histograms.quantile(view.usual.durations, 0.5) == pytest.approx(5, rel=0.05)
    assert sum(one.ended for _, one in view.points) == 9
    assert seen("report.sh --day N", "24h").total.ended == 4


def test_a_command_beyond_the_kept_shapes_is_searched_in_the_whole_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "MAX_SHAPES", 1)
    for number in range(5):
        ended("often", (2 + number) * MINUTE)
    ended("rare", 3 * MINUTE)
    fold()
    view = seen("rare")
    assert view.total.ended == 0
    assert [run.seconds for run in view.runs] == [1.0]
    with reading() as session:
        found = commands.listing(session, RANGES["24h"].window(clock.now()))
    assert [(one.shape, one.runs) for one in found] == [("often", 5), (REST, 1)]


def test_only_some_runs_of_a_busy_command_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_POINTS", 4)
    monkeypatch.setattr(commands, "MAX_LOOK", 12)
    for number in range(12):
        ended("busy", number * 20 * MINUTE)
    view = seen("busy")
    assert view.total.ended == 12
    assert len(view.runs) == 4
    assert len({run.finished_at // HOUR for run in view.runs}) == 4, "spread over the hours"
