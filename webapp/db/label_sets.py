"""The label sets that have pending jobs, read through a session.

The index for claims has a range for each label set. The statement reads one index entry for each of them, however many
jobs are pending and however many queues are empty.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Optional

from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from webapp.core.labels import LabelSet
from webapp.core.notices import SYSTEM_QUEUE
from webapp.db.engines import is_sqlite

# Label sets with pending jobs: each step reads the next entry of the index after all jobs of the last label set.
_NEXT_IN_QUEUE = """
        (SELECT seq FROM jobs AS later
         WHERE later.state = 'pending' AND later.queue = found.queue AND later.requires > found.requires
         ORDER BY later.requires LIMIT 1)"""
_WITH_BUSY = f"""
WITH RECURSIVE found (seq, queue, requires) AS (
    SELECT seq, queue, requires FROM (
        SELECT seq, queue, requires FROM jobs WHERE state = 'pending' ORDER BY queue, requires LIMIT 1) AS first
    UNION ALL
    SELECT jobs.seq, jobs.queue, jobs.requires FROM found JOIN jobs ON jobs.seq = coalesce({_NEXT_IN_QUEUE},
        (SELECT seq FROM jobs AS later WHERE later.state = 'pending' AND later.queue > found.queue
         ORDER BY later.queue, later.requires LIMIT 1)))
"""  # noqa: S608  every part is ours
# The same for some queues only; {names} selects them as `name`.
_WITH_BUSY_IN = f"""
WITH RECURSIVE found (seq, queue, requires) AS (
    SELECT jobs.seq, jobs.queue, jobs.requires FROM ({{names}}) AS named JOIN jobs ON jobs.seq =
        (SELECT seq FROM jobs AS earliest WHERE earliest.state = 'pending' AND earliest.queue = named.name
         ORDER BY earliest.requires LIMIT 1)
    UNION ALL
    SELECT jobs.seq, jobs.queue, jobs.requires FROM found JOIN jobs ON jobs.seq = {_NEXT_IN_QUEUE})
"""  # noqa: S608  every part is ours


def busy_label_sets(
    session: Session,
    queues: Optional[Sequence[str]] = None,
    *,
    labelled: bool = False,
    limit: Optional[int] = None,
) -> list[LabelSet]:
    """The label sets with pending jobs, sorted by queue and labels. For the arguments see `select_busy`."""
    rows = session.execute(select_busy("queue, requires", queues, labelled=labelled, limit=limit))
    return sorted((LabelSet(*row) for row in rows), key=lambda one: (one.queue, one.requires))


def select_busy(
    columns: str,
    queues: Optional[Sequence[str]] = None,
    *,
    labelled: bool = False,
    not_in: Sequence[str] = (),
    limit: Optional[int] = None,
) -> TextClause:
    """A SELECT with a row for each label set that has pending jobs; `columns` may use `found.queue`, `found.requires`.

    Args:
        queues: only of these queues; None: of all but SYSTEM_QUEUE.
        labelled: without the label set of jobs that require nothing.
        not_in: without these queues.
        limit: the highest number of rows.
    """
    values: dict[str, Any] = {}
    statement, conditions, end = _WITH_BUSY, ["1 = 1"], ""
    if queues is not None:
        statement = _WITH_BUSY_IN.format(names=_names("queues"))
        values["queues"] = _list(queues)
    else:
        conditions.append(f"found.queue <> '{SYSTEM_QUEUE}'")
    if labelled:
        conditions.append("found.requires <> ''")
    if not_in:
        conditions.append(f"found.queue NOT IN ({_names('not_in')})")
        values["not_in"] = _list(not_in)
    if limit is not None:
        end, values["limit"] = "LIMIT :limit", limit
    where = " AND ".join(conditions)
    return text(f"{statement} SELECT {columns} FROM found WHERE {where} {end}").bindparams(**values)  # noqa: S608


def _names(parameter: str) -> str:
    if is_sqlite():
        return f"SELECT value AS name FROM json_each(:{parameter})"  # noqa: S608  a name of ours
    return f"SELECT unnest(CAST(:{parameter} AS text[])) AS name"


def _list(names: Sequence[str]) -> Any:
    return json.dumps(list(names)) if is_sqlite() else list(names)
