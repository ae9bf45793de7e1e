"""Dead letters for programs: jobs that no retry will save. What is done here is done to dead ones alone."""

from __future__ import annotations

from flask import Response

from webapp import search
from webapp.api import bodies, cursors, repeats
from webapp.api.acts import EITHER, on_many
from webapp.api.jobs import LINKS
from webapp.api.routes import Noun
from webapp.api.schemas import ActAnswer, JobPage, ListQuery, Which
from webapp.api.scopes import scope

routes = Noun("Dead letters", "Jobs with no retries left. Look, requeue, discard.")


@routes.on("GET", "/dead-letters", {200: JobPage}, query=ListQuery, headers=LINKS)
@scope("read")
def list_dead_letters() -> Response:
    """List the dead letters, newest first."""
    asked = bodies.query(ListQuery)
    wanted = search.parse(asked.get("q", ""), state="dead", queue=asked.get("queue"))
    return cursors.page(wanted, asked["limit"], asked.get("cursor"))


@routes.on("POST", "/dead-letters/requeue", {200: EITHER, 202: ActAnswer}, body=Which)
@scope("operate")
@repeats.repeatable
def requeue_dead_letters() -> Response:
    """Make dead letters pending again, by their ids, or all that match."""
    return on_many("requeue", bodies.body(Which), only="dead")


@routes.on("POST", "/dead-letters/discard", {200: EITHER, 202: ActAnswer}, body=Which)
@scope("operate")
@repeats.repeatable
def discard_dead_letters() -> Response:
    """Delete dead letters with their attempts and output, by their ids, or all that match. This cannot be undone."""
    return on_many("discard", bodies.body(Which), only="dead")
