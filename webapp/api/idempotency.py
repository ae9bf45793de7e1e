"""`Idempotency-Key`: a request that is sent again, because its answer was lost, is answered again and not done again.

A row for each key of a token: first with the hash of the request, then with the answer. While there is none, a second
request is told that the first still runs; after IN_FLIGHT it takes over, for the first has died, and at once where this
process knows that it has ended and the database could not be told. For what becomes of
jobs that were stored just before such a death, the row has a name that they bear as well (`form_key`): who takes over
finds them. What was refused leaves no row, for nothing was done; the keeper deletes rows after a day.
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
from functools import wraps
from typing import Any, Optional, TypeVar, Union, cast

from flask import Response, current_app, g, request
from sqlalchemy import ColumnElement, and_, delete, update
from sqlalchemy.exc import DBAPIError, IntegrityError
from werkzeug.exceptions import HTTPException

from webapp.api.problems import Problem, known, one_field
from webapp.api.scopes import caller
from webapp.core.locks import Busy
from webapp.db.engines import writing
from webapp.db.models import IdempotencyKey
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock

HEADER = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
IN_FLIGHT = clock.seconds(60)
_OVER = "queuectl_repeats_over"  # in an application's extensions: names of claims that have ended untold, and when
KEPT_HEADERS = ("Content-Type", "Location")

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Claim:
    """The right to answer. `name` is what jobs of this request bear; it stays when somebody takes over."""

    token_id: int
    key: str
    name: str

    @property
    def form_key(self) -> str:
        return f"api:{self.token_id}:{self.name}"


def repeatable(view: View) -> View:
    """Let a view that gives a Response heed the header."""

    @wraps(view)
    def heeding(**arguments: Any) -> Response:
        key = request.headers.get(HEADER)
        g.pop("queuectl_claim", None)
        if key is None:
            return cast(Response, view(**arguments))
        if not KEY.match(key):
            raise one_field(HEADER, "is not allowed; expected 1 to 255 visible ASCII characters.")
        claim = _begin(caller().token_id, key, _hash())
        if isinstance(claim, Response):
            return claim
        g.queuectl_claim = claim
        try:
            response = cast(Response, view(**arguments))
        except Exception as error:
            # A broken database cannot note it either; then the row tells others for a minute that it still runs.
            with suppress(Busy, DBAPIError, OSError), _over_unless_told(claim.name):
                _end(claim, done_nothing=_is_refusal(error))
            raise
        with _over_unless_told(claim.name):
            _keep(claim, response)
        return response

    heeding.repeatable = True  # type: ignore[attr-defined]
    return cast(View, heeding)


def form_key() -> Optional[str]:
    """What jobs of this request are to bear, so that its repetition finds them."""
    claim: Optional[Claim] = g.get("queuectl_claim")
    return claim.form_key if claim is not None else None


def _hash() -> str:
    told = hashlib.sha256(f"{request.method} {request.full_path}\n".encode())
    told.update(request.get_data())
    return told.hexdigest()


def _begin(token_id: int, key: str, request_hash: str) -> Union[Claim, Response]:
    """The right to answer, or the answer of before. Raises Problem where the first still runs, or was another one."""
    now, name = clock.now(), secrets.token_hex(12)
    try:
        with _over_unless_told(name) as mine, writing() as session:
            row = session.get(IdempotencyKey, (token_id, key), with_for_update=True)
            if row is None:
                session.add(
                    IdempotencyKey(token_id=token_id, key=key, request_hash=request_hash, at=now, answer=name.encode())
                )
                return Claim(token_id, key, name)
            if row.request_hash != request_hash:
                raise Problem("key-reused")
            if row.status is not None:
                return _again(row.status, row.answer or b"")
            name = (row.answer or b"").decode()
            if row.at > now - IN_FLIGHT and not _is_over(name):
                raise _still_runs()
            mine.append(name)
            row.at = now
            return Claim(token_id, key, name)
    except IntegrityError:  # PostgreSQL only: another request stored the key between our look and our insert
        raise _still_runs() from None


@contextmanager
def _over_unless_told(*names: str) -> Iterator[list[str]]:
    """Remember claims whose request ends here, should the database not take note of it in this block."""
    mine = list(names)
    try:
        yield mine
    except (Busy, DBAPIError, OSError):
        over: dict[str, float] = current_app.extensions.setdefault(_OVER, {})
        for one, at in list(over.items()):
            if at < time.monotonic() - IN_FLIGHT / clock.SECOND:
                over.pop(one, None)
        over.update(dict.fromkeys(mine, time.monotonic()))
        raise


def _is_over(name: str) -> bool:
    """Whether it is such a claim; whoever asks takes it over, and nobody else does."""
    over: dict[str, float] = current_app.extensions.get(_OVER, {})
    return over.pop(name, None) is not None


def _still_runs() -> Problem:
    return Problem("in-flight", headers={"Retry-After": "2"})


def _again(status: int, kept: bytes) -> Response:
    answer = json.loads(kept)
    response = Response(answer["body"], status, headers=answer["headers"])
    response.headers["Idempotency-Replayed"] = "true"
    return response


def _keep(claim: Claim, response: Response) -> None:
    headers = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    kept = json.dumps({"headers": headers, "body": response.get_data(as_text=True)}).encode()
    with writing() as session:
        session.execute(update(IdempotencyKey).where(_mine(claim)).values(status=response.status_code, answer=kept))


def _is_refusal(error: Exception) -> bool:
    """Whether it says that nothing was done: the key is free again. Of anything else, nobody knows how far it came."""
    refused = isinstance(error, (NotFound, HTTPException)) or known(error) is not None
    return refused and (getattr(error, "code", None) or 400) < 500


def _end(claim: Claim, *, done_nothing: bool) -> None:
    with writing() as session:
        if done_nothing:
            session.execute(delete(IdempotencyKey).where(_mine(claim)))
        else:  # whoever repeats it may take over at once
            session.execute(update(IdempotencyKey).where(_mine(claim)).values(at=clock.now() - IN_FLIGHT))


def _mine(claim: Claim) -> ColumnElement[bool]:
    this = and_(IdempotencyKey.token_id == claim.token_id, IdempotencyKey.key == claim.key)
    return and_(this, IdempotencyKey.status.is_(None), IdempotencyKey.answer == claim.name.encode())
