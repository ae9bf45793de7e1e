"""The audit trail as a page and as a file: actor, action, source, values before and after.

The page shows the newest first. The file has the oldest first, as JSON Lines, with the same filter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from webapp.console.display import times
from webapp.console.frame import htmx
from webapp.console.frame.params import attachment, id_before, streamed, with_query
from webapp.console.frame.person import needs
from webapp.db import audit
from webapp.db.engines import reading
from webapp.db.models import Audit
from webapp.lib import clock

pages = Blueprint("audit", __name__)

PAGE = 50  # rows
FIELDS = ("actor", "verb", "subject", "outcome", "since")
_MOMENT = re.compile(r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{6}Z\Z", re.ASCII)  # as `clock.to_iso` writes


class Change(NamedTuple):
    """One changed value; None on a side that had none."""

    name: str
    before: Optional[str]
    after: Optional[str]


def changes(detail: Optional[str]) -> list[Change]:
    """The detail of a row as changes. Keys other than `before` and `after` count as after."""
    values = json.loads(detail) if detail else {}
    if not isinstance(values, dict):
        return [Change("", None, _text(values))]
    before, after = _as_mapping(values.pop("before", {})), _as_mapping(values.pop("after", {}))
    after = {**after, **values}
    names = dict.fromkeys((*before, *after))
    return [Change(name, _side(before, name), _side(after, name)) for name in names]


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {"": value}


def _side(values: Mapping[str, Any], name: str) -> Optional[str]:
    return _text(values[name]) if name in values else None


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items() if one is not None) or "all"
    if not isinstance(value, str):
        return json.dumps(value)
    if _MOMENT.match(value):
        with suppress(ValueError):  # only looks like a time
            return times.brief(clock.parse_iso(value))
    return value


@dataclass
class Asked:
    """The filter form and the filter. `problem` is the error of the time."""

    typed: dict[str, str]
    wanted: audit.AuditFilter
    problem: str = ""

    @classmethod
    def read(cls, sent: Mapping[str, str]) -> Asked:
        typed = {name: sent.get(name, "").strip()[:200] for name in FIELDS}
        since, problem = None, ""
        if typed["since"]:
            try:
                since = clock.parse_iso(times.parse_form(typed["since"]))
            except ValueError as error:
                problem = str(error)
        actor = audit.actor_named(typed["actor"])
        return cls(typed, audit.AuditFilter(actor, typed["verb"], typed["subject"], typed["outcome"], since), problem)

    def url(self, endpoint: str = "audit.index", **more: Any) -> str:
        return with_query(url_for(endpoint), {**self.typed, **more})


@pages.get("/audit")
@needs("admin")
def index() -> ResponseReturnValue:
    asked, before = Asked.read(request.args), id_before()
    rows: list[Audit] = []
    newer = None
    with reading() as session:
        if not asked.problem:
            rows = audit.page(session, asked.wanted, before=before, limit=PAGE + 1)
            newer = audit.newer_than(session, asked.wanted, before, limit=PAGE) if before is not None else None
    older = asked.url(before=rows[PAGE - 1].id) if len(rows) > PAGE else None
    page = htmx.form_page(
        "audit/page.html",
        asked=asked,
        rows=[(row, changes(row.detail)) for row in rows[:PAGE]],
        newer=("Newer", asked.url(before=newer or "")) if before is not None else None,
        older=("Older", older) if older else None,
        top=asked.url() if newer is not None else None,
    )
    return page, 422 if asked.problem else 200


@pages.get("/audit.jsonl")
@needs("admin")
def export() -> ResponseReturnValue:
    """All matching entries as a file of any length."""
    asked = Asked.read(request.args)
    if asked.problem:
        abort(400, asked.problem)
    lines = (
        "".join(json.dumps(audit.as_json(row), ensure_ascii=False) + "\n" for row in rows)
        for rows in audit.export(asked.wanted)
    )
    name = f"queuectl-audit-{times.local(clock.now()):%Y-%m-%d}.jsonl"
    return attachment(streamed(lines), "application/jsonl; charset=utf-8", name)
