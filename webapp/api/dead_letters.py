"""Dead letters for programs: jobs that no retry will save, one by one and in groups of those that failed alike.

What is done here is done to dead ones alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, idempotency, pagination, request_body
from webapp.api.actions import EITHER, ActAnswer, Which, answer_of, matching, on_many
from webapp.api.jobs import LINKS, MOST_LISTED, JobPage, ListQuery
from webapp.api.problems import Problem, one_field
from webapp.api.routes import Noun
from webapp.api.scopes import actor, scope
from webapp.db.engines import reading
from webapp.insight import failure_groups
from webapp.jobs import canary, lifecycle, search
from webapp.lib import clock
from webapp.web import serializers


class DeadQuery(ListQuery):
    group = fields.name("only jobs of this group")


class GroupQuery(Schema):
    sort = fields.choice(
        "`last`: by the newest death; `count`: by size; open ones stand first", ("last", "count"), load_default="last"
    )
    page = fields.integer("from 1", 1, MOST_LISTED, load_default=1)
    limit = fields.integer("groups of a page", 1, 100, load_default=25)


class WhichDead(Which):
    example: ClassVar[Any] = {"all": True}

    group = fields.name("with all: only of this group")


class CanaryRequest(Schema):
    example: ClassVar[Any] = {"all": True, "queue": "mail"}

    all = ma.Boolean(
        required=True, truthy=[True], falsy=[], metadata={"description": "all that match now", "enum": [True]}
    )
    queue = fields.name("only of this queue")
    q = fields.typed("only those that match this search", search.MAX_TYPED)
    group = fields.name("only of this group")
    first = fields.name("the job that goes first; default: the newest")


class GroupRequest(Schema):
    """What is not given stays as it is."""

    example: ClassVar[Any] = {"note": "The shop is down until noon.", "acknowledged": True}

    note = fields.typed("for everybody; empty: none", failure_groups.MAX_NOTE_LENGTH)
    owner = fields.typed("a user; empty: nobody", 64)
    acknowledged = fields.flag("somebody sees to it; one more death ends that")
    version = fields.typed("the group's `version` as you read it: 409 if note or owner changed since", 64)
    last_death = fields.moment("with `acknowledged`: the group's, as you read it; 409 if one more job died since")


class Group(fields.Answer):
    key = fields.text("what its jobs have in common")
    count = fields.whole("dead letters; of large groups, as far as they were counted")
    count_is_more = fields.truth("whether there are more than that")
    first_death = fields.time("of those that lie here")
    last_death = fields.time("of those that lie here")
    example: ClassVar[Any] = fields.text("the id of the newest")
    command = fields.text("of the newest")
    error = fields.text("of the newest", null=True)
    open = fields.truth("false: somebody has acknowledged it, and none has died of it since")
    acknowledged_by = fields.text("who", null=True)
    note = fields.text("what people wrote")
    owner = fields.text("who sees to it", null=True)
    version = fields.text("of note and owner; send it along with a change of them")


class Groups(fields.Answer):
    groups = fields.many(Group, "open ones first")
    more = fields.truth("whether there is another page")
    capped = fields.truth("whether there are more than 500 groups: then those of the newest dead letters are listed")


routes = Noun("Dead letters", "Jobs with no retries left, and groups of them. Look, requeue, discard.")


@routes.on("GET", "/dead-letters", {200: JobPage}, query=DeadQuery, headers=LINKS)
@scope("read")
def list_dead_letters() -> Response:
    """List the dead letters, newest first. The words of a search may also stand in errors and last output."""
    asked = request_body.query(DeadQuery)
    wanted = search.parse(asked.get("q", ""), state="dead", queue=asked.get("queue")).in_output()
    return pagination.page(replace(wanted, group=asked.get("group")), asked["limit"], asked.get("cursor"))


@routes.on("POST", "/dead-letters/requeue", {200: EITHER, 202: ActAnswer}, body=WhichDead)
@scope("operate")
@idempotency.repeatable
def requeue_dead_letters() -> Response:
    """Make dead letters pending again, by their ids, or all that match."""
    return on_many("requeue", request_body.body(WhichDead), only="dead")


@routes.on("POST", "/dead-letters/discard", {200: EITHER, 202: ActAnswer}, body=WhichDead)
@scope("operate")
@idempotency.repeatable
def discard_dead_letters() -> Response:
    """Delete dead letters with their attempts and output, by their ids, or all that match. This cannot be undone."""
    return on_many("discard", request_body.body(WhichDead), only="dead")


@routes.on("POST", "/dead-letters/canary", {202: ActAnswer}, body=CanaryRequest, also=(404,))
@scope("operate")
@idempotency.repeatable
def requeue_one_first() -> Response:
    """Requeue one dead letter first, the others that match only if it completes.

    The act waits for that job, retries included. If it dies, is cancelled or is discarded, the act ends and the others
    stay. Only jobs that are dead at the time of the request are meant.
    """
    asked = request_body.body(CanaryRequest)
    return answer_of(canary.start(matching(asked, "dead"), actor(), asked.get("first")), 202)


# --- groups ----------------------------------------------------------------------------------------------------------


@routes.on("GET", "/dead-letters/groups", {200: Groups}, query=GroupQuery)
@scope("read")
def list_groups() -> Any:
    """List the groups of dead letters that failed alike."""
    asked = request_body.query(GroupQuery)
    with reading() as session:
        listing = failure_groups.listing(session, by=asked["sort"], page=asked["page"], size=asked["limit"])
    found = [serializers.dead_group(one) for one in listing.groups]
    return {"groups": found, "more": listing.more, "capped": listing.capped}


@routes.on("GET", "/dead-letters/groups/<group>", {200: Group})
@scope("read")
def get_group(group: str) -> Any:
    """Look at a group."""
    return _group(group)


@routes.on("PUT", "/dead-letters/groups/<group>", {200: Group}, body=GroupRequest, also=(409,))
@scope("operate")
def describe_group(group: str) -> Any:
    """Set a group's note and owner, acknowledge it or reopen it.

    Send `version` and `last_death` as you read them, so that you overwrite nothing that you have not seen. Where it
    changed since, the answer is 409 with the `group` as it is now, and nothing was changed.
    """
    asked = request_body.body(GroupRequest)
    seen, seen_death = asked.pop("version", None), asked.pop("last_death", None)
    try:
        failure_groups.update(
            group,
            actor(),
            **asked,
            seen=seen,
            seen_death=clock.parse_iso(seen_death) if seen_death else None,
            only_with_jobs=True,
        )
    except failure_groups.GroupError as error:
        raise one_field(error.field, str(error)) from None
    except (failure_groups.Changed, failure_groups.Recurred) as error:
        raise Problem("conflict", f"{str(error).rstrip('.')}. Nothing was changed.", group=_group(group)) from None
    return _group(group)


def _group(key: str) -> dict[str, Any]:
    with reading() as session:
        found = failure_groups.find(session, key) if "\0" not in key else None
    if found is None:
        raise lifecycle.NotFound(f"there is no group {key[:64]!r} of dead letters. It may be empty by now.")
    return serializers.dead_group(found)
