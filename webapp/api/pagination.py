"""Pages of jobs for programs: an opaque cursor, and the `Link` header that has it in an address."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Optional
from urllib.parse import urlencode

from flask import Response, request
from sqlalchemy.orm import Session

from webapp.api.problems import one_field
from webapp.api.request_body import answer
from webapp.api.scopes import caller
from webapp.db.engines import reading
from webapp.jobs import job_detail, listing, settings
from webapp.jobs.filters import JobFilter

WRONG = "is no cursor of this list. Take the one of an answer, or begin without."


def page(wanted: JobFilter, limit: int, cursor: Optional[str]) -> Response:
    """A page of the list, in the order of its state, with the cursors of the next and the previous one."""
    ways = _read(cursor, wanted) if cursor is not None else {}
    with reading() as session:
        try:
            found = listing.page_of_jobs(
                session, wanted, limit=limit, before=ways.get("before"), after=ways.get("after")
            )
        except ValueError:
            raise one_field("cursor", WRONG) from None
        jobs = shown(session, found)
    after, before = _write("after", found.older, wanted), _write("before", found.newer, wanted)
    links = [f'<{_address(key)}>; rel="{rel}"' for key, rel in ((after, "next"), (before, "prev")) if key]
    value = {"jobs": jobs, "next": after, "previous": before, "search_capped": found.search_capped}
    return answer(value, headers={"Link": ", ".join(links)} if links else None)


def shown(session: Session, found: listing.Page) -> list[dict[str, Any]]:
    values, with_env = settings.load(session), caller().may("submit")
    return [job_detail.job_json(job, values, with_env=with_env) for job in found.jobs]


def _write(way: str, key: Optional[str], wanted: JobFilter) -> Optional[str]:
    if key is None:
        return None
    text = json.dumps([way, wanted.state or "", key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read(cursor: str, wanted: JobFilter) -> dict[str, str]:
    """A cursor belongs to one state's list: the others are sorted otherwise."""
    try:
        data = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        way, state, key = data
    except (ValueError, TypeError, binascii.Error, RecursionError):
        raise one_field("cursor", WRONG) from None
    if way not in ("after", "before") or state != (wanted.state or "") or not isinstance(key, str):
        raise one_field("cursor", WRONG)
    return {way: key}


def _address(cursor: str) -> str:
    parameters = {name: value for name, value in request.args.items() if name != "cursor"}
    return f"{request.path}?{urlencode({**parameters, 'cursor': cursor})}"
