"""Cursors of lists that are read in pages, and the links to the other pages."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Optional
from urllib.parse import urlencode

from flask import Response, request
from marshmallow import fields as ma

from webapp.api import fields, request_body
from webapp.api.problems import field_problem
from webapp.web.request_info import below_root

LINKS = {"Link": {"description": "URLs of the next and the previous page", "schema": {"type": "string"}}}
NEXT = {"Link": {"description": "URL of the next page, if there is one", "schema": {"type": "string"}}}


class Page(fields.Answer):
    next = fields.text("cursor of the next page", null=True)
    previous = fields.text("cursor of the previous page; always null in lists that are read one way", null=True)


def cursor_field() -> ma.String:
    return ma.String(metadata={"description": "`next` or `previous` of another page"})


def decode(cursor: Optional[str], name: str) -> dict[str, str]:
    """The key of a page, as `after` or `before`. Raises Problem.

    A cursor is valid for lists with this name only, because each of them has its own order.
    """
    if cursor is None:
        return {}
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        direction, of, key = json.loads(data)
    except (ValueError, TypeError, RecursionError):
        raise invalid_cursor() from None
    if direction not in ("after", "before") or of != name or not isinstance(key, str):
        raise invalid_cursor()
    return {direction: key}


def number_before(cursor: Optional[str], name: str) -> Optional[int]:
    """The number at which a page of a list ends that begins with the highest. None: the first page. Raises Problem."""
    key = decode(cursor, name).get("after")
    if key is not None and not (key.isascii() and key.isdigit() and len(key) <= 16):
        raise invalid_cursor()
    return None if key is None else int(key)


def invalid_cursor() -> Exception:
    message = "is not a cursor of this list; take one from a response, or omit it for the first page."
    return field_problem("cursor", message)


def answer(items: Mapping[str, Any], name: str, older: Optional[str], newer: Optional[str], **more: Any) -> Response:
    """A page with the cursors of the next and the previous one, also as links."""
    after, before = _encode("after", older, name), _encode("before", newer, name)
    links = [_link(rel, cursor=key) for key, rel in ((after, "next"), (before, "prev")) if key]
    whole = {**items, "next": after, "previous": before, **more}
    return request_body.answer(whole, headers={"Link": ", ".join(links)} if links else None)


def with_next(whole: Mapping[str, Any], **parameter: Any) -> Response:
    """A page of a list without cursors. `parameter` leads to the next one; None: there is none."""
    more = any(value is not None for value in parameter.values())
    return request_body.answer(whole, headers={"Link": _link("next", **parameter)} if more else None)


def _encode(direction: str, key: Optional[str], name: str) -> Optional[str]:
    if key is None:
        return None
    text = json.dumps([direction, name, key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _link(rel: str, **changed: Any) -> str:
    """This URL with other parameters, as a value of the header Link."""
    return f'<{below_root(request.path)}?{urlencode({**request.args.to_dict(), **changed})}>; rel="{rel}"'
