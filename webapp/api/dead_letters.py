"""Dead letters: jobs out of retries, one by one and in groups by cause. Actions here change dead jobs only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from flask import Response
from marshmallow import Schema
from marshmallow import fields as ma

from webapp.api import fields, request_body
from webapp.api.actions import EITHER, ActAnswer, Selection, act_answer, filter_of, move_many
from webapp.api.gate import actor
from webapp.api.jobs import MAX_PAGE, JobPage, ListQuery, page
from webapp.api.pagination import LINKS, NEXT, with_next
from webapp.api.problems import Problem, field_problem
from webapp.api.routes import Noun
from webapp.db.engines import reading
from webapp.insight import failure_groups
from webapp.jobs import canary, lifecycle, search
from webapp.lib import clock
from webapp.web import serializers


class DeadQuery(ListQuery):
    group = fields.name("only jobs of this group")


class GroupQuery(Schema):
    sort = fields.choice(
        "`last`: by the newest job; `count`: by size; open groups are always first",
        ("last", "count"),
        load_default="last",
    )
    page = fields.bounded("page number, from 1", 1, MAX_PAGE, load_default=1)
    limit = fields.bounded("groups per page", 1, 100, load_default=25)


class DeadLetterSelection(Selection):
    example: ClassVar[Any] = {"all": True}

    group = fields.name("with `all`: only jobs of this group")


class CanaryRequest(Schema):
    example: ClassVar[Any] = {"all": True, "queue": "mail"}

    all = ma.Boolean(
        required=True, truthy=[True], falsy=[], metadata={"description": "all jobs that match now", "enum": [True]}
    )
    queue = fields.name("only jobs in this queue")
    q = fields.free_text("only jobs that match this search", search.MAX_TYPED)
    group = fields.name("only jobs of this group")
    first = fields.name("the job to try first; default: the newest")
    after = fields.choice(
        "how many jobs must succeed before the others follow: `1`, `3`, or `10%` of them, at most 500",
        tuple(canary.PASS_RULES),
        load_default="1",
    )


class GroupRequest(Schema):
    """Omitted fields are unchanged."""

    example: ClassVar[Any] = {"note": "The shop is down until noon.", "acknowledged": True}

    note = fields.free_text("a note for other users; empty: none", failure_groups.MAX_NOTE_LENGTH)
    owner = fields.free_text("a user; empty: no owner", 64)
    acknowledged = fields.flag("true: acknowledge the group; it opens again when another job fails like this")
    version = fields.free_text("the group's `version` as you read it; 409 if note or owner have changed since", 64)
    last_death = fields.timestamp("with `acknowledged`: `last_death` as you read it; 409 if another job has died since")


class Group(fields.Answer):
    key = fields.text("the key")
    count = fields.integer("number of dead letters, up to a limit")
    count_is_more = fields.boolean("whether there are more than `count`")
    first_death = fields.time("when a job first died like this, also one that was requeued since")
    last_death = fields.time("when the newest of its jobs died")
    example: ClassVar[Any] = fields.text("id of the newest job")
    command = fields.text("of the newest job; a group may have several commands")
    error = fields.text("of the newest job", null=True)
    open = fields.boolean("false: acknowledged, and no job has died since")
    acknowledged_by = fields.text("who acknowledged it", null=True)
    note = fields.text("the note; empty: none")
    owner = fields.text("the owner", null=True)
    version = fields.text("version of note and owner; send it with a change of them")


class Groups(fields.Answer):
    groups = fields.list_of(Group, "open groups first")
    more = fields.boolean("whether there is another page")
    capped = fields.boolean("whether there are more than 500 groups; if so, only groups of the newest jobs are listed")


routes = Noun("Dead letters", "Jobs out of retries, and groups of them by cause. List, requeue, discard.")


@routes.on("GET", "/dead-letters", {200: JobPage}, scope="read", query=DeadQuery, headers=LINKS)
def list_dead_letters() -> Response:
    """List the dead letters, newest first. Words of a search also match errors and last output."""
    asked = request_body.query(DeadQuery)
    _check_group(asked)
    return page(filter_of(asked, "dead"), asked["limit"], asked.get("cursor"))


@routes.on("POST", "/dead-letters/requeue", EITHER, scope="operate", repeatable=True, body=DeadLetterSelection)
def requeue_dead_letters() -> Response:
    """Requeue dead letters by their ids, or all that match, with retries reset."""
    return _move_many("requeue")


@routes.on("POST", "/dead-letters/discard", EITHER, scope="operate", repeatable=True, body=DeadLetterSelection)
def discard_dead_letters() -> Response:
    """Delete dead letters with their attempts and output, by their ids, or all that match. This cannot be undone."""
    return _move_many("discard")


@routes.on(
    "POST",
    "/dead-letters/canary",
    {202: ActAnswer},
    scope="operate",
    repeatable=True,
    body=CanaryRequest,
    errors=(404,),
)
def requeue_one_first() -> Response:
    """Retry one dead letter first (a canary); requeue the others that match only if it succeeds.

    With `after`, several are retried first, and all of them must succeed. The action waits for them, including their
    retries. If one dies, is cancelled or is discarded, the action ends and the others are left alone. It selects only
    jobs that are dead at the time of the request.
    """
    asked = request_body.body(CanaryRequest)
    _check_group(asked)
    return act_answer(canary.start(filter_of(asked, "dead"), actor(), asked.get("first"), asked["after"]), 202)


@routes.on("GET", "/dead-letters/groups", {200: Groups}, scope="read", query=GroupQuery, headers=NEXT)
def list_groups() -> Response:
    """List the groups of dead letters with the same cause. The header Link leads to the next page."""
    asked = request_body.query(GroupQuery)
    with reading() as session:
        listing = failure_groups.listing(session, by=asked["sort"], page=asked["page"], size=asked["limit"])
    found = [serializers.dead_group(one) for one in listing.groups]
    whole = {"groups": found, "more": listing.more, "capped": listing.capped}
    return with_next(whole, page=asked["page"] + 1 if listing.more else None)


@routes.on("GET", "/dead-letters/groups/<group>", {200: Group}, scope="read")
def get_group(group: str) -> Any:
    """Get a group."""
    return _group(group)


@routes.on("PUT", "/dead-letters/groups/<group>", {200: Group}, scope="operate", body=GroupRequest, errors=(409,))
def describe_group(group: str) -> Any:
    """Set the note and the owner of a group, acknowledge it or reopen it.

    Send `version` and `last_death` as you read them, so that you do not overwrite newer changes. If the group has
    changed since, the response is 409 with the current `group`, and nothing was changed.
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
        raise field_problem(error.field, str(error)) from None
    except (failure_groups.Changed, failure_groups.Recurred) as error:
        raise Problem("conflict", f"{str(error).rstrip('.')}. Nothing was changed.", group=_group(group)) from None
    return _group(group)


def _move_many(verb: str) -> Response:
    asked = request_body.body(DeadLetterSelection)
    _check_group(asked)
    return move_many(verb, asked, only="dead")


def _check_group(asked: Mapping[str, Any]) -> None:
    """Refuse the key that an earlier version gave a group: its jobs are a part of a larger one now."""
    with reading() as session:
        failure_groups.check_current(session, asked.get("group"))


def _group(key: str) -> dict[str, Any]:
    with reading() as session:
        found = failure_groups.find(session, failure_groups.current_key(session, key)) if "\0" not in key else None
    if found is None:
        raise lifecycle.NotFound(f"there is no group {key[:64]!r} of dead letters. It may be empty by now.")
    return serializers.dead_group(found)
