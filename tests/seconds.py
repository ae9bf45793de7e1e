"""The last table of a run: the number of tests and their seconds by folder."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import PurePath

import pytest


@dataclass
class Cost:
    tests: int = 0
    seconds: float = 0.0
    cpu: float = 0.0  # seconds of this process and of those that it has waited for


class SecondsByFolder:
    """Adds up what the tests' reports say, those from other processes of the run included."""

    def __init__(self) -> None:
        self._costs: dict[str, Cost] = defaultdict(Cost)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        item.stash[_BEGAN] = cpu_seconds()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = cpu_seconds()
        report.user_properties = [*report.user_properties, ("cpu", now - item.stash.get(_BEGAN, now))]
        item.stash[_BEGAN] = now
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        cost = self._costs[folder_of(report.nodeid)]
        cost.tests += report.when == "call" or (report.when == "setup" and report.outcome != "passed")
        cost.seconds += report.duration
        cost.cpu += sum(float(str(value)) for name, value in report.user_properties if name == "cpu")

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if len(self._costs) < 2:
            return
        terminalreporter.section("seconds by folder")
        total = Cost()
        terminalreporter.write_line(f"{'tests':>7}{'seconds':>10}{'of CPU':>10}")
        for name, cost in sorted(self._costs.items(), key=lambda pair: -pair[1].seconds):
            terminalreporter.write_line(line(cost, name))
            total = Cost(total.tests + cost.tests, total.seconds + cost.seconds, total.cpu + cost.cpu)
        terminalreporter.write_line(line(total, "all, by all processes"))


_BEGAN = pytest.StashKey[float]()


def line(cost: Cost, name: str) -> str:
    return f"{cost.tests:>7}{cost.seconds:>10.1f}{cost.cpu:>10.1f}  {name}"


def folder_of(nodeid: str) -> str:
    return str(PurePath(nodeid.partition("::")[0]).parent)


def cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
