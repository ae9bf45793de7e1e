"""Reads values from URLs and forms, and builds the URLs and files of lists."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NoReturn, Optional, Union
from urllib.parse import urlencode

from flask import Response, abort, current_app, request

from webapp.core.job_spec import FieldError, SpecError
from webapp.lib import clock, durations


def whole_number(text: str, digits: int = 18) -> Optional[int]:
    """The number, or None if the text is not a number of at most so many ASCII digits."""
    return int(text) if text.isdecimal() and text.isascii() and len(text) <= digits else None


def checked_field(names: Collection[str]) -> str:
    """The field of a form that a request wants to be checked."""
    name = request.args.get("field", "")
    return name if name in names else abort(404)


def after_now(text: str) -> int:
    """The moment after a duration such as 8h, in microseconds. Raises SpecError."""
    try:
        return clock.now() + clock.seconds(durations.parse(text))
    except ValueError as error:
        raise SpecError([FieldError("", str(error))]) from None


def no_such_page() -> NoReturn:
    abort(400, "This list page does not exist. Go to the first page.")


def id_before() -> Optional[int]:
    """The id before which the page of a list begins. None: the first page."""
    text = request.args.get("before", "")
    number = whole_number(text)
    if text and number is None:
        no_such_page()
    return number


def with_query(path: str, values: Mapping[str, object]) -> str:
    """The path with the values that are not empty as its query."""
    query = urlencode({name: value for name, value in values.items() if value})
    return f"{path}?{query}" if query else path


def attachment(content: Union[bytes, Iterable[str]], content_type: str, name: str) -> Response:
    """A file for download."""
    response = Response(content, content_type=content_type)
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def streamed(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces in an application context. No database connection is held between two pieces."""
    app = current_app._get_current_object()  # type: ignore[attr-defined]

    def within() -> Iterator[str]:
        while True:
            with app.app_context():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece

    return within()
