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

from webapp.core import statements
from webapp.core.labels import LabelSet
from webapp.db.engines import is_sqlite


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
        queues: only of these queues.
        labelled: without the label set of jobs that require nothing.
        not_in: without these queues.
        limit: the highest number of rows.
    """
    values: dict[str, Any] = {}
    statement, conditions, end = statements.WITH_BUSY, ["1 = 1"], ""
    if queues is not None:
        statement = statements.WITH_BUSY_IN.format(names=_names("queues"))
        values["queues"] = _list(queues)
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
