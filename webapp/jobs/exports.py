"""A list of jobs as a file: CSV for spreadsheets, or one JSON object per line.

The CSV begins with a byte order mark, without which Excel reads UTF-8 wrongly. It has no formulas, and no cell that is
too long for Excel. Each read is a transaction of its own, for PAGE jobs or SEARCH_SECONDS. A job that moves between two
reads may be missing or appear twice.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import func, select

from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import job_detail, listing, settings
from webapp.jobs.filters import JobFilter
from webapp.lib.text import BYTE_ORDER_MARK

PAGE = 500  # jobs per read
CELL = 32_767  # characters that Excel takes in a cell; it spreads the rest over the next rows
CUT = " … [cut: see the JSON export]"
COLUMNS = (
    "id", "state", "queue", "requires", "priority", "command", "attempts", "max_retries", "timeout", "cwd",
    "created_at", "run_at", "started_at", "finished_at", "exit_code", "last_error",
    "batch",
)  # fmt: skip
# A spreadsheet reads a cell with such a first character as a formula, full-width forms included.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def pieces(kind: str, wanted: JobFilter, *, turned: bool = False, with_env: bool = False) -> Iterator[str]:
    """The matching jobs in list order, or with `turned` in the opposite order, as a file of this kind: csv or jsonl.

    Later jobs are left out, so that the export ends. Without `with_env`, for users who may not submit, environment
    variables are null; a CSV never has them.
    """
    if kind == "csv":
        yield BYTE_ORDER_MARK + _lines([COLUMNS])
    with reading() as session:
        highest, values = session.scalar(select(func.max(Job.seq))) or 0, settings.load(session)
    for page in listing.pages(wanted, PAGE, turned=turned, highest_seq=highest):
        jobs = [job_detail.job_json(job, values, with_env=with_env) for job in page.jobs]
        if jobs and kind == "csv":
            yield _lines([_cell(job[name]) for name in COLUMNS] for job in jobs)
        elif jobs:
            yield "".join(json.dumps(job, ensure_ascii=False) + "\n" for job in jobs)


def _cell(value: Any) -> Any:
    return short(safe(",".join(value) if isinstance(value, list) else value))


def safe(value: Any) -> Any:
    """The cell with an apostrophe in front if a spreadsheet would calculate it as a formula."""
    is_formula = isinstance(value, str) and (value.startswith(_FORMULA) or value.lstrip().startswith(_FORMULA))
    return f"'{value}" if is_formula else value


def short(value: Any) -> Any:
    """The cell, cut if Excel would not take it. It counts UTF-16 units."""
    if not isinstance(value, str) or len(value) * 2 <= CELL or len(units := value.encode("utf-16-le")) <= CELL * 2:
        return value
    return units[: (CELL - len(CUT)) * 2].decode("utf-16-le", errors="ignore") + CUT


def _lines(rows: Iterable[Iterable[Any]]) -> str:
    """RFC 4180: cells with a comma, quote or line break are quoted; lines end with CR LF."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
