"""Retry rules: how people write them, which one decides, and how long a retry waits."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from webapp.core import job_spec
from webapp.core.flow import retry_rules
from webapp.core.flow.retry_rules import Failed, RetryRules, Rule
from webapp.core.job_spec import SpecError
from webapp.core.settings import Settings

LINES = [
    "exit 75, 100-110: wait",
    "signal KILL, SEGV: retry",
    r"output HTTP 5\d\d: bad: bury",
    "any: success",
    "backoff linear 10s cap 10m jitter 0.1",
]
SETTINGS = Settings({"backoff_base": "3", "backoff_max": "100", "backoff_jitter": "0"})


def failed(code: Optional[int] = None, number: Optional[int] = None, output: str = "", reason: str = "exit") -> Failed:
    return Failed(reason, code, number, output)


def test_lines_and_json_mean_the_same() -> None:
    rules = retry_rules.parse(LINES)
    assert rules.lines == LINES
    assert rules.as_json["rules"][0] == {"exit": [75, "100-110"], "do": "wait"}
    text = retry_rules.read("\n".join(LINES))
    assert retry_rules.stored(text) == retry_rules.parse(rules.as_json) == rules
    assert retry_rules.read("") is None
    assert retry_rules.stored("{no json") == RetryRules()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "expected rules, such as"),
        ("later", "'later' is not a rule"),
        ("{", "is not valid JSON"),
        ({"rule": []}, "'rule' is not a known key. Known keys: rules, backoff"),
        ({"rules": {}, "backoff": 5}, "backoff: 5 is not allowed"),
        ({"rules": [{"do": "retry"}] * 21}, "at most 20 rules"),
        ({"rules": [{"exit": [1], "signal": [9], "do": "bury"}]}, "rule 1: has exit and signal"),
        ({"rules": [{"exit": [True], "do": "bury"}]}, "rule 1: exit: true is not an exit code"),
        ("exit 0: success", "exit: 0 is not an exit code above 0"),
        ("exit 9-3: bury", "'9-3' is not an exit code"),
        ("\n".join(["output (ab|c){90}: bury"] * 3), "all patterns together repeat too much"),
        ({"rules": [{"do": []}]}, r"rule 1: \[\] is not an action"),
        ("exit 1: stop", "rule 1: 'stop' is not an action; expected retry, wait, bury, success"),
        ("signal STOPP: bury", "signal: 'STOPP' is not a signal"),
        ("output (a: bury", r"rule 1: output: the pattern has a \( without its \)"),
        ("any: bury\nexit 1: retry", "rule 2 comes after a rule for any failure"),
        ("backoff often 1s", "backoff: 'often' is not a kind"),
        ("backoff fixed", "backoff: base null is not allowed"),
        ("backoff fixed 10s cap 5s", "backoff: cap is less than base"),
        ("backoff fixed 10s jitter 2", "jitter 2.0 is not allowed"),
        ("backoff fixed 10s jitter", "'jitter' has no value"),
        ("backoff fixed 1s\nbackoff fixed 2s", "two lines with a backoff"),
    ],
)
def test_a_wrong_rule_is_refused_with_what_is_wrong(value: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message) as error:
        job_spec.parse({"command": "true", "retry": value})
    assert error.value.errors[0].field == "retry"


@pytest.mark.parametrize(
    ("attempt", "line"),
    [
        (failed(75), "exit 75: wait"),
        (failed(105), "exit 100-110: bury"),
        (failed(99), None),
        (failed(75, reason="timeout"), None),
        (failed(None, 9, reason="signal"), "signal KILL: retry"),
        (failed(None, 9, reason="memory"), None),
        (failed(1, output="one\nconnection refused\n"), "output refused: success"),
        (failed(1, output="refused\n" + "later\n" * 20), None),
        (failed(75, output="refused"), "exit 75: wait"),
    ],
)
def test_the_first_rule_that_matches_decides(attempt: Failed, line: Optional[str]) -> None:
    lines = ["exit 75: wait", "exit 100-110: bury", "signal KILL: retry", "output refused: success"]
    found = retry_rules.decide(retry_rules.parse(lines), attempt)
    assert (None if found is None else found.text) == line


@pytest.mark.parametrize(
    ("line", "waits"),
    [
        ("backoff fixed 5s", [5, 5, 5]),
        ("backoff linear 5s", [5, 10, 15]),
        ("backoff exponential 5s cap 18s", [5, 10, 18]),
        ("exit 1: retry", [3, 9, 27]),
    ],
)
def test_a_backoff_of_its_own_replaces_the_setting(line: str, waits: list[float]) -> None:
    rules = retry_rules.parse(line)
    assert [retry_rules.delay(rules, failures, SETTINGS, 0.5) for failures in (1, 2, 3)] == pytest.approx(waits)
    assert retry_rules.delay(retry_rules.parse("backoff fixed 5s jitter 1"), 1, SETTINGS, 0.5) == 7.5
    assert retry_rules.delay(retry_rules.parse("backoff exponential 5s"), 2000, SETTINGS, 0) == 100


def test_the_time_that_a_command_reports_counts_unless_a_rule_says_retry() -> None:
    def wait(do: Optional[str], told: Optional[float]) -> float:
        rule = None if do is None else Rule("any", (), do)
        return retry_rules.wait_of(RetryRules(), rule, 1, SETTINGS, 0, told)

    assert wait(None, 50) == wait("wait", 50) == 50
    assert wait("wait", 1e9) == retry_rules.MAX_WAIT
    assert wait("retry", 50) == wait("wait", None) == pytest.approx(3)
