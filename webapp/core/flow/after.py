"""The field `after` of a job: the jobs that it waits for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from webapp.core.names import NAME, NAME_RULE, show

WANTS = ("success", "finish", "failure")  # of a job that another one follows
MAX_AFTER = 10_000  # jobs that one job follows


class After(NamedTuple):
    """A job to wait for. `on`: how it must end, one of WANTS."""

    job: str
    on: str = "success"


def read(value: object) -> tuple[After, ...]:
    """A list of ids, of ID:finish, or of {"job": id, "on": …}; or a text, such as 'job1 job2:finish'."""
    given = [word for word in re.split(r"[,\s]+", value) if word] if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)):
        raise ValueError(
            f'{show(value)} is not allowed; expected a list of job ids, or of {{"job": id, "on": "finish"}}.'
        )
    if len(given) > MAX_AFTER:
        raise ValueError(f"has {len(given):,} jobs; at most {MAX_AFTER:,} are allowed.")
    found: dict[str, After] = {}
    for one in given:
        fields = _of_word(one) if isinstance(one, str) else one
        if not isinstance(fields, Mapping) or "job" not in fields or set(fields) - {"job", "on"}:
            raise ValueError(f'{show(one)} is not allowed; expected a job id, or {{"job": id, "on": "finish"}}.')
        read = After(_name(fields["job"]), fields.get("on", "success"))
        if read.on not in WANTS:
            raise ValueError(f"{show(read.on)} is not allowed for on; expected one of {', '.join(WANTS)}.")
        if found.setdefault(read.job, read) != read:
            raise ValueError(f"{show(read.job)} is given twice, with different ends. Give it once.")
    return tuple(found.values())


def _of_word(word: str) -> dict[str, str]:
    """An id, or an id with how it must end behind a colon."""
    job, _, on = word.rpartition(":")
    return {"job": job, "on": on} if job and on in WANTS else {"job": word}


def _name(value: object) -> str:
    if not isinstance(value, str) or not NAME.match(value):
        raise ValueError(f"{show(value)} is not allowed; expected {NAME_RULE}.")
    return value
