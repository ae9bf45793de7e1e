"""Reads the fields of a description: of a schedule, a channel, a rule. Each kind has a table of its readers.

A reader takes what JSON, a form or the command line gives, and returns the value or raises ValueError with a message
that needs the field's name in front.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from webapp.core.job_spec import FieldError, SpecError
from webapp.core.names import NAME, NAME_RULE, SHOWN, show
from webapp.lib import durations
from webapp.lib.text import shorten

Reader = Callable[[Any], Any]
MOST_DIGITS = 20  # of a number as a text


class NameTaken(SpecError):
    """Another schedule, channel or rule has the name."""


def read_fields(given: Mapping[Any, object], readers: Mapping[str, Reader]) -> tuple[dict[str, Any], list[FieldError]]:
    """The values and all errors. A null or empty value counts as not given. A reader may raise SpecError, too."""
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    for key, value in given.items():
        if value is None or value == "" or value == []:
            continue
        try:
            if key not in readers:
                raise ValueError(f"is not a known key. Known keys: {', '.join(readers)}.")
            values[key] = readers[key](value)
        except SpecError as error:
            inner = [key if one.field in ("", key) else f"{key}.{one.field}" for one in error.errors]
            errors += [FieldError(field, one.message) for field, one in zip(inner, error.errors)]
        except ValueError as error:
            errors.append(FieldError(shorten(ascii(str(key))[1:-1], SHOWN), str(error)))
    return values, errors


def name(value: object) -> str:
    if not isinstance(value, str) or not NAME.match(value):
        raise ValueError(f"{show(value)} is not allowed; expected {NAME_RULE}.")
    return value


def choice(*allowed: str) -> Reader:
    def read(value: object) -> str:
        text = value.replace("-", "_") if isinstance(value, str) else value
        if text not in allowed:
            raise ValueError(f"{show(value)} is not allowed; expected {', '.join(allowed)}.")
        return str(text)

    return read


def whole_number(lowest: int, highest: int, meaning: str = "") -> Reader:
    """`meaning`: of the lowest number, such as ' (no limit)'."""

    def read(value: object) -> int:
        text = value.strip() if isinstance(value, str) else ""
        is_number = text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
        given = int(text) if is_number else value
        if isinstance(given, bool) or not isinstance(given, int) or not lowest <= given <= highest:
            rule = f"expected a whole number from {lowest}{meaning} to {highest:,}"
            raise ValueError(f"{show(value)} is not allowed; {rule}.")
        return given

    return read


def whole_seconds(lowest: int, highest: int) -> Reader:
    """A number, or a duration such as 10min."""

    def read(value: object) -> int:
        given = durations.parse(value) if isinstance(value, str) else value
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not lowest <= given <= highest:
            least, most = durations.duration(lowest), durations.duration(highest)
            raise ValueError(f"{show(value)} is not allowed; expected a duration from {least} to {most}.")
        if given != int(given):
            raise ValueError(f"{show(value)} is not allowed; expected whole seconds.")
        return int(given)

    return read
