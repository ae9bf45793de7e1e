"""Why the jobs of a page wait: the limit that holds a pending job back, the parents of a blocked one."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from flask import Flask
from sqlalchemy import event, text

from tests.factories import change_job, make_job
from webapp.core import job_spec
from webapp.core.flow.limits import OF_QUEUE
from webapp.db.engines import reading, writing
from webapp.db.models import Job
from webapp.jobs import actions
from webapp.jobs.flow import chains, limit_use, limits
from webapp.lib import clock

ANA = "person:ana"
pytestmark = pytest.mark.postgresql


def submit(*jobs: Mapping[str, object]) -> None:
    actions.enqueue([job_spec.parse({"command": "true", **job}) for job in jobs], ANA)


def reasons() -> dict[str, str]:
    """The short reasons of all jobs, by id."""
    with reading() as session:
        jobs = {job.seq: job for job in session.query(Job)}
        blocks = limit_use.blocks(session, jobs.values())
        unmet = chains.waiting_of_each(session, jobs.values())
        short = {seq: block.short for seq, block in blocks.items()}
        short.update((seq, one.short) for seq, one in unmet.items())
        return {jobs[seq].id: words for seq, words in short.items()}


def test_a_list_names_the_limit_that_holds_a_job_back(app: Flask) -> None:
    for key, most, rate in (
        ("off", 0, None), ("db", 1, None), ("disk", 9, None), ("mail-*", None, "2/h"), (f"{OF_QUEUE}slow", 1, None),
    ):  # fmt: skip
        limits.set_limit(key, most, rate, None, ANA)
    make_job("processing", id="runs", limits="db,disk", queue="slow")
    with writing() as session:
        for number in (1, 2):
            values = {"number": number, "now": clock.now()}
            session.execute(text("INSERT INTO limit_starts VALUES ('mail-1', :number, :now)"), values)
    for job_id, keys in {"zero": "off", "full": "db", "alone": "disk:exclusive", "late": "mail-1"}.items():
        make_job(id=job_id, limits=keys)
    make_job(id="free", limits="disk,mail-2")
    make_job(id="second", queue="slow")
    make_job(id="ordinary")
    assert reasons() == {
        "zero": "limit off is 0",
        "full": "limit db full",
        "alone": "limit disk exclusive",
        "late": "limit mail-1 2/h",
        "second": "limit queue slow full",
    }


def test_a_list_names_the_parents_that_a_blocked_job_waits_for(app: Flask) -> None:
    many = [f"p{number:02}" for number in range(chains.FEW + 5)]
    submit(*({"id": one} for one in ("a", "b", "gone", *many)))
    submit(
        {"id": "one", "after": ["a"]},
        {"id": "two", "after": ["a", "b"]},
        {"id": "orphan", "after": ["a", "gone"]},
        {"id": "all", "after": many},
    )
    change_job("b", state="dead", finished_at=clock.now())
    with writing() as session:
        session.execute(text("DELETE FROM jobs WHERE id = 'gone'"))
    assert reasons() == {
        "one": "after a",
        "two": "parent dead: b",
        "orphan": "parent discarded: gone",
        "all": f"after p00 and {chains.SHOWN - 1}+ more",
    }


def test_the_reasons_of_a_page_cost_four_statements(app: Flask) -> None:
    limits.set_limit("key-*", 9, "5/h", None, ANA)
    submit({"id": "a"}, *({"limits": f"key-{number}"} for number in range(5)))
    submit(*({"after": ["a"]} for _ in range(5)))
    statements: list[str] = []
    with reading() as session:
        jobs = session.query(Job).all()
        event.listen(session.connection(), "before_cursor_execute", lambda *given: statements.append(given[2]))
        limit_use.blocks(session, jobs)
        chains.waiting_of_each(session, jobs)
    assert len(statements) == 4
