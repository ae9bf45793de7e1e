"""`activity`: actions on jobs, undo and stop; and the canary of `dlq retry`."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from tests.commands.test_dlq import states
from tests.factories import change_job, make_job

pytestmark = pytest.mark.every_python


@pytest.mark.parametrize(
    ("argv", "before"),
    [(["cancel"], "pending"), (["run-now"], "failed"), (["dlq", "retry"], "dead"), (["dlq", "discard"], "dead")],
)
def test_an_action_on_named_jobs_can_be_undone_unless_they_are_gone(
    app: Flask, cli: Cli, argv: list[str], before: str
) -> None:
    make_job(before, id="a")
    told = cli(*argv, "a", "nope", "--json")
    answer = told.json
    assert told.code == 4
    assert answer == {
        "moved": ["a"],
        "asked": [],
        "refused": [{"id": "nope", "state": None, "holder": None}],
        "action": 1,
    }
    undone = cli("activity", "undo", "1")
    gone = argv == ["dlq", "discard"]
    assert (undone.code, states("a")) == ((5, ["gone"]) if gone else (0, [before]))
    assert cli(*argv, "nope", "--json").json["action"] is None


def test_an_action_on_all_jobs_is_reported_as_json(app: Flask, cli: Cli) -> None:
    for name in "ab":
        make_job("dead", id=name)
    begun = cli("dlq", "retry", "--all", "--canary", "--json").json
    assert (begun["action"], begun["act"]["id"], begun["act"]["state"]) == (1, 1, "waiting")
    done = cli("dlq", "retry", "--all", "--json").json
    assert (done["action"], done["act"]["moved"], done["act"]["state"]) == (2, 1, "done")


def test_a_dlq_retry_can_be_undone_with_the_command_in_its_answer(app: Flask, cli: Cli) -> None:
    make_job("dead", id="a")
    make_job("dead", id="b")
    told = cli("dlq", "retry", "--all")
    command = told.err.strip().rpartition("manage.py ")[2].split()
    assert command[:2] == ["activity", "undo"]
    change_job("a", attempts=2)
    assert cli(*command).out == "1 job restored\n"
    assert states("a", "b") == ["pending", "dead"]
    again = cli(*command)
    assert (again.code, again.out) == (5, "")
    assert "Nothing to undo" in again.err


def test_actions_are_listed_newest_first(app: Flask, cli: Cli) -> None:
    assert cli("activity", "list").err == "No bulk actions yet.\n"
    make_job("dead", id="a")
    cli("dlq", "retry", "--all")
    cli("activity", "undo", "1")
    lines = cli("activity", "list").lines
    assert [line.split()[1] for line in lines[1:]] == ["undo", "requeue"]
    assert "all dead jobs" in lines[2]
    newest, first = cli("activity", "list", "--json").json
    assert (newest["undoes"], first["state"], first["moved"]) == (first["id"], "done", 1)


def test_a_canary_runs_first_and_can_be_stopped(app: Flask, cli: Cli) -> None:
    make_job("dead", id="a", finished_at=1)
    make_job("dead", id="b")
    assert cli("dlq", "retry", "--all", "--canary").code == 0
    assert states("a", "b") == ["dead", "pending"]
    assert cli("activity", "stop", "1").out == "action 1: stopped\n"
    assert cli("activity", "stop", "1").code == 5


def test_an_unknown_action_is_reported(app: Flask, cli: Cli) -> None:
    assert "no such action: 7" in cli("activity", "undo", "7").err
    assert cli("dlq", "retry", "a", "--canary").code == 2
    assert "no dead letters match" in cli("dlq", "retry", "--all", "--canary").err
