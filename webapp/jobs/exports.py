"""A list of jobs as a file: CSV that no spreadsheet takes for formulas, or a JSON object a line.

Read by read: each is a transaction of its own that takes PAGE jobs, or looks through SEARCH_CAP rows for them. What is
moved in between may be missing, or be told twice, as it was each time.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import func, select

from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail, listing, settings
from webapp.jobs.filters import JobFilter

PAGE = 500  # jobs of one read
COLUMNS = (
    "id", "state", "queue", "requires", "priority", "command", "attempts", "max_retries", "timeout", "cwd",
    "created_at", "run_at", "started_at", "finished_at", "exit_code", "last_error",
    "batch",
)  # fmt: skip
# What makes a spreadsheet take a cell for a formula, also in the full-width forms of Japanese keyboards.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


@dataclass(frozen=True)
class JobList:
    """The jobs that match, in the order of their list or, `turned`, in the opposite one.

    Without `with_env`, for readers who may not submit, variables have null for a value; a CSV never has them.
    """

    wanted: JobFilter
    turned: bool = False
    with_env: bool = False

    def file(self, kind: str) -> Iterator[str]:
        """The file in pieces: `csv`, or `jsonl`."""
        return self._csv() if kind == "csv" else self._json_lines()

    def _csv(self) -> Iterator[str]:
        yield _line(COLUMNS)
        for jobs in self._reads():
            yield "".join(_line([_cell(job[name]) for name in COLUMNS]) for job in jobs)

    def _json_lines(self) -> Iterator[str]:
        for jobs in self._reads():
            yield "".join(json.dumps(job, ensure_ascii=False) + "\n" for job in jobs)

    def _reads(self) -> Iterator[list[dict[str, Any]]]:
        """Jobs as `story.job_json` has them. Those that come after the beginning are left out: it must have an end."""
        after: Optional[str] = None
        with reading() as session:
            highest = session.scalar(select(func.max(Job.seq))) or 0
        while True:
            with reading() as session:
                values = settings.load(session)
                page = listing.page_of_jobs(
                    session, self.wanted, limit=PAGE, after=after, turned=self.turned, highest_seq=highest
                )
                jobs = [job_detail.job_json(job, values, with_env=self.with_env) for job in page.jobs]
            if jobs:
                yield jobs
            after = page.older
            if after is None:
                return


def _cell(value: Any) -> Any:
    return safe(",".join(value) if isinstance(value, list) else value)


def safe(value: Any) -> Any:
    """A cell that a spreadsheet shows and does not reckon: a text that looks like a formula gets an apostrophe."""
    if isinstance(value, str) and (value.startswith(_FORMULA) or value.lstrip().startswith(_FORMULA)):
        return "'" + value
    return value


def _line(cells: Any) -> str:
    """RFC 4180: what has a comma, a quote or a line's end stands in quotes; lines end with CR LF."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()
