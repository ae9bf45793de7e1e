"""The search language: `state:dead queue:mail exit:127 since:2h text`, parsed into a `JobFilter` and back.

A word that starts with letters and a colon is a qualifier; everything else is text. Quotes make a phrase, or turn a
qualifier into text. The console's search box, `list --search` and the API's `q` use it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Callable, Optional

from webapp.core import labels
from webapp.core.job_spec import NAME, NAME_RULE
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.states import STATES
from webapp.jobs.filters import FilterError, JobFilter, unescaped, words
from webapp.lib import clock, durations
from webapp.lib.text import can_be_stored

MAX_LENGTH = 1000  # characters
MAX_TYPED = 500  # characters in a search box or `q`
EXIT_CODES = range(-(2**31), 2**32)  # Windows has unsigned ones
# Qualifier, example, description; shown as help.
QUALIFIERS = (
    ("state", "state:dead", "jobs in this state"),
    ("queue", "queue:mail", "jobs in this queue"),
    ("exit", "exit:127", "last attempt had this exit code"),
    ("worker", "worker:web-1", "run by a worker whose id starts with this"),
    ("since", "since:2h", "changed in the last 30m, 2h, 7d, or since a date"),
    ("by", "by:ana", "submitted by this user, or by:token:deploy"),
    ("id", "id:job1", "the job with this id"),
    ("requires", "requires:gpu", "jobs that need a worker with this label"),
    ("schedule", "schedule:nightly", "jobs that this schedule submitted"),
    ("notified", "notified:ops", "a message about the job was sent to this channel"),
)
NAMES = tuple(name for name, _, _ in QUALIFIERS)

_TOKEN = re.compile(r'\s*(?:([A-Za-z]{2,}):(?!//))?("(?:[^"\\]|\\.)*"(?=\s|\Z)|"|\S*)', re.DOTALL)


class SearchError(FilterError):
    """An invalid search; the message names the word and what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "q")


def parse(text: str, *, state: Optional[str] = None, queue: Optional[str] = None) -> JobFilter:
    """Parse a search. `state` and `queue` narrow the list further. A duration counts from now. Raises SearchError."""
    if len(text) > MAX_LENGTH:
        raise SearchError(f"a search has at most {MAX_LENGTH} characters; this one has {len(text):,}.")
    if not can_be_stored(text):
        raise SearchError("the search contains an invalid character.")
    found: dict[str, Any] = {}
    texts: list[str] = []
    for name, value in _tokens(text):
        if not name:
            texts.append(value)
        elif name in found:
            raise SearchError(f"{name}: is given twice. Give it once.")
        else:
            found[name] = _READERS[name](value)
    for name, given in (("state", state), ("queue", queue)):
        if given is not None and found.setdefault(name, given) != given:
            raise SearchError(f"{name}:{found[name]} is in the search, but the list is of {name} {given}.")
    return JobFilter(**found, text=" ".join(_quoted(word) for word in texts) or None)


def to_text(wanted: JobFilter, *, without: tuple[str, ...] = ()) -> str:
    """A filter as a user would type it. `parse` returns the same filter, without `group` and `ended_by`."""
    values = asdict(replace(wanted, **dict.fromkeys(without)))
    if values["since"] is not None:
        values["since"] = clock.to_iso(values["since"])
    parts = [f"{name}:{_quoted(str(values[name]))}" for name in NAMES if values[name] is not None]
    return " ".join([*parts, *(_quoted(word) for word in words(values["text"] or ""))])


def without(text: str, *names: str) -> str:
    """A valid search without some of its qualifiers, otherwise as typed."""
    kept = [
        f"{name}:{_quoted(value)}" if name else _quoted(value) for name, value in _tokens(text) if name not in names
    ]
    return " ".join(kept)


# --- words -----------------------------------------------------------------------------------------------------------


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """(qualifier, value), or ('', word)."""
    for match in _TOKEN.finditer(text):  # without gaps: it matches at each position
        typed, raw = match[1] or "", match[2]
        if raw == '"':
            rest = text[match.start(2) : match.start(2) + 40]
            raise SearchError(f'the quote before {rest[1:]!r} is not closed. A quote inside a phrase is written \\".')
        quoted = raw.startswith('"')
        value = unescaped(raw[1:-1]) if quoted else raw
        name = typed.lower()
        if typed and name not in NAMES and not value:
            yield "", f"{typed}:"
        elif typed:
            yield _known(typed, match[0].strip()), _given(name, value)
        elif value:
            yield "", value


def _known(typed: str, whole: str) -> str:
    if typed.lower() in NAMES:
        return typed.lower()
    near = difflib.get_close_matches(typed.lower(), NAMES, n=1, cutoff=0.7)
    hint = f" Did you mean {near[0]}:?" if near else ""
    names = ", ".join(f"{name}:" for name in NAMES)
    raise SearchError(
        f"unknown search term {typed[:40]}:.{hint} Known terms: {names}. "
        f'To search for it as text, quote it: "{whole[:60]}".'
    )


def _given(name: str, value: str) -> str:
    if not value:
        example = next(example for known, example, _ in QUALIFIERS if known == name)
        raise SearchError(f"{name}: needs a value, without a space before it, such as {example}.")
    return value


def _quoted(word: str) -> str:
    """A word as typed text: quoted if it has a space or looks like a qualifier."""
    if not re.search(r"\s", word) and not re.match(r'"|[A-Za-z]{2,}:(?!//)', word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- values ----------------------------------------------------------------------------------------------------------


def _state(value: str) -> str:
    if value.lower() not in STATES:
        raise SearchError(f"state:{value[:40]} is not a state. Expected one of {', '.join(STATES)}.")
    return value.lower()


def _name(kind: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if not NAME.match(value) and (kind, value) != ("queue", SYSTEM_QUEUE):
            raise SearchError(f"{kind}:{value[:40]} is not a valid name; expected {NAME_RULE}.")
        return value

    return read


def _exit(value: str) -> int:
    if not re.fullmatch(r"-?\d{1,10}", value, re.ASCII) or int(value) not in EXIT_CODES:
        raise SearchError(f"exit:{value[:40]} is not an exit code. Expected a whole number, such as exit:127.")
    return int(value)


def _by(value: str) -> str:
    """A bare name is a user's."""
    return value if ":" in value else f"person:{value}"


def _since(value: str) -> int:
    if value.isdecimal():  # more likely a year than seconds
        raise SearchError(f"since: {value[:40]} has no unit; {durations.SINCE_RULE}.")
    try:
        return durations.parse_since(value)
    except ValueError as error:
        raise SearchError(f"since: {error}") from None


_READERS: dict[str, Callable[[str], Any]] = {
    "state": _state,
    "queue": _name("queue"),
    "exit": _exit,
    "worker": str,
    "since": _since,
    "by": _by,
    "id": _name("id"),
    "schedule": _name("schedule"),
    "notified": _name("notified"),
    "requires": lambda value: labels.tidy(_name("requires")(value)),
}
