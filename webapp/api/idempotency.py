"""`Idempotency-Key`: a repeated request gets the response of the first one, and nothing is done twice.

Each key of a token has a row: first with the hash of the request, then with the response. Until the response is there,
a repetition gets 409. After IN_FLIGHT a repetition takes the row over, because the first request must have died; it may
do so at once if this process knows that the first request ended and could not write its end.

The row's `name` also marks the jobs of the request (`form_key`), so a repetition that takes over finds jobs that were
stored just before the first request died. A refused request leaves no row. Maintenance deletes rows after a day.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Optional, Union

from flask import Response, current_app, g, request
from sqlalchemy import ColumnElement, and_, delete, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from werkzeug.exceptions import HTTPException

from webapp.api.gate import token
from webapp.api.problems import Problem, field_problem, problem_of
from webapp.core.storage.locks import Busy
from webapp.db.engines import writing
from webapp.db.models import IdempotencyKey
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock

HEADER = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
IN_FLIGHT = clock.seconds(60)
KEPT_HEADERS = ("Content-Type", "Location")
_ENDED = "queuectl_ended_claims"  # extension: names of claims whose end could not be written, and when they ended


@dataclass(frozen=True)
class Claim:
    """The right to answer. `name` stays the same when another request takes over."""

    token_id: int
    key: str
    name: str

    def row(self) -> ColumnElement[bool]:
        """Matches the row while this claim holds it."""
        key = and_(IdempotencyKey.token_id == self.token_id, IdempotencyKey.key == self.key)
        return and_(key, IdempotencyKey.status.is_(None), IdempotencyKey.answer == self.name.encode())


def repeatable_view(view: Callable[..., Response]) -> Callable[..., Response]:
    """Make a view honour the header."""

    def repeatable(**arguments: Any) -> Response:
        key = request.headers.get(HEADER)
        g.pop("queuectl_claim", None)
        if key is None:
            return view(**arguments)
        if not KEY.match(key):
            raise field_problem(HEADER, "is not allowed; expected 1 to 255 visible ASCII characters.")
        claim = _begin(token().id, key)
        if isinstance(claim, Response):
            return claim
        g.queuectl_claim = claim
        try:
            response = view(**arguments)
        except Exception as error:
            # If the database is broken, this fails too; then repetitions get 409 for up to a minute.
            with suppress(Busy, DBAPIError, OSError), _remember_if_unwritten(claim.name):
                _end(claim, nothing_done=_is_refusal(error))
            raise
        with _remember_if_unwritten(claim.name):
            _store(claim, response)
        return response

    return repeatable


def form_key() -> Optional[str]:
    """The mark for jobs of this request, by which a repetition finds them."""
    claim: Optional[Claim] = g.get("queuectl_claim")
    return f"api:{claim.token_id}:{claim.name}" if claim is not None else None


def _begin(token_id: int, key: str) -> Union[Claim, Response]:
    """Claim the key, or return the stored response.

    Raises Problem if the first request still runs, or if the key belongs to another request.
    """
    digest = hashlib.sha256(f"{request.method} {request.full_path}\n".encode() + request.get_data()).hexdigest()
    now, name = clock.now(), secrets.token_hex(12)
    try:
        with _remember_if_unwritten(name) as claimed, writing() as session:
            row = session.get(IdempotencyKey, (token_id, key), with_for_update=True)
            if row is None:
                session.add(
                    IdempotencyKey(token_id=token_id, key=key, request_hash=digest, at=now, answer=name.encode())
                )
                return Claim(token_id, key, name)
            if row.request_hash != digest:
                raise Problem("key-reused")
            if row.status is not None:
                stored = json.loads(row.answer or b"")
                return Response(
                    stored["body"], row.status, headers={**stored["headers"], "Idempotency-Replayed": "true"}
                )
            name = (row.answer or b"").decode()
            if row.at > now - IN_FLIGHT and _ended().pop(name, None) is None:
                raise _in_flight()
            claimed.append(name)
            row.at = now
            return Claim(token_id, key, name)
    except IntegrityError:  # PostgreSQL only: another request stored the key between our read and our insert
        raise _in_flight() from None


@contextmanager
def _remember_if_unwritten(*names: str) -> Iterator[list[str]]:
    """Remember these claims as ended if the database cannot store their end in this block."""
    claimed = list(names)
    try:
        yield claimed
    except (Busy, DBAPIError, OSError):
        ended, now = _ended(), time.monotonic()
        for name, at in list(ended.items()):
            if at < now - IN_FLIGHT / clock.SECOND:
                ended.pop(name, None)
        ended.update(dict.fromkeys(claimed, now))
        raise


def _ended() -> dict[str, float]:
    ended: dict[str, float] = current_app.extensions.setdefault(_ENDED, {})
    return ended


def _in_flight() -> Problem:
    return Problem("in-flight", headers={"Retry-After": "2"})


def _store(claim: Claim, response: Response) -> None:
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    stored = json.dumps({"headers": headers, "body": response.get_data(as_text=True)}).encode()
    with writing() as session:
        session.execute(update(IdempotencyKey).where(claim.row()).values(status=response.status_code, answer=stored))


def _is_refusal(error: Exception) -> bool:
    """Whether nothing was done, so the key is free again. After other errors the outcome is unknown."""
    refused = isinstance(error, (NotFound, HTTPException)) or problem_of(error) is not None
    return refused and (getattr(error, "code", None) or 400) < 500


def _end(claim: Claim, *, nothing_done: bool) -> None:
    with writing() as session:
        if nothing_done:
            session.execute(delete(IdempotencyKey).where(claim.row()))
        else:  # a repetition may take over at once
            session.execute(update(IdempotencyKey).where(claim.row()).values(at=clock.now() - IN_FLIGHT))
