"""Environment variables of a job on a page: values that look like secrets are masked until the user asks for them.

A form shows the mask too, and names what it was filled in from. When it is sent, the mask stands for the stored value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress

from sqlalchemy.orm import Session

from webapp.core.job_spec import SpecError
from webapp.db.models import Job
from webapp.jobs import job_detail
from webapp.jobs.lifecycle import NotFound
from webapp.schedules import views

MASK = "\N{BULLET}" * 8
_NAME = re.compile(r"PASS|PWD|SECRET|TOKEN|KEY|CREDENTIAL|AUTH(?!OR)|COOKIE|DSN|PRIVATE|SIGNATURE", re.IGNORECASE)
_VALUE = re.compile(
    r"://[^/\s@]*:[^/\s@]+@"  # a URL with a password
    r"|\b(?:gh[opsu]_|github_pat_|glpat-|sk[-_]|xox[abprs]-|AKIA|eyJ[\w-]{8,}\.)"  # well-known kinds of tokens
    r"|-----BEGIN "
)


def looks_secret(name: str, value: str) -> bool:
    return bool(value) and bool(_NAME.search(name) or _VALUE.search(value))


def masked(env: Mapping[str, str]) -> dict[str, str]:
    """The variables with MASK for values that look like secrets."""
    return {name: MASK if looks_secret(name, value) else value for name, value in env.items()}


def as_lines(env: Mapping[str, str]) -> str:
    """The variables for a form: NAME=value. A value of several lines is masked too: the form cannot hold it."""
    shown = {name: MASK if "\n" in value or "\r" in value else value for name, value in masked(env).items()}
    return "\n".join(f"{name}={value}" for name, value in shown.items())


def with_stored(typed: Mapping[str, str], stored: Mapping[str, str]) -> dict[str, str]:
    """The variables of a form, with the stored value of each that still has the mask. Raises ValueError: nothing is
    stored for one of these names."""
    masked_names = [name for name, value in typed.items() if value.strip() == MASK]
    for name in masked_names:
        if name not in stored:
            raise ValueError(f"{name[:60]} has only the mask, and no value is stored for it. Enter its value.")
    return {**typed, **{name: stored[name] for name in masked_names}}


def stored_of(session: Session, source: str) -> dict[str, str]:
    """The variables of what a form was filled in from: job:ID or schedule:NAME. None, if that is gone."""
    kind, _, name = source.partition(":")
    if kind == "job":
        job = job_detail.find(session, name)
        return of_job(job) if job is not None else {}
    if kind == "schedule":
        with suppress(NotFound, SpecError):
            return dict(views.fields_of(views.find(session, name)).get("job", {}).get("env", {}))
    return {}


def of_job(job: Job) -> dict[str, str]:
    found: dict[str, str] = json.loads(job.env) if job.env else {}
    return found
