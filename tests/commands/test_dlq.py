"""`dlq`: list, retry and discard dead letters only."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.commands.conftest import Cli
from tests.factories import make_job, make_user
from webapp.db import failure_keys
from webapp.db.engines import reading, writing
from webapp.insight import failure_groups
from webapp.jobs import job_detail

pytestmark = pytest.mark.every_python


def states(*ids: str) -> list[str]:
    with reading() as session:
        jobs = [job_detail.find(session, id_) for id_ in ids]
    return ["gone" if job is None else job.state for job in jobs]


def test_the_list_has_only_dead_letters_with_their_errors(app: Flask, cli: Cli) -> None:
    make_job("dead", id="job1", last_error="exit code 3", command="make report")
    make_job("failed", id="job2")
    result = cli("dlq", "list")
    assert result.code == 0
    assert len(result.lines) == 2
    assert result.lines[1].split()[0] == "job1"
    assert "exit code 3" in result.lines[1]
    assert [job["id"] for job in cli("dlq", "list", "--json").json] == ["job1"]


def test_an_empty_list_is_a_message_for_users_and_an_array_for_programs(app: Flask, cli: Cli) -> None:
    result = cli("dlq", "list")
    assert (result.code, result.out, result.err) == (0, "", "No dead letters.\n")
    assert cli("dlq", "list", "--json").json == []


def test_retry_makes_a_dead_letter_pending(app: Flask, cli: Cli) -> None:
    make_job("dead", id="job1")
    result = cli("dlq", "retry", "job1")
    assert (result.code, result.out, result.err) == (0, "job1: requeued\n", "Undo: manage.py activity undo 1\n")
    assert states("job1") == ["pending"]


@pytest.mark.parametrize("verb", ["retry", "discard"])
def test_a_job_that_is_not_dead_is_refused_and_left_alone(app: Flask, cli: Cli, verb: str) -> None:
    make_job("completed", id="done")
    make_job("dead", id="job1")
    result = cli("dlq", verb, "done", "job1", "nope")
    assert result.code == 5
    assert [line.split(":")[0] for line in result.lines] == ["job1"]
    assert result.err.splitlines()[0].startswith("done: is completed; only dead letters")
    assert result.err.splitlines()[1] == "nope: no such job."
    assert states("done") == ["completed"]


def test_all_are_retried_at_once(app: Flask, cli: Cli) -> None:
    make_job("dead", id="a")
    make_job("dead", id="b")
    make_job("cancelled", id="c")
    result = cli("dlq", "retry", "--all")
    assert (result.code, result.err) == (
        0,
        "2 dead letters requeued. Undo: manage.py activity undo 1\n",
    )
    assert states("a", "b", "c") == ["pending", "pending", "cancelled"]


def test_discard_deletes_named_jobs_without_confirmation(app: Flask, cli: Cli) -> None:
    make_job("dead", id="a")
    assert cli("dlq", "discard", "a").code == 0
    assert states("a") == ["gone"]


@pytest.mark.parametrize("answer", [b"n\n", b""])
def test_discarding_all_needs_yes(app: Flask, cli: Cli, answer: bytes) -> None:
    make_job("dead", id="a")
    result = cli("dlq", "discard", "--all", stdin=answer)
    assert (result.code, result.out.strip()) == (1, "")  # click 8.1, of Python 3.9, writes a blank to stdout
    assert "Delete 1 dead letter with their output for good?" in result.err
    assert states("a") == ["dead"]


@pytest.mark.parametrize(("argv", "answer"), [(["--yes"], b""), ([], b"y\n")])
def test_with_yes_all_are_discarded(app: Flask, cli: Cli, argv: list[str], answer: bytes) -> None:
    make_job("dead", id="a")
    make_job(id="b")
    assert cli("dlq", "discard", "--all", *argv, stdin=answer).code == 0
    assert states("a", "b") == ["gone", "pending"]


@pytest.mark.parametrize("argv", [[], ["job1", "--all"]])
@pytest.mark.parametrize("verb", ["retry", "discard"])
def test_ids_and_all_exclude_each_other(cli: Cli, verb: str, argv: list[str]) -> None:
    result = cli("dlq", verb, *argv)
    assert (result.code, result.out) == (2, "")
    assert "--all" in result.err


def test_an_empty_dead_letter_queue_is_no_error(app: Flask, cli: Cli) -> None:
    for argv in (["retry", "--all"], ["discard", "--all"]):
        result = cli("dlq", *argv)
        assert (result.code, result.err) == (0, "No dead letters.\n")


# --- groups ----------------------------------------------------------------------------------------------------------


def test_groups_are_listed_open_ones_first(app: Flask, cli: Cli) -> None:
    make_user("ana", "operator")
    make_job("dead", error_key="aaa", last_error="exit code 3", command="make report")
    make_job("dead", error_key="bbb")
    make_job("dead", error_key="bbb")
    failure_groups.update("aaa", "person:ana", owner="ana")
    failure_groups.update("aaa", "person:ana", acknowledged=True)
    result = cli("dlq", "groups")
    assert [line.split()[:3] for line in result.lines[1:]] == [["bbb", "2", "open"], ["aaa", "1", "acknowledged"]]
    assert "exit code 3" in result.lines[2]
    found = cli("dlq", "groups", "--json").json
    assert [(one["key"], one["count"], one["open"], one["owner"]) for one in found] == [
        ("bbb", 2, True, None),
        ("aaa", 1, False, "ana"),
    ]
    assert cli("dlq", "groups", "--limit", "1").err == "Only the first 1 are shown, of 2. Use --limit to see more.\n"


def test_one_group_is_listed_retried_and_discarded(app: Flask, cli: Cli) -> None:
    for name, key in (("a", "one"), ("b", "one"), ("c", "two")):
        make_job("dead", id=name, error_key=key)
    assert {job["id"] for job in cli("dlq", "list", "--group", "one", "--json").json} == {"a", "b"}
    assert cli("dlq", "retry", "--group", "one").err.startswith("2 dead letters requeued.")
    assert states("a", "b", "c") == ["pending", "pending", "dead"]
    assert cli("dlq", "retry", "--group", "one").err == "No dead letters.\n"
    assert cli("dlq", "discard", "--group", "two", "--yes").code == 0
    assert states("c") == ["gone"]


def test_a_canary_runs_before_its_group(app: Flask, cli: Cli) -> None:
    for name, key in (("a", "one"), ("b", "one"), ("c", "two")):
        make_job("dead", id=name, error_key=key)
    assert cli("dlq", "retry", "--group", "one", "--canary").code == 0
    assert sorted(states("a", "b")) == ["dead", "pending"]
    assert states("c") == ["dead"]


def test_a_canary_of_several_jobs_runs_before_the_others(app: Flask, cli: Cli) -> None:
    for number in range(5):
        make_job("dead", id=f"job{number}")
    assert "--after works only with --canary" in cli("dlq", "retry", "--all", "--after", "3").err
    assert cli("dlq", "retry", "--all", "--canary", "--after", "2").code == 2
    assert cli("dlq", "retry", "--all", "--canary", "--after", "3").code == 0
    assert sorted(states(*(f"job{number}" for number in range(5)))) == ["dead"] * 2 + ["pending"] * 3


def test_a_group_of_an_earlier_version_is_named_with_its_key_now(app: Flask, cli: Cli) -> None:
    make_job("dead", id="a", error_key="one")
    with writing() as session:
        failure_keys.adopt(session.connection(), "old", "one")
    for argv in (["list"], ["retry"], ["discard", "--yes"]):
        result = cli("dlq", *argv, "--group", "old")
        assert (result.code, "is a part of group 'one' now" in result.err) == (4, True)
    assert cli("dlq", "note", "old", "they know").code == 0
    assert states("a") == ["dead"]


def test_a_group_gets_a_note_an_owner_and_an_acknowledgement(app: Flask, cli: Cli) -> None:
    make_user("ana", "operator")
    make_job("dead", error_key="one")
    assert cli("dlq", "note", "one", "they know", "--owner", "ana", "--acknowledge").err == "Saved.\n"
    (found,) = cli("dlq", "groups", "--json").json
    assert (found["note"], found["owner"], found["open"]) == ("they know", "ana", False)
    assert cli("dlq", "note", "one", "--reopen", "--owner", "").err == "Saved.\n"
    assert cli("dlq", "note", "one", "--reopen").err == "Nothing changed.\n"
    (found,) = cli("dlq", "groups", "--json").json
    assert (found["note"], found["owner"], found["open"]) == ("they know", None, True)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["one"], 2, "Give a text, --owner"),
        (["one", "--owner", "nobody"], 2, "The owner 'nobody' is not an active user"),
        (["two", "x"], 4, "dead letter group 'two' does not exist"),
    ],
)
def test_an_invalid_change_of_a_group_is_refused(app: Flask, cli: Cli, argv: list[str], code: int, words: str) -> None:
    make_job("dead", error_key="one")
    result = cli("dlq", "note", *argv)
    assert result.code == code
    assert words in result.err
