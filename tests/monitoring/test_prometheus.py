"""Rules, dashboard and page about the figures, checked with the real promtool where it is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deadline import DEADLINE
from tests.factories import make_job
from webapp.config import CHECKOUT
from webapp.insight import job_counts
from webapp.web import metrics

RULES = CHECKOUT / "deploy" / "prometheus-rules.yml"
DASHBOARD = CHECKOUT / "deploy" / "grafana-dashboard.json"
PAGE = CHECKOUT / "docs" / "monitoring.md"
TESTS = Path(__file__).with_name("rules_test.yml")
NAME = re.compile(r"queuectl_[a-z_]+[a-z]")


@pytest.fixture
def promtool() -> str:
    """A machine without it fails in CI and skips elsewhere."""
    found = shutil.which("promtool")
    if found is not None:
        return found
    message = "promtool is not on this machine (Debian: apt install prometheus)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def run(*command: str, stdin: str = "") -> None:
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, timeout=DEADLINE, cwd=TESTS.parent
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def written() -> str:
    make_job(queue="mail")
    return metrics.exposition(job_counts.count(), requests={"2xx": 1})[0].decode()


def names_of(text: str) -> set[str]:
    """Names of metrics, those of a histogram without their ends."""
    return {re.sub(r"_(bucket|sum|count)\Z", "", name) for name in NAME.findall(text)}


def expressions() -> Iterator[str]:
    """The queries of the dashboard, with values for Grafana's variables."""

    def inside(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from ([value["expr"]] if "expr" in value else [])
            value = list(value.values())
        for one in value if isinstance(value, list) else []:
            yield from inside(one)

    for found in inside(json.loads(DASHBOARD.read_text())["panels"]):
        yield found.replace("$__rate_interval", "5m").replace("$instance", ".*")


@pytest.mark.usefixtures("sqlite_app")
def test_the_output_has_no_fault_that_promtool_knows(promtool: str) -> None:
    run(promtool, "check", "metrics", stdin=written())


def test_the_alert_rules_are_valid_and_fire_when_they_should(promtool: str) -> None:
    run(promtool, "check", "rules", str(RULES))
    run(promtool, "test", "rules", str(TESTS))


def test_every_alert_is_tested() -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    assert len(alerts) > 10
    assert alerts - set(re.findall(r'\{alertname="(\w+)"\}', TESTS.read_text())) == set()
    assert alerts - set(re.findall(r"`(Queuectl\w+)`", PAGE.read_text())) == set()


def test_the_queries_of_the_dashboard_are_valid(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": found} for number, found in enumerate(expressions())]
    assert len(rules) > 15
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    run(promtool, "check", "rules", str(tmp_path / "panels.yml"))


@pytest.mark.usefixtures("sqlite_app")
def test_rules_dashboard_and_page_name_the_figures_that_there_are() -> None:
    there = {line.split()[2] for line in written().splitlines() if line.startswith("# TYPE")}
    assert names_of(RULES.read_text()) - there == set()
    assert names_of("\n".join(expressions())) - there == set()
    assert names_of(TESTS.read_text()) - there == set()
    described = set(re.findall(r"^\| `(queuectl_\w+)", PAGE.read_text(), re.MULTILINE))
    assert described == there


def test_the_dashboard_has_panels_that_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
