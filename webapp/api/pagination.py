"""Pages of jobs, with opaque cursors and a `Link` header."""

from __future__ import annotations

import base64
import json
from typing import Optional
from urllib.parse import urlencode

from flask import Response, request

from webapp.api.gate import may
from webapp.api.problems import field_problem
from webapp.api.request_body import answer
from webapp.db.engines import reading
from webapp.jobs import job_detail, listing, settings
from webapp.jobs.filters import JobFilter

INVALID = "is not a cursor of this list; take one from a response, or omit it for the first page."


def page(wanted: JobFilter, limit: int, cursor: Optional[str]) -> Response:
    """A page of the list in the order of its state, with the cursors of the next and the previous page."""
    position = _decode(cursor, wanted) if cursor is not None else {}
    with reading() as session:
        try:
            found = listing.page_of_jobs(
                session, wanted, limit=limit, before=position.get("before"), after=position.get("after")
            )
        except ValueError:
            raise field_problem("cursor", INVALID) from None
        values, with_env = settings.load(session), may("submit")
        jobs = [job_detail.job_json(job, values, with_env=with_env) for job in found.jobs]
    after, before = _encode("after", found.older, wanted), _encode("before", found.newer, wanted)
    links = [f'<{_url(key)}>; rel="{rel}"' for key, rel in ((after, "next"), (before, "prev")) if key]
    value = {"jobs": jobs, "next": after, "previous": before, "search_capped": found.search_capped}
    return answer(value, headers={"Link": ", ".join(links)} if links else None)


def _encode(direction: str, key: Optional[str], wanted: JobFilter) -> Optional[str]:
    if key is None:
        return None
    text = json.dumps([direction, wanted.state or "", key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str, wanted: JobFilter) -> dict[str, str]:
    """A cursor is valid for lists of one state only, because each state has its own order."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        direction, state, key = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        raise field_problem("cursor", INVALID) from None
    if direction not in ("after", "before") or state != (wanted.state or "") or not isinstance(key, str):
        raise field_problem("cursor", INVALID)
    return {direction: key}


def _url(cursor: str) -> str:
    parameters = {name: value for name, value in request.args.items() if name != "cursor"}
    return f"{request.path}?{urlencode({**parameters, 'cursor': cursor})}"
