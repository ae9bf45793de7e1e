"""Passes a trace on to a job: the position in a distributed trace, as the W3C's Trace Context writes it.

The job's own environment carries it. So it is stored and shown with the job, and its command finds it where
OpenTelemetry looks for it. A value that the specification calls invalid is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

from webapp.core.job_spec import JobSpec

VARIABLE = "TRACEPARENT"
HEADER = "traceparent"
VARIABLES = (VARIABLE, "TRACESTATE")  # of a worker's own trace, which its jobs must not continue
LONGEST = 256  # characters; a later version of the specification may add fields
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?\Z")


def is_valid(text: str) -> bool:
    """Whether this is the value of a `traceparent` that may be passed on unchanged."""
    found = _FORM.match(text) if len(text) <= LONGEST else None
    return found is not None and (found[1] != "00" or found[2] is None)


def carried_by(specs: Sequence[JobSpec], traceparent: Optional[str]) -> list[JobSpec]:
    """The jobs with this trace. A job that names one in its `env` keeps that."""
    trace = (traceparent or "").strip(" \t")
    if not is_valid(trace):
        return list(specs)
    return [spec if VARIABLE in spec.env else spec._replace(env={**spec.env, VARIABLE: trace}) for spec in specs]
