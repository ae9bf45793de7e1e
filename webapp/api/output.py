"""The output of an attempt, as bytes, whole or in ranges."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from marshmallow import Schema
from werkzeug.exceptions import NotFound

from webapp.api import fields, request_body
from webapp.api.routes import BYTES, Noun
from webapp.db.engines import reading
from webapp.jobs import job_detail

STREAMS = {"stdout": 1, "stderr": 2}
HEADERS: dict[str, Any] = {
    "Queuectl-Attempt": {"description": "the attempt's number", "schema": {"type": "integer"}},
    "Queuectl-Live": {
        "description": "whether the attempt is still running",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "Queuectl-Dropped": {"description": "bytes omitted from the middle", "schema": {"type": "integer"}},
    "Queuectl-Cut": {
        "description": "with `both`: the position where bytes were omitted",
        "schema": {"type": "integer"},
    },
}


class OutputQuery(Schema):
    attempt = fields.bounded("attempt number; default: the latest", 1, 2**31 - 1)
    stream = fields.choice("`both`: in the order of arrival", ("both", *STREAMS), load_default="both")


routes = Noun("Output", "What a job's attempts printed.")


@routes.on(
    "GET",
    "/jobs/<job_id>/output",
    {200: {}, 206: {}},
    scope="read",
    query=OutputQuery,
    errors=(416,),
    makes=(BYTES,),
    headers=HEADERS,
)
def get_output(job_id: str) -> Response:
    """Get the output of an attempt, byte for byte; of a running attempt, the output so far.

    Send `Range: bytes=1000-` for the bytes from position 1000: the response is 206, or 416 if there are none yet. If
    the output is longer than the setting output_limit, its middle is omitted; the headers say how much, and where.
    """
    asked = request_body.query(OutputQuery)
    with reading() as session:
        job = job_detail.existing(session, job_id)
        number = asked.get("attempt", job.attempts)
        kept = job_detail.output(session, job, number) if number else None
    if kept is None:
        raise NotFound(f"{job_id} has no attempt {number}." if number else f"{job_id} has no attempts yet.")
    stream = STREAMS.get(asked["stream"])
    data = kept.data if stream is None else kept.stream(stream)
    response = Response(data, content_type=BYTES)
    response.headers["Queuectl-Attempt"] = str(number)
    response.headers["Queuectl-Live"] = "true" if kept.live else "false"
    response.headers["Queuectl-Dropped"] = str(kept.dropped)
    if stream is None and kept.dropped and kept.cut is not None:
        response.headers["Queuectl-Cut"] = str(kept.cut)
    name = f"{job_id.replace(':', '_')}-attempt-{number}.log"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    response.make_conditional(request.environ, accept_ranges=True, complete_length=len(data))
    return response
