"""`/metrics`: figures for Prometheus. Programs on this machine need no token, others one of scope `read`.

docs/monitoring.md explains each figure; `web/metrics.py` reads them.
"""

from __future__ import annotations

from flask import Blueprint, Response, current_app, request

from webapp.api import gate
from webapp.insight import job_counts
from webapp.web import request_counts, request_info

PATH = "/metrics"

routes = Blueprint("metrics", __name__)


def admit() -> None:
    """Raises Problem."""
    if not request_info.is_from_this_machine():
        gate.admit()


@routes.get(PATH)
def metrics() -> Response:
    from webapp.web.metrics import exposition  # only here: the library takes longer to import than a start may

    requests = request_counts.of(current_app).totals()
    accept = request.headers.get("Accept", "")
    text, content_type = exposition(job_counts.of_app().current(), requests=requests, accept=accept)
    return Response(text, content_type=content_type)


metrics.needed_scope = "read"  # type: ignore[attr-defined]
metrics.makes = ("text/plain", "application/openmetrics-text")  # type: ignore[attr-defined]
