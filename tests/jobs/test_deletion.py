"""How many jobs one transaction deletes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests import factories
from webapp.db.engines import reading
from webapp.jobs import actions, deletion, lifecycle
from webapp.jobs.filters import JobFilter

pytestmark = pytest.mark.usefixtures("app")


@pytest.mark.parametrize(
    ("sizes", "number"), [([], 0), ([11], 0), ([10], 1), ([4, 6, 1], 2), ([4, 7, 1], 1), ([0] * 3, 3)]
)
def test_rows_fit_until_their_bytes_exceed_the_limit(
    monkeypatch: pytest.MonkeyPatch, sizes: Sequence[int], number: int
) -> None:
    monkeypatch.setattr(deletion, "BYTES", 10)
    assert deletion.number_that_fits(sizes) == number


def test_jobs_count_with_their_attempts_and_their_command() -> None:
    jobs = [factories.make_job("dead", command=f"echo {'x' * size}") for size in (10, 60_000, 10)]
    for job in jobs:
        for _ in range(2):
            factories.make_attempt(job, output=b"x" * 1_000_000)
    with reading() as session:
        assert deletion.first_that_fit(session, [job.seq for job in jobs]) == [jobs[0].seq, jobs[1].seq]
        assert deletion.first_that_fit(session, [-1]) == [-1]  # deleted by another: costs nothing
        assert deletion.first_that_fit(session, []) == []


def test_a_discard_of_all_jobs_runs_in_batches_limited_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "BYTES", 100_000)
    for size in (40_000, 40_000, 40_000, 300_000, 10, 10):
        factories.make_attempt(factories.make_job("dead"), output=b"x" * size)
    moved: list[int] = []

    def move(*args: Any, **options: Any) -> list[Any]:
        jobs = lifecycle.move(*args, **options)
        moved.append(len(jobs))
        return jobs

    monkeypatch.setattr(actions, "move", move)
    result = actions.apply("discard", JobFilter(state="dead"), "person:ana")
    assert (result.moved, result.skipped, result.done) == (6, 0, True)
    assert moved[:4] == [2, 1, 1, 2]
