"""What an attempt wrote, as bytes, whole or in ranges."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from marshmallow import Schema
from werkzeug.exceptions import NotFound

from webapp.api import fields, request_body
from webapp.api.jobs import found
from webapp.api.routes import BYTES, Noun
from webapp.api.scopes import scope
from webapp.db.engines import reading
from webapp.jobs import job_detail

LARGEST = 2**31 - 1  # of a number of an attempt
STREAMS = {"stdout": 1, "stderr": 2}
HEADERS: dict[str, Any] = {
    "Queuectl-Attempt": {"description": "whose output it is", "schema": {"type": "integer"}},
    "Queuectl-Live": {"description": "whether more may come", "schema": {"type": "string", "enum": ["true", "false"]}},
    "Queuectl-Dropped": {"description": "bytes left out in the middle", "schema": {"type": "integer"}},
    "Queuectl-Cut": {"description": "of both streams: where they were left out", "schema": {"type": "integer"}},
}


class OutputQuery(Schema):
    attempt = fields.integer("its number; default: the latest", 1, LARGEST)
    stream = fields.choice("`both` as they came", ("both", *STREAMS), load_default="both")


routes = Noun("Output", "What a job's attempts wrote.")


@routes.on(
    "GET", "/jobs/<job_id>/output", {200: {}, 206: {}}, query=OutputQuery, also=(416,), makes=(BYTES,), headers=HEADERS
)
@scope("read")
def get_output(job_id: str) -> Response:
    """The kept output of an attempt, byte for byte; of one that runs, as far as it has come.

    Ask with `Range: bytes=1000-` for what lies behind byte 1000: 206, or 416 where there is nothing yet. Of an output
    that is longer than the setting output_limit, the middle is left out: the headers tell how much, and where.
    """
    asked = request_body.query(OutputQuery)
    with reading() as session:
        job = found(session, job_id)
        number = asked.get("attempt", job.attempts)
        kept = job_detail.output(session, job, number) if number else None
    if kept is None:
        raise NotFound(f"{job_id} has no attempt {number}." if number else f"{job_id} has made no attempt yet.")
    which = STREAMS.get(asked["stream"])
    data = kept.data if which is None else kept.stream(which)
    response = Response(data, content_type=BYTES)
    response.headers["Queuectl-Attempt"] = str(number)
    response.headers["Queuectl-Live"] = "true" if kept.live else "false"
    response.headers["Queuectl-Dropped"] = str(kept.dropped)
    if which is None and kept.dropped and kept.cut is not None:
        response.headers["Queuectl-Cut"] = str(kept.cut)
    name = f"{job_id.replace(':', '_')}-attempt-{number}.log"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    response.make_conditional(request.environ, accept_ranges=True, complete_length=len(data))
    return response
