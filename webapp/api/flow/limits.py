"""Limits: set, list, get and remove them."""

from __future__ import annotations

from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, request_body
from webapp.api.gate import actor
from webapp.api.problems import field_problem
from webapp.api.routes import Noun
from webapp.core.flow import limits as rules
from webapp.db.engines import reading
from webapp.jobs.flow import limit_use, limits


class LimitRequest(Schema):
    """Describes a limit for the document; `jobs/limits.py` validates it."""

    example: ClassVar[Any] = {"max": 2, "rate": "10/min"}

    max = fields.optional(
        ma.Integer, "jobs that may run at a time; default: any number", minimum=0, maximum=rules.MOST_RUNNING
    )
    rate = fields.optional(
        ma.String, "jobs that may start within a period, such as 10/min, 100/h or 5/30s; default: any number"
    )
    note = fields.optional(ma.String, "what it is for", maxLength=limits.NOTE_LIMIT)


class Limit(fields.Answer):
    key = fields.text("the key; with a final * for each key that begins so; queue:NAME for all jobs of a queue")
    max = fields.integer("jobs that may run at a time; null: any number", null=True)
    rate = fields.text("jobs that may start within a period; null: any number", null=True)
    note = fields.text("what it is for", null=True)
    running = fields.integer("jobs that hold it now")
    holders = fields.strings("their ids, up to 20")
    waiting = fields.integer("pending jobs that name it")
    waiting_is_more = fields.boolean("whether there are more than `waiting`")
    keys = fields.integer("keys in use, of a pattern")
    opens_at = fields.time("when its rate allows the next start, if not now", null=True)
    changed_at = fields.time("when it was last changed")
    changed_by = fields.text("who changed it last")


class RemoveQuery(Schema):
    force = fields.choice("1: remove it although jobs name it; they continue without a limit on that key", ("1",))


Limits = fields.listing("Limits", Limit, "by key")

routes = Noun("Limits", "A limit sets how many jobs with a key may run at a time, or start within a period.")


@routes.on("GET", "/limits", {200: Limits}, scope="read")
def list_limits() -> Any:
    """List limits with the jobs that hold them."""
    with reading() as session:
        return {"limits": [view.json() for view in limit_use.views(session, limits.every(session))]}


@routes.on("GET", "/limits/<limit>", {200: Limit}, scope="read")
def get_limit(limit: str) -> Any:
    """Get one limit."""
    return _limit(limit)


@routes.on("PUT", "/limits/<limit>", {200: Limit}, scope="admin", body=LimitRequest)
def set_limit(limit: str) -> Any:
    """Create or replace a limit. Running jobs continue; the limit applies to jobs that start from now on."""
    given = request_body.raw()
    if not isinstance(given, dict):
        raise field_problem("", 'expected an object such as {"max": 2}.')
    unknown = sorted(set(given) - {"max", "rate", "note"})
    if unknown:
        raise field_problem(unknown[0][:60], "is not a known key. Known keys: max, rate, note.")
    limits.set_limit(limit, given.get("max"), given.get("rate"), given.get("note"), actor())
    return _limit(limit)


@routes.on("DELETE", "/limits/<limit>", {204: None}, scope="admin", query=RemoveQuery, errors=(409,))
def remove_limit(limit: str) -> Response:
    """Remove a limit. 409 while pending or running jobs name it, unless `force` is 1."""
    limits.remove_limit(limit, actor(), force=request_body.query(RemoveQuery).get("force") == "1")
    return Response(status=204)


def _limit(key: str) -> dict[str, Any]:
    with reading() as session:
        return limit_use.views(session, [limits.find(session, key)])[0].json()
