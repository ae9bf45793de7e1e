"""Failure evidence: the last output, the last success of the command, and the difference."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from tests.factories import make_attempt, make_job
from webapp.db.engines import reading, writing
from webapp.db.models import Job, OutputTail
from webapp.insight import failure_evidence
from webapp.lib import clock, text_diff

COMMAND = "import --shop 7"


def dead(output: bytes, *, tail: Optional[str] = None, **values: Any) -> Job:
    job = make_job("dead", command=COMMAND, **values)
    make_attempt(job, 1, output=output)
    if tail is not None:
        with writing() as session:
            session.add(OutputTail(job_seq=job.seq, text=tail))
    return job


def good(output: bytes, command: str = COMMAND, *, ago: float = 60) -> Job:
    job = make_job("completed", command=command, finished_at=clock.now() - clock.seconds(ago))
    make_attempt(job, 1, "completed", output=output)
    return job


def of(job: Job) -> failure_evidence.Evidence:
    with reading() as session:
        return failure_evidence.of(session, session.get_one(Job, job.seq))


def signs(lines: list[text_diff.Row]) -> list[str]:
    return [f"{line.sign} {line.text}".rstrip() for line in lines]


@pytest.mark.usefixtures("app")
def test_the_difference_from_the_last_success_is_shown_line_by_line() -> None:
    good(b"start\nold\n", ago=900)
    newest = good(b"\x1b[32mstart\x1b[0m at 9:00:01\nread 250 rows\nwrote 250 rows\n", ago=60)
    found = of(dead(b"start at 10:30:00\nread 251 rows\nerror: disk full\n", tail="error: disk full\n"))
    assert found.good is not None
    assert (found.good.job.id, found.good.attempt, found.good.alike) == (newest.id, 1, False)
    assert (found.attempt, found.tail) == (1, "error: disk full\n")
    assert signs(found.difference) == [
        "  start at 10:30:00",
        "  read 251 rows",
        "- wrote 250 rows",
        "+ error: disk full",
    ]


@pytest.mark.usefixtures("app")
def test_outputs_that_differ_only_in_numbers_paths_and_ids_are_the_same() -> None:
    good(b"12:00 wrote /tmp/a1 as 9f8e7d6c5b4a\n")
    assert of(dead(b"13:37 wrote /tmp/b2 as 0a1b2c3d4e5f\n\n")).difference == []


@pytest.mark.usefixtures("app")
def test_a_success_of_a_similar_command_is_used_if_there_is_none_of_the_same() -> None:
    good(b"x\n", "export --shop 7")
    alike = good(b"x\n", "import --shop 12")
    found = of(dead(b"x\n")).good
    assert found is not None
    assert (found.job.id, found.alike) == (alike.id, True)
    exact = good(b"x\n", ago=9000)
    found = of(dead(b"x\n")).good
    assert found is not None
    assert (found.job.id, found.alike) == (exact.id, False)


@pytest.mark.usefixtures("app")
def test_a_job_that_completed_before_is_compared_with_itself() -> None:
    good(b"x\n")
    job = make_job("dead", command=COMMAND, attempts=2)
    make_attempt(job, 1, "completed", output=b"fine\n")
    make_attempt(job, 2, output=b"not fine\n")
    found = of(job)
    assert found.good is not None
    assert (found.good.job.id, found.good.attempt, found.attempt) == (job.id, 1, 2)
    assert signs(found.difference) == ["- fine", "+ not fine"]


@pytest.mark.usefixtures("app")
def test_a_success_is_searched_only_among_the_newest_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_evidence, "COMPLETED_SAMPLE_SIZE", 3)
    good(b"x\n", ago=100)
    for number in range(3):
        good(b"x\n", f"other{'x' * number}", ago=number)
    assert of(dead(b"y\n")).good is None


@pytest.mark.usefixtures("app")
def test_without_attempts_or_a_success_there_is_nothing_to_compare() -> None:
    job = make_job("dead", command=COMMAND)
    found = of(job)
    assert (found.attempt, found.tail, found.good, found.difference) == (0, "", None, [])
    good(b"x\n")
    assert of(job).difference == []
    assert of(job).tail == ""


@pytest.mark.usefixtures("app")
def test_a_dead_letter_from_before_tails_were_kept_shows_the_end_of_its_output() -> None:
    assert of(dead(b"\x1b[31mred\x1b[0m\nlast\n")).tail == "red\nlast\n"


@pytest.mark.usefixtures("app")
def test_of_large_outputs_the_ends_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_evidence, "BYTES", 100)
    monkeypatch.setattr(failure_evidence, "GOOD_BYTES", 100)
    good(b"a first line\n" * 1000 + b"the end\n")
    found = of(dead(b"another first line\n" * 1000 + b"the end\n"))
    assert signs(found.difference)[-1] == "  the end"
    assert {line.text for line in found.difference} == {"a first line", "another first line", "the end"}


def test_many_lines_of_one_side_are_shortened_and_all_lines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"line {chr(97 + number)}" for number in range(20)]
    lines = signs(failure_evidence.difference([*words, "end"], ["end"]))
    assert lines[3:6] == ["- line d", "… 12 lines only in the last success", "- line q"]
    assert lines[-1] == "  end"
    monkeypatch.setattr(failure_evidence, "MAX_SHOWN_LINES", 4)
    assert signs(failure_evidence.difference([*words, "end"], ["end"]))[4:] == ["… 6 more lines"]


def test_equal_lines_are_left_out_except_around_differences() -> None:
    both = [chr(97 + number) * 3 for number in range(12)]
    assert signs(failure_evidence.difference([*both, "x"], [*both, "y"])) == [
        "… 9 equal lines",
        "  jjj",
        "  kkk",
        "  lll",
        "- x",
        "+ y",
    ]
