"""The search language: `state:dead queue:mail -exit:127 since:2h text`, parsed into a `JobFilter` and back.

A word that starts with letters and a colon is a qualifier; everything else is text. A `-` in front excludes what the
term finds. Quotes make a phrase, or turn a qualifier or an excluded word into text. The console's search box, `list
--search` and the API's `q` use it; completion is in `console/display/suggestions.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timezone, tzinfo
from typing import Any, Callable, NamedTuple, Optional

from webapp.core import labels
from webapp.core.flow import limits
from webapp.core.job_spec import NAME, NAME_RULE
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.states import STATES
from webapp.jobs.filters import FilterError, JobFilter, unescaped, words
from webapp.lib import clock, past_times
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
    ("error", 'error:"no space"', "the last attempt's error has this text"),
    (
        "failed-attempt",
        "failed-attempt:timeout",
        "an attempt failed in this way, even if a later one succeeded; any: in any way",
    ),
    ("since", "since:2h", "changed in the last 30m, 2h, 7d, or since a date"),
    ("until", "until:2026-11-24", "changed up to this day, or before a time"),
    ("on", "on:yesterday", "changed on this day: today, monday, 2026-11-24, or on days: 2026-11-24/2026-11-26"),
    ("by", "by:ana", "submitted by this user, or by:token:deploy"),
    ("id", "id:job1", "the job with this id"),
    ("requires", "requires:gpu", "jobs that need a worker with this label"),
    ("limit", "limit:db", "jobs with this limit key, or with a pattern: limit:customer-*"),
    ("schedule", "schedule:nightly", "jobs that this schedule submitted"),
    ("batch", "batch:nightly", "jobs of this batch"),
    ("after", "after:job1", "jobs that depend on this job"),
    ("notified", "notified:ops", "a message about the job was sent to this channel"),
    ("unique", "unique:report-7", "jobs that hold or held this unique key"),
)
NAMES = tuple(name for name, _, _ in QUALIFIERS)

_QUALIFIER = r"(?:[A-Za-z]{2,}|failed-attempt):(?!//)"
_TOKEN = re.compile(
    rf'\s*(-(?=[^-\s]))?(?:({_QUALIFIER}))?("(?:[^"\\]|\\.)*"(?=\s|\Z)|"|\S*)', re.DOTALL | re.IGNORECASE
)
_NEEDS_QUOTES = re.compile(rf'"|-[^-\s]|{_QUALIFIER}', re.IGNORECASE)


class Token(NamedTuple):
    """A term as typed: `name` is its qualifier, '' for a word."""

    excluded: bool
    name: str
    value: str


class SearchError(FilterError):
    """An invalid search; the message names the word and what was expected."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "q")


def parse(
    text: str, *, state: Optional[str] = None, queue: Optional[str] = None, zone: Optional[tzinfo] = timezone.utc
) -> JobFilter:
    """Parse a search. `state` and `queue` narrow the list further. A duration counts from now. Raises SearchError.

    Days and times without a zone are in `zone`; None: the machine's.
    """
    if len(text) > MAX_LENGTH:
        raise SearchError(f"a search has at most {MAX_LENGTH} characters; this one has {len(text):,}.")
    if not can_be_stored(text):
        raise SearchError("the search contains an invalid character.")
    found: dict[str, Any] = {}
    texts: list[str] = []
    excluded: list[JobFilter] = []
    for token in tokens(text):
        if token.excluded:
            one = JobFilter(**_value(token, zone)) if token.name else _of_words([token.value])
            if one not in excluded:
                excluded.append(one)
        elif not token.name:
            texts.append(token.value)
        else:
            _add(found, token.name, _value(token, zone))
    for name, given in (("state", state), ("queue", queue)):
        if given is not None and found.setdefault(name, given) != given:
            raise SearchError(f"{name}:{found[name]} is in the search, but the list shows {name} {given}.")
    return replace(_of_words(texts), excluded=tuple(excluded), **found)


def _add(found: dict[str, Any], name: str, values: dict[str, Any]) -> None:
    if name == "on" and values.keys() & found.keys():
        raise SearchError("on: cannot be combined with since: or until:. Remove them.")
    if values.keys() & found.keys():
        raise SearchError(f"{name}: is given twice. Give it once.")
    found.update(values)


def _of_words(texts: list[str]) -> JobFilter:
    return JobFilter(text=" ".join(map(_quoted, texts)), output=True) if texts else JobFilter()


def to_text(wanted: JobFilter, *, without: tuple[str, ...] = ()) -> str:
    """A filter as a user would type it. `parse` returns the same filter, without `group` and `ended_by`."""
    values = {**asdict(wanted), **dict.fromkeys(without)}
    for name in ("since", "until"):
        values[name] = clock.to_iso(values[name])
    if values["since"] and values["until"]:  # one term, because it may be excluded
        values.update(on=f"{values['since']}/{values['until']}", since=None, until=None)
    parts = [
        f"{name}:{_quoted(str(value))}" for name in NAMES if (value := values.get(name.replace("-", "_"))) is not None
    ]
    texts = [_quoted(word) for word in words(values["text"] or "")]
    return " ".join([*parts, *texts, *(f"-{to_text(other)}" for other in wanted.excluded)])


def without(text: str, *names: str) -> str:
    """A valid search without some of its qualifiers, otherwise as typed."""
    kept = [
        "-" * token.excluded + (f"{token.name}:" if token.name else "") + _quoted(token.value)
        for token in tokens(text)
        if token.excluded or token.name not in names
    ]
    return " ".join(kept)


# --- words -----------------------------------------------------------------------------------------------------------


def tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):  # without gaps: it matches at each position
        excluded, typed, raw = bool(match[1]), (match[2] or "")[:-1], match[3]
        if raw == '"':
            rest = text[match.start(3) : match.start(3) + 40]
            raise SearchError(f'the quote before {rest[1:]!r} is not closed. A quote inside a phrase is written \\".')
        quoted = raw.startswith('"')
        value = unescaped(raw[1:-1]) if quoted else raw
        name = typed.lower()
        if typed and name not in NAMES and not value:
            yield Token(excluded, "", f"{typed}:")
        elif typed:
            yield Token(excluded, _known(typed, match[0].strip()), _given(name, value))
        elif value:
            yield Token(excluded, "", value)


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
    """A word as typed text: quoted if it has a space or looks like a qualifier or an excluded word."""
    if not re.search(r"\s", word) and not _NEEDS_QUOTES.match(word):
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


def _times(name: str, value: str, zone: Optional[tzinfo]) -> dict[str, int]:
    if value.isdecimal():  # more likely a year than seconds
        raise SearchError(f"{name}: {value[:40]} has no unit; {past_times.rule(zone)}.")
    try:
        if name == "on":
            first, both, last = value.partition("/")
            days = (past_times.since(first, zone), past_times.until(last, zone)) if both else None
            return dict(zip(("since", "until"), days or past_times.day(value, zone)))
        return {name: past_times.since(value, zone) if name == "since" else past_times.until(value, zone)}
    except ValueError as error:
        raise SearchError(f"{name}: {error}") from None


def _limit(value: str) -> str:
    try:
        return limits.check_key(value)
    except ValueError as error:
        raise SearchError(f"limit: {error}") from None


_READERS: dict[str, Callable[[str], Any]] = {
    "state": _state,
    "queue": _name("queue"),
    "exit": _exit,
    "worker": str,
    "error": str,
    "failed-attempt": str,
    "by": _by,
    "id": _name("id"),
    "schedule": _name("schedule"),
    "batch": _name("batch"),
    "after": _name("after"),
    "notified": _name("notified"),
    "limit": _limit,
    "unique": str,
    "requires": lambda value: labels.tidy(_name("requires")(value)),
}


def _value(token: Token, zone: Optional[tzinfo]) -> dict[str, Any]:
    """The fields of a JobFilter that a qualifier sets."""
    if token.name in ("since", "until", "on"):
        return dict(_times(token.name, token.value, zone))
    return {token.name.replace("-", "_"): _READERS[token.name](token.value)}
